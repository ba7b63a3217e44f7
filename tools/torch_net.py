"""Runs a Caffe net in PyTorch: the same layers with the same weights, from the same prototxt.

Images per second then compare two engines, not two networks. Unsupported layers are refused by
name. A net of the training phase has the dropout and the losses of training.
"""

from data_prep.common.errors import UserError


class TorchNet:
    """The net of a NetParameter whose stages have been applied.

    weights: {layer: [arrays]}, as pycaffe's net.params hold them; device: torch's.
    train: the phase.
    Calling it with data and label, the nets' two inputs, gives the sum of the losses.

    A ReLU that is in place in Caffe is so here, and BatchNorm with the Scale after it is one
    operation, as in a model written for PyTorch.
    """

    def __init__(self, proto, weights, device, train=True):
        layers = [layer for layer in proto.layer if layer.type not in ("Input", "Silence")]
        unknown = sorted({layer.type for layer in layers} - set(LAYERS))
        if unknown:
            raise UserError(
                f"net {proto.name} has layers that have no counterpart in PyTorch here: "
                + ", ".join(unknown)
            )
        import torch

        self._train = train
        self._layers, self._scales = _with_merged_scales(layers)
        statistics = {layer.name for layer in layers if layer.type == "BatchNorm"}
        self.parameters = {
            name: [torch.tensor(array, device=device, requires_grad=True) for array in arrays]
            for name, arrays in weights.items()
            if name not in statistics
        }
        self._statistics = {}
        for name in statistics:
            mean, variance, factor = weights[name]
            self._statistics[name] = [
                torch.tensor(array / (factor.item() or 1), device=device)
                for array in (mean, variance)
            ]

    def to(self, memory_format):
        """Store the filters, C x D x h x w, in this memory format."""
        for arrays in self.parameters.values():
            for tensor in arrays:
                if tensor.ndim == 4:
                    tensor.data = tensor.data.contiguous(memory_format=memory_format)
        return self

    def __call__(self, data, label):
        blobs = self._blobs({"data": data, "label": label})
        return sum(
            blobs[layer.top[0]] * (layer.loss_weight[0] if layer.loss_weight else 1)
            for layer in self._layers
            if layer.type == "SoftmaxWithLoss"
        )

    def scores(self, data):
        """The last layer's output."""
        return self._blobs({"data": data})[self._layers[-1].top[0]]

    def _blobs(self, blobs):
        """{blob: tensor} of all blobs, given those of the inputs."""
        for layer in self._layers:
            weights = self._statistics.get(layer.name, []) + self.parameters.get(
                self._scales.get(layer.name, layer.name), []
            )
            bottoms = [blobs[name] for name in layer.bottom]
            tops = LAYERS[layer.type](layer, bottoms, weights, self._train)
            blobs.update(zip(layer.top, tops if isinstance(tops, (list, tuple)) else [tops]))
        return blobs


def _with_merged_scales(layers):
    """(layers, {BatchNorm: Scale}): Scale layers in place on a BatchNorm's top are left out.

    The dict has names.
    """
    kept, scales = [], {}
    for layer in layers:
        if (
            layer.type == "Scale"
            and kept[-1].type == "BatchNorm"
            and list(layer.bottom) == list(layer.top) == list(kept[-1].top)
            and (layer.scale_param.axis, layer.scale_param.num_axes) == (1, 1)
        ):
            scales[kept[-1].name] = layer.name
        else:
            kept.append(layer)
    return kept, scales


def _convolution(layer, bottoms, weights, train):
    import torch.nn.functional as F

    p = layer.convolution_param
    return F.conv2d(
        bottoms[0],
        *weights,
        stride=p.stride[0] if p.stride else 1,
        padding=p.pad[0] if p.pad else 0,
        groups=p.group,
        dilation=p.dilation[0] if p.dilation else 1,
    )


def _pooling(layer, bottoms, weights, train):
    import torch.nn.functional as F

    p = layer.pooling_param
    size = bottoms[0].shape[-1] if p.global_pooling else p.kernel_size
    pool = F.max_pool2d if p.pool == p.MAX else F.avg_pool2d
    return pool(bottoms[0], size, stride=p.stride, padding=p.pad, ceil_mode=True)


def _relu(layer, bottoms, weights, train):
    import torch.nn.functional as F

    in_place = layer.top[0] == layer.bottom[0]
    if slope := layer.relu_param.negative_slope:
        return F.leaky_relu(bottoms[0], slope, in_place)
    return F.relu(bottoms[0], in_place)


def _batch_norm(layer, bottoms, weights, train):
    import torch.nn.functional as F

    p = layer.batch_norm_param
    stored = p.use_global_stats if p.HasField("use_global_stats") else not train
    mean, variance, *affine = weights
    return F.batch_norm(
        bottoms[0],
        mean,
        variance,
        *affine,
        training=not stored,
        momentum=1 - p.moving_average_fraction,
        eps=p.eps,
    )


def _scale(layer, bottoms, weights, train):
    p = layer.scale_param
    if len(bottoms) > 1 or (p.axis, p.num_axes) != (1, 1):
        raise UserError(f"layer {layer.name} scales other than per channel: no counterpart here")
    factor, *bias = (array.reshape(-1, *(bottoms[0].ndim - 2) * [1]) for array in weights)
    return bottoms[0] * factor + bias[0] if bias else bottoms[0] * factor


def _eltwise(layer, bottoms, weights, train):
    p = layer.eltwise_param
    if p.operation != p.SUM or any(factor != 1 for factor in p.coeff):
        raise UserError(f"layer {layer.name} is no plain sum, and has no counterpart here")
    total = bottoms[0] + bottoms[1]
    for bottom in bottoms[2:]:
        total += bottom
    return total


def _lrn(layer, bottoms, weights, train):
    import torch.nn.functional as F

    p = layer.lrn_param
    if p.norm_region != p.ACROSS_CHANNELS:
        raise UserError(
            f"layer {layer.name} normalizes within channels, which has no counterpart here"
        )
    return F.local_response_norm(bottoms[0], p.local_size, p.alpha, p.beta, p.k)


def _inner_product(layer, bottoms, weights, train):
    import torch.nn.functional as F

    return F.linear(bottoms[0].flatten(1), *weights)


def _dropout(layer, bottoms, weights, train):
    import torch.nn.functional as F

    return F.dropout(bottoms[0], layer.dropout_param.dropout_ratio, train)


def _concat(layer, bottoms, weights, train):
    import torch

    return torch.cat(bottoms, layer.concat_param.axis)


def _softmax_loss(layer, bottoms, weights, train):
    import torch.nn.functional as F

    scores, labels = bottoms  # n x C [x h x w], and as many labels as positions
    return F.cross_entropy(scores, labels.long().reshape(scores.shape[0], *scores.shape[2:]))


# type: function of (LayerParameter, bottoms, weights, train) -> top or tops
LAYERS = {
    "Convolution": _convolution,
    "ReLU": _relu,
    "Pooling": _pooling,
    "LRN": _lrn,
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "Eltwise": _eltwise,
    "InnerProduct": _inner_product,
    "Dropout": _dropout,
    "Concat": _concat,
    "Flatten": lambda layer, bottoms, weights, train: bottoms[0].flatten(1),
    "Slice": lambda layer, bottoms, weights, train: bottoms[0].split(1, layer.slice_param.axis),
    "SoftmaxWithLoss": _softmax_loss,
}
