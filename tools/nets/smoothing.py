"""Label smoothing of softmax losses (Szegedy et al. 2016, Sec. 7), with Caffe's own layers.

The target of a sample of class y among C becomes (1 - E) [c = y] + E / C. The cross-entropy is
linear in its target, so that it is the sum of two losses of the same scores:

    (1 - E) SoftmaxWithLoss(scores, y)  +  E InfogainLoss(scores, y, H),  H = 1/C everywhere

which is InfogainLoss with (1 - E) I + E / C. A DummyData layer holds H, so that the net needs no
further file, and the first loss is printed as in any other training. In tests nothing is smoothed.
"""

from tools.pycaffe import TEST, TRAIN, caffe_pb2


def smoothing(name):
    """Name of the second loss of a softmax loss of this name."""
    return f"{name}_smoothing"


def _matrix(name):
    """Name of the blob H of a softmax loss of this name."""
    return f"{name}_uniform"


def _in_phase(rules, phase):
    """The NetStateRules, of which any one has to be met, limited to a phase."""
    limited = []
    for rule in rules or [caffe_pb2.NetStateRule()]:
        if rule.HasField("phase") and rule.phase != phase:
            continue
        limited.append(caffe_pb2.NetStateRule())
        limited[-1].CopyFrom(rule)
        limited[-1].phase = phase
    return limited


def _weighted(layer, rules, weight):
    """A copy of a loss layer with other rules and another weight."""
    copied = caffe_pb2.LayerParameter()
    copied.CopyFrom(layer)
    weights = [weight, *(list(layer.loss_weight[1:]) or [0] * (len(layer.top) - 1))]
    for field, values in (("include", rules), ("loss_weight", weights)):
        copied.ClearField(field)
        getattr(copied, field).extend(values)
    return copied


def _copy_options(layer, second):
    """Give an InfogainLoss the axis and normalization of a SoftmaxWithLoss, as that reads them."""
    if layer.softmax_param.HasField("axis"):
        second.infogain_loss_param.axis = layer.softmax_param.axis
    if layer.HasField("loss_param"):
        param = second.loss_param
        param.CopyFrom(layer.loss_param)
        if param.HasField("normalize"):  # deprecated: InfogainLoss refuses it
            if not param.HasField("normalization"):
                param.normalization = param.VALID if param.normalize else param.BATCH_SIZE
            param.ClearField("normalize")


def _smoothed(layer, weight, rules, share, classes):
    """The layers that take a SoftmaxWithLoss's place in training. Arguments: as `smooth`."""
    uniform = caffe_pb2.LayerParameter(
        name=_matrix(layer.name),
        type="DummyData",
        top=[_matrix(layer.top[0])],
        include=rules,
        dummy_data_param=dict(
            shape=[dict(dim=[1, 1, classes, classes])],
            data_filler=[dict(type="constant", value=1 / classes)],
        ),
    )
    second = caffe_pb2.LayerParameter(
        name=smoothing(layer.name),
        type="InfogainLoss",
        bottom=[*layer.bottom, uniform.top[0]],
        top=[smoothing(layer.top[0])],
        include=rules,
        loss_weight=[share * weight],
    )
    _copy_options(layer, second)
    return [_weighted(layer, rules, (1 - share) * weight), uniform, second]


def smooth(proto, share, classes):
    """Smooth the labels of every SoftmaxWithLoss of a NetParameter that has a weight in training.

    share    E, 0 to 1
    classes  {blob of labels: number of its classes, C}
    """
    layers = []
    for layer in proto.layer:
        weight = layer.loss_weight[0] if layer.loss_weight else 1.0
        trained = _in_phase(layer.include, TRAIN)
        if layer.type != "SoftmaxWithLoss" or not weight or not trained:
            layers.append(layer)
            continue
        layers += _smoothed(layer, weight, trained, share, classes[layer.bottom[1]])
        if tested := _in_phase(layer.include, TEST):
            layers.append(_weighted(layer, tested, weight))
    kept = caffe_pb2.NetParameter(layer=layers)
    del proto.layer[:]
    proto.layer.extend(kept.layer)
