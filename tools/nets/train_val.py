"""One net file per (data set, network): data, backbone, and the head of every variant."""

from caffe import NetSpec, TEST, TRAIN, layers as L
from caffe.proto import caffe_pb2

from data_prep.color import IMAGENET_BGR_MEAN

from . import head


def _add_data(net, dataset, phase, split, crop, batch):
    """Two Data layers in step: data B x 3 x crop x crop, label B x h x 1 x 1."""
    mirror = dict(mirror=True) if phase == TRAIN and dataset.mirror else {}
    transform = dict(crop_size=crop, mean_value=IMAGENET_BGR_MEAN, **mirror)
    for top, kind, more in (("data", "images", dict(transform_param=transform)),
                            ("label", "labels", {})):
        net.layer.add(name=top, type="Data", top=[top], include=[dict(phase=phase)], **more,
                      data_param=dict(source=f"{dataset.folder}/{split}_{kind}", batch_size=batch,
                                      backend=caffe_pb2.DataParameter.LMDB))


def _backbone(net, classes, crop):
    """Layers of the backbone, without the inputs that its column reads."""
    spec = NetSpec()
    spec.data = L.Input(shape=dict(dim=[1, 3, crop, crop]))
    spec.label_1 = L.Input(shape=dict(dim=[1, 1, 1, 1]))
    net.column(spec, classes)
    return [layer for layer in spec.to_proto().layer if layer.type != "Input"]


def train_val(dataset, net, train_batch, test_batch, glm):
    """NetParameter of a data set, as Dataset.for_net gives it, with a network, for all variants.

    glm: parameters of the large-margin loss.
    """
    crop = dataset.crop or net.crop
    proto = caffe_pb2.NetParameter(name=f"{dataset.name}_{net.name}")
    _add_data(proto, dataset, TRAIN, "train", crop, train_batch)
    _add_data(proto, dataset, TEST, "test", crop, test_batch)
    head.add_slice(proto, len(dataset.sizes))
    proto.layer.extend(_backbone(net, dataset.sizes[0], crop))
    head.add_head(proto, net.feature, net.dropped, dataset.sizes, net.filler, glm, net.pooled)
    return proto
