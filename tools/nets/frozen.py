"""Keeps a backbone's weights as they are, so that only the layers of the head learn."""

FIXED = dict(lr_mult=0, decay_mult=0)


def _weights(layer):
    """Number of weight blobs of a LayerParameter."""
    bias = {
        "Convolution": lambda: layer.convolution_param.bias_term,
        "Deconvolution": lambda: layer.convolution_param.bias_term,
        "InnerProduct": lambda: layer.inner_product_param.bias_term,
        "Scale": lambda: layer.scale_param.bias_term and len(layer.bottom) < 2,
        "Bias": lambda: False,
        "PReLU": lambda: False,
    }
    if layer.type in bias and not (layer.type in ("Scale", "Bias") and len(layer.bottom) > 1):
        return 1 + bool(bias[layer.type]())
    return len(layer.param)


def freeze(layers, new):
    """Set the learning rate of all weights in LayerParameters to 0.

    new: lr_mult of weights that start random: layers that have it keep learning.
    """
    for layer in layers:
        if layer.param and layer.param[0].lr_mult == new:
            continue
        names = [param.name for param in layer.param]  # of weights that layers share
        count = _weights(layer)
        del layer.param[:]
        for number in range(count):
            param = layer.param.add(**FIXED)
            if number < len(names) and names[number]:
                param.name = names[number]
