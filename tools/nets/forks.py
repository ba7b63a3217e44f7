"""Finds and translates parts of a prototxt that only other versions of Caffe support.

Forks of Caffe (NVIDIA's, Intel's, SSD's, those of SENet, MobileNet, ShuffleNet ...) added fields,
values and layer types. The table has a translation for those with an exact equivalent in BVLC
Caffe. The others are reported with their lines.
"""

import difflib
import functools
from dataclasses import dataclass, field, replace

from tools.pycaffe import caffe, caffe_pb2

from . import scan

NET = caffe_pb2.NetParameter.DESCRIPTOR
SOLVER = caffe_pb2.SolverParameter.DESCRIPTOR
V0_TYPES = frozenset(
    "accuracy bnll concat conv data dropout euclidean_loss flatten hdf5_data hdf5_output im2col "
    "images infogain_loss innerproduct lrn multinomial_logistic_loss padding pool relu sigmoid "
    "softmax softmax_loss split tanh window_data".split()
)  # caffe/util/upgrade_proto.cpp, UpgradeV0LayerType

IMPLEMENTATION = "leave it out (it only selects an implementation)"
PRECISION = "leave it out (it only selects a numeric precision)"
MEMORY = "leave it out (it only saves memory or time)"
DEFAULT = "leave it out (it is what this Caffe does)"
WITH_SCALE = "of NVIDIA's Caffe, whose BatchNorm also holds the weights of a Scale layer"

# Fields that change no result: {path in the net or in a layer: why}.
WITHOUT_EFFECT = {
    **dict.fromkeys(
        "default_forward_type default_backward_type default_forward_math default_backward_math "
        "forward_type backward_type forward_math backward_math global_grad_scale "
        "global_grad_scale_adaptive".split(),
        PRECISION,
    ),
    **dict.fromkeys(
        "default_conv_algos_override default_cudnn_math_override "
        "convolution_param.conv_algos_override convolution_param.cudnn_math_override".split(),
        IMPLEMENTATION,
    ),
    **dict.fromkeys("compile_net_state reduce_buckets mem_param optimize_mem".split(), MEMORY),
}
# Fields that depend on their value: {path: {value: (what to do, text here)}}.
BY_VALUE = {
    "pooling_param.ceil_mode": {
        "false": ("write `round_mode: FLOOR`", "round_mode: FLOOR"),
        "true": (DEFAULT, ""),
    },
    "dropout_param.scale_train": {"true": (DEFAULT, "")},
    "batch_norm_param.scale_bias": {"false": (DEFAULT, "")},
}
# Fields without a translation, with their origin.
ORIGINS = dict.fromkeys(
    (
        "batch_norm_param.scale_bias",
        "batch_norm_param.scale_filler",
        "batch_norm_param.bias_filler",
    ),
    WITH_SCALE,
)


@dataclass(frozen=True)
class Unknown:
    """One place of a prototxt that this Caffe does not read.

    line     from 1
    layer    name of the layer, None for a field of the net itself
    what     the sentence's part about it
    advice   what to write here; "" where no translation is certain
    edits    of the text, as scan.replace takes them, that apply the advice
    hidden   spans of the text to hide from protobuf's parser
    values   {dotted path in the layer: value} of the scalars in it
    kind     the layer's type as written, where this is what is unknown
    parameters  whether this is a field such as axpy_param, of a layer's own type
    """

    line: int
    layer: str | None
    what: str
    advice: str = ""
    edits: tuple = ()
    hidden: tuple = ()
    values: dict = field(default_factory=dict)
    kind: str = ""
    parameters: bool = False

    def __str__(self):
        return f"line {self.line}: {self.what}" + (f"; here {self.advice}" if self.advice else "")


def find(text):
    """[Unknown] of a prototxt's text, in its order. Raises scan.ScanError or scan.TooDeep."""
    found, before = [], []
    for top in scan.fields(text):
        if top.name in ("layer", "layers") and top.value is None:
            found += _in_layer(text, top, before)
        else:
            found += _in_message([top], NET, "", None)
        before.append(top)
    return found


def translate(text):
    """The text with every certain translation applied. Raises scan.ScanError or scan.TooDeep."""
    while True:
        edits = []
        for place in find(text):
            if all(_apart(one, other) for one in place.edits for other in edits):
                edits += place.edits  # the others follow in the next round
        if not edits:
            return text
        text = scan.replace(text, edits)


def _apart(one, other):
    """Do two edits concern different parts of a text?"""
    return one[1] < other[0] or other[1] < one[0]


def hide(text, unknown):
    """The text without what protobuf's parser would stop at. Lines keep their numbers."""
    return scan.blank(text, [span for place in unknown for span in place.hidden])


def is_solver(text):
    """Does the text have a field that only solvers have?"""
    try:
        names = [top.name for top in scan.fields(text)]
    except ValueError:
        return False
    return any(name in SOLVER.fields_by_name and name not in NET.fields_by_name for name in names)


def sentence(places, most=3):
    """The places as one clause: those without a translation first."""
    ordered = sorted(places, key=lambda place: (bool(place.advice), place.line))
    more = len(ordered) - most
    return "; ".join(map(str, ordered[:most])) + (f"; and {more} more places" if more > 0 else "")


def _in_layer(text, layer, before):
    """[Unknown] of a `layer`, or of a `layers` in one of the two old formats.

    before: the net's fields before it.
    """
    old = layer.child("layer") if layer.name == "layers" else None  # V0
    named = old if old and old.value is None else layer
    name, kind = named.text("name"), named.child("type")
    if layer.name == "layer" and kind and kind.value and kind.value not in _known_types():
        unknown = _unknown_type(text, layer, kind, before)
        if any(edit[:2] == (layer.start, layer.end) for edit in unknown.edits):
            return [unknown]  # the edit replaces the whole layer
        return _with_parameters(unknown, _in_message([layer], NET, "", name))
    found = _in_message([layer], NET, "", name)
    if named is old and kind and kind.value not in V0_TYPES:
        found.append(_no_such_type(kind, name, V0_TYPES, hidden=((kind.start, kind.end),)))
    return found


def _with_parameters(kind, places):
    """[Unknown]: the layer's type, with its own parameters, and the other places."""
    own = [place for place in places if place.parameters]
    merged = replace(
        kind,
        hidden=kind.hidden + tuple(span for place in own for span in place.hidden),
        values={path: value for place in own for path, value in place.values.items()},
    )
    return [merged, *(place for place in places if place not in own)]


@functools.cache
def _known_types():
    return frozenset(caffe.layer_type_list())


def _in_message(found, message, path, layer):
    """[Unknown] of fields in a message. path: of the message, from the layer or the net."""
    unknown = []
    for one in found:
        known = message.fields_by_name.get(one.name)
        here = f"{path}.{one.name}".lstrip(".")
        if known is None:
            unknown.append(_unknown_field(one, message, here, layer))
        elif known.message_type and one.value is None:
            inside = "" if message is NET and layer is not None else here
            unknown += _in_message(one.children, known.message_type, inside, layer)
        elif known.enum_type and _is_no_value(one, known.enum_type):
            unknown.append(_unknown_value(one, known.enum_type, here, layer))
    return unknown


def _is_no_value(one, enum):
    values = (one.value or "").split()
    return any(value.isidentifier() and value not in enum.values_by_name for value in values)


def _where(layer):
    return f" of layer {layer}" if layer else ""


def _unknown_field(one, message, path, layer):
    span = (one.start, one.end)
    advice, new = _translation(one, path)
    if advice:
        what = f"`{one.name}`{_where(layer)} belongs to another Caffe"
        return Unknown(one.line, layer, what, advice, ((*span, new),), (span,))
    near = difflib.get_close_matches(one.name, message.fields_by_name, n=1, cutoff=0.85)
    what = f"this Caffe has no field `{path}`{_where(layer)}"
    if path in ORIGINS:
        what += f" ({ORIGINS[path]})"
    elif near:
        what += f" (did you mean {near[0]}?)"
    return Unknown(
        one.line,
        layer,
        what,
        hidden=(span,),
        values=_values(one, path),
        parameters=path.endswith("_param") and "." not in path,
    )


def _translation(one, path):
    """(what to do, text here) of an unknown field; ("", "") where none is certain."""
    if one.name == "engine":
        return IMPLEMENTATION, ""
    if path in WITHOUT_EFFECT:
        return WITHOUT_EFFECT[path], ""
    return BY_VALUE.get(path, {}).get((one.value or "").lower(), ("", ""))


def _unknown_value(one, enum, path, layer):
    span = (one.start, one.end)
    if one.name == "engine":
        what = f"`engine: {one.value}`{_where(layer)} belongs to another Caffe"
        return Unknown(one.line, layer, what, IMPLEMENTATION, ((*span, ""),), (span,))
    if enum.full_name.endswith("LayerType"):
        return _no_such_type(one, layer, enum.values_by_name, hidden=(span,))
    known = ", ".join(value.name for value in enum.values)
    what = f"this Caffe has no `{one.name}: {one.value}`{_where(layer)} (it has {known})"
    return Unknown(one.line, layer, what, hidden=(span,))


def _values(one, path):
    """{dotted path: value} of the scalars in a field."""
    if one.value is not None:
        return {path: one.value}
    found = {}
    for child in one.children:
        found.update(_values(child, f"{path}.{child.name}"))
    return found


def _no_such_type(kind, layer, known, hidden=()):
    """Unknown of a layer's type. known: the types of the format."""
    value = kind.value or ""
    plain = {name.replace("_", "").lower(): name for name in known}
    near = difflib.get_close_matches(value.replace("_", "").lower(), plain, n=1, cutoff=0.8)
    what = f"layer {layer} has type {value}, which this Caffe does not have"
    if value in _known_types():
        what = f"layer {layer} has type {value}, which is written in `layer` and not in `layers`"
    if near:
        what += f" (did you mean {plain[near[0]]}?)"
    return Unknown(kind.line, layer, what, hidden=hidden, kind=value)


# --- layer types ----------------------------------------------------------------------------------


def _unknown_type(text, layer, kind, before):
    name = layer.text("name")
    rule = TYPES.get(kind.value)
    advice, edits = rule(text, layer, kind, before) if rule else ("", ())
    if not advice:
        return _no_such_type(kind, name, _known_types())
    what = f'`type: "{kind.value}"` of layer {name} belongs to another Caffe'
    return Unknown(kind.line, name, what, advice, edits, kind=kind.value)


def _only(layer, *names):
    """Has the layer no fields but these and those that every layer may have?"""
    common = {"name", "type", "bottom", "top", "include", "exclude", "phase"}
    return {child.name for child in layer.children} <= common | set(names)


def _all(layer, name):
    return [child.value or "" for child in layer.children if child.name == name]


def _depthwise(text, layer, kind, before):
    """MobileNet's layer: one filter per channel, num_output of them; group is not given."""
    param = layer.child("convolution_param")
    if not param or not param.text("num_output").isdecimal():
        return "", ()
    outputs = param.text("num_output")
    if param.text("group") not in ("", outputs):
        return "", ()
    edits = [_new_type(kind, "Convolution")]
    if not param.text("group"):
        after = param.child("num_output").end
        edits.append((after, after, f" group: {outputs}"))
    return f'write `type: "Convolution"` with `group: {outputs}`', tuple(edits)


def _grouped(text, layer, kind, before):
    """A faster Convolution, of which the group is given as usual."""
    param = layer.child("convolution_param")
    if not param or not param.text("group").isdecimal():
        return "", ()
    return 'write `type: "Convolution"`', (_new_type(kind, "Convolution"),)


def _relu6(text, layer, kind, before):
    """min(max(x, 0), 6). Clip in place would pass gradients where it clipped."""
    if not _only(layer) or len(_all(layer, "bottom")) != 1 or len(_all(layer, "top")) != 1:
        return "", ()
    clip = "clip_param { min: 0 max: 6 }"
    edits = [_new_type(kind, "Clip"), _before_end(layer, clip)]
    advice = f'write `type: "Clip"` with `{clip}`'
    blob = layer.text("bottom")
    if blob == layer.text("top"):
        if any(one.name != "layer" and one.value == blob for one in before):  # input: "blob"
            return "", ()
        other = f"{blob}_unclipped"
        while other in text:
            other += "_"
        places = [
            child
            for one in before
            if one.name == "layer"
            for child in one.children
            if child.name in ("bottom", "top") and child.value == blob
        ]
        for place in (*places, layer.child("bottom")):
            edits.append((place.start, place.end, f"{place.name}: {_quoted(other)}"))
        advice += ", not in place"
    return advice, tuple(edits)


def _axpy(text, layer, kind, before):
    """SENet's a x + y: a is N x C x 1 x 1, x and y are N x C x H x W."""
    bottoms, tops = _all(layer, "bottom"), _all(layer, "top")
    if not _only(layer) or len(bottoms) != 3 or len(tops) != 1 or tops[0] in bottoms:
        return "", ()
    name, rules = layer.text("name"), _rules(text, layer)
    factor, scaled = f"{name}_factor", f"{name}_scaled"
    new = "\n".join(
        (
            _layer(factor, "Flatten", bottoms[:1], factor, rules),
            _layer(
                scaled, "Scale", [bottoms[1], factor], scaled, f"scale_param {{ axis: 0 }} {rules}"
            ),
            _layer(name, "Eltwise", [scaled, bottoms[2]], tops[0], rules),
        )
    )
    return "write Flatten, Scale and Eltwise", ((layer.start, layer.end, new),)


TYPES = {
    "ConvolutionDepthwise": _depthwise,
    "DepthwiseConvolution": _grouped,
    "ReLU6": _relu6,
    "Axpy": _axpy,
}


def _new_type(kind, name):
    return (kind.start, kind.end, f'type: "{name}"')


def _before_end(layer, new):
    return (layer.end - 1, layer.end - 1, f" {new} ")


def _rules(text, layer):
    """The layer's include and exclude rules as written."""
    return " ".join(
        text[child.start : child.end]
        for child in layer.children
        if child.name in ("include", "exclude", "phase")
    )


def _quoted(value):
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _layer(name, kind, bottoms, top, rest):
    reads = " ".join(f"bottom: {_quoted(bottom)}" for bottom in bottoms)
    return (
        f"layer {{ name: {_quoted(name)} type: {_quoted(kind)} {reads} top: {_quoted(top)}"
        f"{' ' + rest if rest.strip() else ''} }}"
    )
