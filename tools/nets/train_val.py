"""One net file per (data set, network): data, backbone, and the head of every variant."""

from tools.pycaffe import TEST, TRAIN, caffe_pb2

from . import head
from .backbones import NEW
from .frozen import freeze
from .smoothing import smooth


def _add_data(proto, dataset, setting, net, phase, split, batch, rule):
    """Two Data layers in step: data B x 3 x crop x crop, label B x h x 1 x 1."""
    mirror = dict(mirror=True) if phase == TRAIN and dataset.mirror else {}
    transform = dict(transform_param=dict(crop_size=setting.crop, **net.transform, **mirror))
    for top, kind, more in (
        ("data", "images", {} if net.reads_features else transform),
        ("label", "labels", {}),
    ):
        proto.layer.add(
            name=top,
            type="Data",
            top=[top],
            include=[dict(phase=phase, **rule)],
            data_param=dict(
                source=f"{setting.folder}/{split}_{kind}",
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


def train_val(
    name,
    dataset,
    net,
    run,
    losses,
    *,
    diagnostics=False,
    skip_input=head.SCORES,
    frozen=False,
    divided=True,
    tables_of=(),
    label_smoothing=0.0,
):
    """NetParameter of a data.Dataset in every setting with a tables.Net, for all variants.

    name: of the net. run: solver.Run. losses: {name: losses.NetLoss}. diagnostics: whether the
    metric losses print theirs. skip_input: as head.add_head. frozen: whether only the head learns.
    divided: whether it has the stage fgon. tables_of: as head.add_head. label_smoothing: share of
    the softmax losses' targets that all classes have in equal parts.
    """
    settings = dataset.settings(net)
    proto = caffe_pb2.NetParameter(name=name)
    for phase, split, batch in (
        (TRAIN, "train", run.batch),
        (TEST, dataset.test_split, run.test_batch),
    ):
        for setting in settings:
            rule = _rule(settings, setting)
            _add_data(proto, dataset, setting, net, phase, split, batch, rule)
    head.add_slice(proto, len(dataset.tree), dataset.numbers)
    before = len(proto.layer)
    proto.layer.extend(net.layers(dataset.sizes[0], settings[0].crop))
    if frozen:
        freeze(proto.layer[before:], NEW[0]["lr_mult"])
    head.add_head(
        proto,
        net.feature,
        net.dropped,
        dataset.sizes,
        net.filler,
        losses,
        net.pooled,
        labels=dataset.numbers,
        fine_param=net.fine_param,
        diagnostics=diagnostics,
        skip_input=skip_input,
        width=net.width if divided else None,
        tables_of=tables_of,
        hierarchies=[(_rule(settings, setting), setting.hierarchy) for setting in settings],
    )
    if label_smoothing:
        classes = {head.label(n): level.classes for n, level in enumerate(dataset.tree, 1)}
        smooth(proto, label_smoothing, classes)
    return proto
