"""Runs a Caffe net in PyTorch: the same layers with the same weights, from the same prototxt.

Images per second then compare two engines, not two networks. Unsupported layers are refused by
name. Dropout and losses are those of training.
"""

from data_prep.common.errors import UserError


class TorchNet:
    """The net of a NetParameter whose stages have been applied.

    weights: {layer: [arrays]}, as pycaffe's net.params hold them; device: torch's.
    Calling it with data and label, the nets' two inputs, gives the sum of the losses.
    """

    def __init__(self, proto, weights, device):
        self._layers = [layer for layer in proto.layer if layer.type not in ("Input", "Silence")]
        unknown = sorted({layer.type for layer in self._layers} - set(LAYERS))
        if unknown:
            raise UserError(
                f"net {proto.name} has layers that have no counterpart in PyTorch here: "
                + ", ".join(unknown)
            )
        import torch

        self.parameters = {
            name: [torch.tensor(array, device=device, requires_grad=True) for array in arrays]
            for name, arrays in weights.items()
        }

    def __call__(self, data, label):
        blobs, losses = {"data": data, "label": label}, []
        for layer in self._layers:
            bottoms = [blobs[name] for name in layer.bottom]
            tops = LAYERS[layer.type](layer, bottoms, self.parameters.get(layer.name))
            if layer.type == "SoftmaxWithLoss":
                losses.append(tops * (layer.loss_weight[0] if layer.loss_weight else 1))
            blobs.update(zip(layer.top, tops if isinstance(tops, (list, tuple)) else [tops]))
        return sum(losses)


def _convolution(layer, bottoms, weights):
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


def _pooling(layer, bottoms, weights):
    import torch.nn.functional as F

    p = layer.pooling_param
    size = bottoms[0].shape[-1] if p.global_pooling else p.kernel_size
    pool = F.max_pool2d if p.pool == p.MAX else F.avg_pool2d
    return pool(bottoms[0], size, stride=p.stride, padding=p.pad, ceil_mode=True)


def _lrn(layer, bottoms, weights):
    import torch.nn.functional as F

    p = layer.lrn_param
    if p.norm_region != p.ACROSS_CHANNELS:
        raise UserError(
            f"layer {layer.name} normalizes within channels, which has no counterpart here"
        )
    return F.local_response_norm(bottoms[0], p.local_size, p.alpha, p.beta, p.k)


def _inner_product(layer, bottoms, weights):
    import torch.nn.functional as F

    return F.linear(bottoms[0].flatten(1), *weights)


def _dropout(layer, bottoms, weights):
    import torch.nn.functional as F

    return F.dropout(bottoms[0], layer.dropout_param.dropout_ratio)


def _concat(layer, bottoms, weights):
    import torch

    return torch.cat(bottoms, layer.concat_param.axis)


def _softmax_loss(layer, bottoms, weights):
    import torch.nn.functional as F

    return F.cross_entropy(bottoms[0], bottoms[1].flatten().long())


# type: function of (LayerParameter, bottoms, weights) -> top or tops
LAYERS = {
    "Convolution": _convolution,
    "ReLU": lambda layer, bottoms, weights: bottoms[0].relu(),
    "Pooling": _pooling,
    "LRN": _lrn,
    "InnerProduct": _inner_product,
    "Dropout": _dropout,
    "Concat": _concat,
    "Flatten": lambda layer, bottoms, weights: bottoms[0].flatten(1),
    "Slice": lambda layer, bottoms, weights: bottoms[0].split(1, layer.slice_param.axis),
    "SoftmaxWithLoss": _softmax_loss,
}
