"""The model zoo's networks up to their feature layer, one function each.

Names, shapes, fillers, LRN, groups and learning-rate multipliers are the originals', so that
ImageNet weights load by name. A function reads n.data (B x 3 x side x side) and, for auxiliary
classifiers, n.label_1 (B x 1 x 1 x 1, fine class); GoogLeNet's average pools depend on the side. It
ends with the feature (after ReLU, the input
of the large-margin loss) and, if the original has dropout, with dropout into a separate blob, so
that the feature itself is unchanged.
"""

from tools.pycaffe import TRAIN, layers as L, params as P

AS_TRAINED = [dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)]  # weights, biases
SUMMED = [dict(lr_mult=0.5, decay_mult=2), dict(lr_mult=1, decay_mult=0)]  # two layers in one
NEW = [dict(lr_mult=10, decay_mult=1), dict(lr_mult=20, decay_mult=0)]  # starts random
# starts random and reads only features of length 1, whose gradient is smaller by this factor
OF_UNIT_LENGTH = [dict(lr_mult=1000, decay_mult=0.01), dict(lr_mult=1000, decay_mult=0)]

XAVIER = dict(type="xavier")


def gaussian(std):
    """Weight filler: normal numbers of the given standard deviation."""
    return dict(type="gaussian", std=std)


def constant(value):
    """Bias filler."""
    return dict(type="constant", value=value)


def _convolution(bottom, outputs, size, weights, bias, param=AS_TRAINED, **more):
    return L.Convolution(
        bottom,
        num_output=outputs,
        kernel_size=size,
        param=param,
        weight_filler=weights,
        bias_filler=constant(bias),
        **more,
    )


def _inner_product(bottom, outputs, weights, bias, param=AS_TRAINED, **more):
    return L.InnerProduct(
        bottom,
        num_output=outputs,
        param=param,
        weight_filler=weights,
        bias_filler=constant(bias),
        **more,
    )


def _relu(bottom, **more):
    return L.ReLU(bottom, in_place=True, **more)


def _max_pool(bottom, size=3, stride=2, **more):
    return L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=size, stride=stride, **more)


def _norm(bottom):
    return L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)


def alexnet(n, classes, side):
    """BVLC AlexNet (not CaffeNet, which pools before it normalizes). Feature 4096."""
    n.conv1 = _convolution(n.data, 96, 11, gaussian(0.01), 0, stride=4)
    n.relu1 = _relu(n.conv1)
    n.norm1 = _norm(n.relu1)
    n.pool1 = _max_pool(n.norm1)
    n.conv2 = _convolution(n.pool1, 256, 5, gaussian(0.01), 0.1, pad=2, group=2)
    n.relu2 = _relu(n.conv2)
    n.norm2 = _norm(n.relu2)
    n.pool2 = _max_pool(n.norm2)
    n.conv3 = _convolution(n.pool2, 384, 3, gaussian(0.01), 0, pad=1)
    n.relu3 = _relu(n.conv3)
    n.conv4 = _convolution(n.relu3, 384, 3, gaussian(0.01), 0.1, pad=1, group=2)
    n.relu4 = _relu(n.conv4)
    n.conv5 = _convolution(n.relu4, 256, 3, gaussian(0.01), 0.1, pad=1, group=2)
    n.relu5 = _relu(n.conv5)
    n.pool5 = _max_pool(n.relu5)
    n.fc6 = _inner_product(n.pool5, 4096, gaussian(0.005), 0.1)
    n.relu6 = _relu(n.fc6)
    n.drop6 = L.Dropout(n.relu6, dropout_ratio=0.5, in_place=True)
    n.fc7 = _inner_product(n.drop6, 4096, gaussian(0.005), 0.1)
    n.relu7 = _relu(n.fc7)
    n.drop7 = L.Dropout(n.relu7, dropout_ratio=0.5)


VGG16, VGG19 = (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)  # convolutions per block: configurations D, E
SECOND_STREAM = "second/"  # begins the names of the second network's layers


def _vgg_convolutions(n, blocks, stream="", param=AS_TRAINED):
    """VGG's convolutions, up to the last one after ReLU; returns that top.

    blocks: convolutions per block. stream: the beginning of the layers' names. param: ParamSpecs.
    """
    top = n.data
    for block, (layers, outputs) in enumerate(zip(blocks, (64, 128, 256, 512, 512)), 1):
        if block > 1:
            top = n[f"{stream}pool{block - 1}"] = _max_pool(top, 2, 2)
        for layer in range(1, layers + 1):
            convolution = _convolution(top, outputs, 3, XAVIER, 0, param, pad=1)
            n[f"{stream}conv{block}_{layer}"] = convolution
            top = n[f"{stream}relu{block}_{layer}"] = _relu(convolution)
    return top


def _vgg(n, blocks):
    """VGG with the model zoo's names. Feature 4096.

    The zoo's files have no fillers; these are what their authors advise after the fact (Simonyan &
    Zisserman 2015, 3.1: Glorot's). The ImageNet weights replace them.
    """
    n.pool5 = _max_pool(_vgg_convolutions(n, blocks), 2, 2)
    n.fc6 = _inner_product(n.pool5, 4096, XAVIER, 0)
    n.relu6 = _relu(n.fc6)
    n.drop6 = L.Dropout(n.relu6, dropout_ratio=0.5, in_place=True)
    n.fc7 = _inner_product(n.drop6, 4096, XAVIER, 0)
    n.relu7 = _relu(n.fc7)
    n.drop7 = L.Dropout(n.relu7, dropout_ratio=0.5)


def vgg16(n, classes, side):
    """VGG-16, configuration D (VGG_ILSVRC_16_layers). Feature 4096."""
    _vgg(n, VGG16)


def vgg19(n, classes, side):
    """VGG-19, configuration E (VGG_ILSVRC_19_layers). Feature 4096."""
    _vgg(n, VGG19)


def _bilinear(*maps):
    return L.Python(*maps, module="python_layers.bilinear_pooling", layer="BilinearPoolingLayer")


def bcnn(n, classes, side):
    """Bilinear CNN [D,D] (Lin et al. 2015), both networks one. Feature 262144, length 1.

    The gradient of its weights is the sum of those of two equal networks: at half the rate, and
    twice the decay, they move as each of the two would.
    """
    n.bilinear = _bilinear(_vgg_convolutions(n, VGG16, param=SUMMED))


def bcnn2(n, classes, side):
    """Bilinear CNN [D,D] of two networks, each with weights of its own. Feature 262144, length 1.

    The layers of the second begin with SECOND_STREAM; tools/two_streams.py writes their weights.
    """
    first = _vgg_convolutions(n, VGG16)
    n.bilinear = _bilinear(first, _vgg_convolutions(n, VGG16, SECOND_STREAM))


def _inception(n, name, bottom, one, reduce3, three, reduce5, five, pooled):
    """Four parallel branches, concatenated; the numbers are output channels."""

    def branch(kind, source, outputs, size):
        pad = dict(pad=size // 2) if size > 1 else {}
        n[f"{name}/{kind}"] = _convolution(source, outputs, size, XAVIER, 0.2, **pad)
        n[f"{name}/relu_{kind}"] = _relu(n[f"{name}/{kind}"])
        return n[f"{name}/relu_{kind}"]

    a = branch("1x1", bottom, one, 1)
    b = branch("3x3", branch("3x3_reduce", bottom, reduce3, 1), three, 3)
    c = branch("5x5", branch("5x5_reduce", bottom, reduce5, 1), five, 5)
    n[f"{name}/pool"] = _max_pool(bottom, 3, 1, pad=1)
    d = branch("pool_proj", n[f"{name}/pool"], pooled, 1)
    n[f"{name}/output"] = L.Concat(a, b, c, d)
    return n[f"{name}/output"]


def _auxiliary(n, name, bottom, classes, positions):
    """One of GoogLeNet's two auxiliary classifiers, for the fine classes, in training only.

    Its pool gives 4 x 4 of positions x positions, as many as its weights are for.
    """
    train = dict(include=dict(phase=TRAIN))
    stride = max(1, 3 * positions // 14)  # the original's: 3, with windows of 5
    n[f"{name}/ave_pool"] = L.Pooling(
        bottom, pool=P.Pooling.AVE, kernel_size=positions - 3 * stride, stride=stride, **train
    )
    n[f"{name}/conv"] = _convolution(n[f"{name}/ave_pool"], 128, 1, XAVIER, 0.2, **train)
    n[f"{name}/relu_conv"] = _relu(n[f"{name}/conv"], **train)
    n[f"{name}/fc"] = _inner_product(n[f"{name}/relu_conv"], 1024, XAVIER, 0.2, **train)
    n[f"{name}/relu_fc"] = _relu(n[f"{name}/fc"], **train)
    n[f"{name}/drop_fc"] = L.Dropout(
        n[f"{name}/relu_fc"], dropout_ratio=0.7, in_place=True, **train
    )
    n[f"{name}/classifier_fine"] = _inner_product(
        n[f"{name}/drop_fc"], classes, XAVIER, 0, NEW, **train
    )
    n[f"{name}/loss_fine"] = L.SoftmaxWithLoss(
        n[f"{name}/classifier_fine"], n.label_1, loss_weight=0.3, **train
    )


def googlenet(n, classes, side):
    """BVLC GoogLeNet. Feature 1024 x 1 x 1, the mean over all positions at any side."""
    positions = -(-side // 2) // 8  # of inception_4a to 4e, each way: 14 for 224
    n["conv1/7x7_s2"] = _convolution(n.data, 64, 7, XAVIER, 0.2, stride=2, pad=3)
    n["conv1/relu_7x7"] = _relu(n["conv1/7x7_s2"])
    n["pool1/3x3_s2"] = _max_pool(n["conv1/relu_7x7"])
    n["pool1/norm1"] = _norm(n["pool1/3x3_s2"])
    n["conv2/3x3_reduce"] = _convolution(n["pool1/norm1"], 64, 1, XAVIER, 0.2)
    n["conv2/relu_3x3_reduce"] = _relu(n["conv2/3x3_reduce"])
    n["conv2/3x3"] = _convolution(n["conv2/relu_3x3_reduce"], 192, 3, XAVIER, 0.2, pad=1)
    n["conv2/relu_3x3"] = _relu(n["conv2/3x3"])
    n["conv2/norm2"] = _norm(n["conv2/relu_3x3"])
    n["pool2/3x3_s2"] = _max_pool(n["conv2/norm2"])
    top = _inception(n, "inception_3a", n["pool2/3x3_s2"], 64, 96, 128, 16, 32, 32)
    top = _inception(n, "inception_3b", top, 128, 128, 192, 32, 96, 64)
    n["pool3/3x3_s2"] = _max_pool(top)
    top = _inception(n, "inception_4a", n["pool3/3x3_s2"], 192, 96, 208, 16, 48, 64)
    _auxiliary(n, "loss1", top, classes, positions)
    top = _inception(n, "inception_4b", top, 160, 112, 224, 24, 64, 64)
    top = _inception(n, "inception_4c", top, 128, 128, 256, 24, 64, 64)
    top = _inception(n, "inception_4d", top, 112, 144, 288, 32, 64, 64)
    _auxiliary(n, "loss2", top, classes, positions)
    top = _inception(n, "inception_4e", top, 256, 160, 320, 32, 128, 128)
    n["pool4/3x3_s2"] = _max_pool(top)
    top = _inception(n, "inception_5a", n["pool4/3x3_s2"], 256, 160, 320, 32, 128, 128)
    top = _inception(n, "inception_5b", top, 384, 192, 384, 48, 128, 128)
    whole = dict(kernel_size=7, stride=1) if side == 224 else dict(global_pooling=True)
    n["pool5/7x7_s1"] = L.Pooling(top, pool=P.Pooling.AVE, **whole)
    n["pool5/drop_7x7_s1"] = L.Dropout(n["pool5/7x7_s1"], dropout_ratio=0.4)


def embedding(n, classes, side):
    """An embedding of stored features, such as fc7 is in AlexNet, which starts random.

    Feature 1024. It learns at the rate of trained layers, a tenth of the classifiers', as the
    layers before the feature do in the other networks.
    """
    n.fc7 = _inner_product(n.data, 1024, XAVIER, 0)
    n.relu7 = _relu(n.fc7)
    n.drop7 = L.Dropout(n.relu7, dropout_ratio=0.5)


def _fire(n, name, bottom, squeeze, expand):
    """Squeeze to few channels, expand by 1x1 and 3x3 filters, concatenate."""

    def branch(kind, source, outputs, **more):
        n[f"{name}/{kind}"] = L.Convolution(
            source, num_output=outputs, weight_filler=XAVIER, **more
        )
        n[f"{name}/relu_{kind}"] = _relu(n[f"{name}/{kind}"])
        return n[f"{name}/relu_{kind}"]

    few = branch("squeeze1x1", bottom, squeeze, kernel_size=1)
    n[f"{name}/concat"] = L.Concat(
        branch("expand1x1", few, expand, kernel_size=1),
        branch("expand3x3", few, expand, kernel_size=3, pad=1),
    )
    return n[f"{name}/concat"]


def squeezenet(n, classes, side):
    """SqueezeNet v1.1, whose authors set no multipliers. Input of any size, feature 512 x 1 x 1.

    The original classifies every position (conv10) and then averages. Averaging first gives the
    head and the large-margin loss one feature per image.
    """
    n.conv1 = L.Convolution(n.data, num_output=64, kernel_size=3, stride=2, weight_filler=XAVIER)
    n.relu_conv1 = _relu(n.conv1)
    n.pool1 = _max_pool(n.relu_conv1)
    top = _fire(n, "fire2", n.pool1, 16, 64)
    top = _fire(n, "fire3", top, 16, 64)
    n.pool3 = _max_pool(top)
    top = _fire(n, "fire4", n.pool3, 32, 128)
    top = _fire(n, "fire5", top, 32, 128)
    n.pool5 = _max_pool(top)
    top = _fire(n, "fire6", n.pool5, 48, 192)
    top = _fire(n, "fire7", top, 48, 192)
    top = _fire(n, "fire8", top, 64, 256)
    top = _fire(n, "fire9", top, 64, 256)
    n.pool9 = L.Pooling(top, pool=P.Pooling.AVE, global_pooling=True)
    n.drop9 = L.Dropout(n.pool9, dropout_ratio=0.5)
