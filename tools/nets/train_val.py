"""One net file per (data set, network): data, backbone, and the head of every variant."""

from tools.pycaffe import TEST, TRAIN, caffe_pb2

from . import head


def _add_data(proto, dataset, net, phase, split, batch, rule):
    """Two Data layers in step: data B x 3 x crop x crop, label B x h x 1 x 1."""
    mirror = dict(mirror=True) if phase == TRAIN and dataset.mirror else {}
    transform = dict(crop_size=dataset.crop, **net.transform, **mirror)
    for top, kind, more in (
        ("data", "images", dict(transform_param=transform)),
        ("label", "labels", {}),
    ):
        proto.layer.add(
            name=top,
            type="Data",
            top=[top],
            include=[dict(phase=phase, **rule)],
            data_param=dict(
                source=f"{dataset.folder}/{split}_{kind}",
                batch_size=batch,
                backend=caffe_pb2.DataParameter.LMDB,
            ),
            **more,
        )


def _rule(settings, chosen):
    """Stages that choose one setting of several."""
    others = {stage for setting in settings for stage in setting.stages} - set(chosen.stages)
    return {
        key: value
        for key, value in (("stage", list(chosen.stages)), ("not_stage", sorted(others)))
        if value
    }


def train_val(settings, net, train_batch, test_batch, glm, diagnostics=False):
    """NetParameter of a data set with a network, for all variants.

    settings: the data set in each setting, as Dataset.for_net gives it. glm: parameters of the
    large-margin loss. diagnostics: whether the metric losses print theirs.
    """
    dataset = settings[0]
    proto = caffe_pb2.NetParameter(name=f"{dataset.name}_{net.name}")
    for phase, split, batch in ((TRAIN, "train", train_batch), (TEST, "test", test_batch)):
        for setting in settings:
            _add_data(proto, setting, net, phase, split, batch, _rule(settings, setting))
    head.add_slice(proto, dataset.depth or len(dataset.sizes), dataset.labels)
    proto.layer.extend(net.layers(dataset.sizes[0], dataset.crop))
    head.add_head(
        proto,
        net.feature,
        net.dropped,
        dataset.sizes,
        net.filler,
        glm,
        net.pooled,
        labels=dataset.labels,
        fine_param=net.fine_param,
        diagnostics=diagnostics,
    )
    return proto
