"""Which function writes which layer type, and why the others are refused."""

from . import elementwise, normalization, pooling, python, shapes, weighted


def silence(graph, layer):
    """Silence has no top: nothing to write."""


def parameter(graph, layer):
    """Parameter: its weights are the blob."""
    graph.parameter(layer.tops[0], layer.weights[0])


WRITERS = {
    "AbsVal": elementwise.plain("Abs"),
    "BNLL": elementwise.plain("Softplus"),
    "BatchNorm": normalization.batch_norm,
    "Bias": normalization.bias,
    "Clip": elementwise.clip,
    "Concat": shapes.concat,
    "Convolution": weighted.convolution,
    "Crop": shapes.crop,
    "Deconvolution": weighted.deconvolution,
    "Dropout": elementwise.same,
    "ELU": elementwise.elu,
    "Eltwise": elementwise.eltwise,
    "Exp": elementwise.exp,
    "Flatten": shapes.flatten,
    "InnerProduct": weighted.inner_product,
    "LRN": normalization.lrn,
    "Log": elementwise.log,
    "MVN": normalization.mvn,
    "PReLU": elementwise.prelu,
    "Parameter": parameter,
    "Pooling": pooling.pooling,
    "Power": elementwise.power,
    "Python": python.python,
    "ReLU": elementwise.relu,
    "Reduction": shapes.reduction,
    "Reshape": shapes.reshape,
    "SPP": pooling.pyramid,
    "Scale": normalization.scale,
    "Sigmoid": elementwise.plain("Sigmoid"),
    "Silence": silence,
    "Slice": shapes.slices,
    "Softmax": shapes.softmax,
    "Split": elementwise.same,
    "Swish": elementwise.swish,
    "TanH": elementwise.plain("Tanh"),
    "Threshold": elementwise.threshold,
    "Tile": shapes.tile,
}

_SELECTS = "it chooses among the images of a batch"
_SEQUENCE = "it reads sequences, and the nets here read images"
_INDICES = "it turns numbers into class indices or back"
_TRAINING = "it belongs to training"
_DATA = "it brings data in, besides the images"
REFUSED = {
    "Accuracy": _TRAINING,
    "ArgMax": _INDICES,
    "BatchReindex": _SELECTS,
    "Embed": _INDICES,
    "Filter": _SELECTS,
    "HDF5Output": "it writes a file",
    "Im2col": "no operator has its result",
    "LSTM": _SEQUENCE,
    "LSTMUnit": _SEQUENCE,
    "RNN": _SEQUENCE,
    **dict.fromkeys(
        ("Data", "DummyData", "HDF5Data", "ImageData", "MemoryData", "WindowData"), _DATA
    ),
}


def writer(layer):
    """The function that writes a graph.Layer; raises UserError for a type without one."""
    kind = layer.proto.type
    if kind in WRITERS:
        return WRITERS[kind]
    if kind.endswith("Loss"):
        layer.refuse(_TRAINING)
    layer.refuse(REFUSED.get(kind, "its type is not known here"))
