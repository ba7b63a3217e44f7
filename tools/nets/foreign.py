"""Reads networks of other authors, upgrades them to Caffe's current format, and finds their shapes.

Caffe runs in a separate process, because a net may exceed the memory or crash Caffe. The last
message of that process becomes the error message.
"""

import codecs
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format

from data_prep.common import prototxt
from data_prep.common.errors import UserError
from tools.pycaffe import caffe, caffe_pb2

from . import forks, scan

UPGRADE = "upgrade_net_proto_text"
LARGEST = 2 << 20  # bytes of a prototxt; published ones have less than 1 MB
MEMORY = 16 << 30  # bytes of address space for the process that sets a net up


@dataclass(frozen=True)
class ForeignNet:
    """A net as read.

    path        of the file
    net         NetParameter in the current format
    unknown     forks.Unknown of each place that this Caffe does not read; the net is without them
    translated  text of the file with its places translated; None where nothing was translated
    ignored     parts of the file that Caffe itself ignores, in words
    """

    path: Path
    net: object
    unknown: tuple = ()
    translated: str | None = None
    ignored: tuple = ()


def read(path, translate=False):
    """ForeignNet of a prototxt in any format that Caffe has had, upgraded by Caffe itself.

    Fields `input`, `layers` (V0, V1) and the data layers' old parameters are then gone. Fields,
    values and layer types of other Caffes are translated where `translate` is set and the
    translation is certain; the others are left out and listed. Raises UserError where the file
    can't be read, is not a net, or has such a place outside its layers.
    """
    text, translated = _text(path), None
    unknown = _unknown(path, text)
    if translate and any(place.edits for place in unknown):
        text = translated = forks.translate(text)
        unknown = _unknown(path, text)
    of_net = [place for place in unknown if place.layer is None]
    if of_net:
        if forks.is_solver(text):
            raise UserError(f"{path} is a solver: give the prototxt of the net that it names")
        raise refusal(path, of_net)
    text = forks.hide(text, unknown)
    net = _parse(path, text)
    if not (net.layer or net.layers):
        raise UserError(f"{path} has no layers, so it is not a net")
    _check_inputs(path, net)
    _check_names(path, net)
    net, ignored = _upgrade(path, net, text)
    _restore_types(net, unknown)
    return ForeignNet(Path(path), net, tuple(unknown), translated, ignored)


def refusal(path, places):
    """UserError that names places which this Caffe does not read, and how to correct them."""
    how = ""
    if all(place.advice for place in places):
        how = ": --translate FILE makes these changes and writes the net to FILE"
    return UserError(f"{path} {forks.sentence(places)}{how}")


def _text(path):
    """Text of the file: UTF-8 with or without a mark, or UTF-16 with its mark."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise UserError(f"net {path} not found (current folder: {Path.cwd()})") from None
    except OSError as error:
        raise UserError(f"net {path} can't be read ({error.strerror})") from None
    if len(content) > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST >> 20} MB, so it is not a net's prototxt")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", errors="replace")
    else:
        # Comments are often in other encodings; Caffe does not look at them.
        text = content.decode("utf-8-sig", errors="replace")
    if "\0" in text:
        raise UserError(
            f"{path} is a binary file (a caffemodel?): give the prototxt, which is text"
        )
    if not text.strip():
        raise UserError(f"{path} is empty")
    return text


def _unknown(path, text):
    """[forks.Unknown]; [] where the text is not a sequence of fields, which _parse reports."""
    try:
        return forks.find(text)
    except scan.TooDeep as error:
        raise UserError(
            f"{path} line {error.args[0]}: messages are nested more than {scan.DEEPEST} deep, so "
            "it is not a net's prototxt"
        ) from None
    except scan.ScanError:
        return []


def _parse(path, text):
    """NetParameter of a text; UserError with the line where it is not one."""
    try:
        return text_format.Parse(text, caffe_pb2.NetParameter())
    except text_format.ParseError as error:
        if forks.is_solver(text):
            raise UserError(
                f"{path} is a solver: give the prototxt of the net that it names"
            ) from None
        reason = re.sub(r"^\d+:\d+ : ", "", str(error))
        reason = re.sub(r"^'.*?': (?=[A-Z])", "", reason, flags=re.DOTALL)
        reason = " ".join(reason.split())[:200]
        raise UserError(
            f"{path} is not a net's prototxt: line {error.GetLine()}: {reason}"
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply: it is not a net's prototxt") from None


def _check_inputs(path, net):
    """Raises UserError if `input` does not fit its dimensions: Caffe would exit silently."""
    names, dims, shapes = len(net.input), len(net.input_dim), len(net.input_shape)
    if dims and not shapes and dims != 4 * names:
        raise UserError(
            f"{path} has {names} `input` and {dims} `input_dim`: each input needs 4 (number, "
            "channels, height, width)"
        )
    if shapes and shapes != names:
        raise UserError(f"{path} has {names} `input` but {shapes} `input_shape`")


def _check_names(path, net):
    """UserError where a name can't be read or printed, or where a V0 layer reads an unknown blob.

    (For the latter, Caffe's upgrade of V0 nets names a number instead of the layer.)
    """
    written = set(net.input)
    for layer in (*net.layer, *net.layers):
        name = layer.name
        if layer.DESCRIPTOR.name == "V1LayerParameter" and layer.HasField("layer"):
            name = layer.layer.name
            for blob in layer.bottom:
                if blob not in written:
                    raise UserError(
                        f"{path}: layer {name} reads blob {blob}, which no layer before it writes"
                    )
        written.update(layer.top)
        for text in (name, *layer.bottom, *layer.top):
            if "\ufffd" in text:
                raise UserError(
                    f"{path} is not UTF-8, and the name of layer {name!r} or of one of its blobs "
                    "has characters in another encoding: save the file as UTF-8"
                )
            if any(ord(character) < 32 for character in text):
                raise UserError(
                    f"{path}: the name {text!r} holds a character that can't be printed"
                )


def _needs_upgrade(net):
    """As NetNeedsUpgrade of caffe/util/upgrade_proto.cpp."""
    return (
        net.layers
        or net.input
        or any(layer.type == "BatchNorm" and len(layer.param) == 3 for layer in net.layer)
    )


def _upgrade(path, net, text):
    """(NetParameter in the current format, what Caffe ignores in the old one)."""
    if not _needs_upgrade(net):
        return net, ()
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder, "old.prototxt"), Path(folder, "new.prototxt")
        old.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [_upgrade_tool(), str(old), str(new)], capture_output=True, text=True, errors="replace"
        )
        # It exits with 1, as Caffe does not, where it leaves out single fields of a V0 layer.
        if done.returncode not in (0, 1) or not new.is_file():
            raise UserError(f"{path} can't be upgraded by Caffe: {_last_words(done)}")
        upgraded = _parse(path, new.read_text(encoding="utf-8"))
    if net.input and not (net.input_dim or net.input_shape):
        # Caffe drops inputs of unknown size.
        source = caffe_pb2.LayerParameter(name="input", type="Input", top=net.input)
        layers = [source, *upgraded.layer]
        del upgraded.layer[:]
        upgraded.layer.extend(layers)
    ignored = re.findall(r"\] (Unknown parameter \w+ for layer type \w*)", done.stderr)
    return upgraded, tuple(dict.fromkeys(ignored))


def _restore_types(net, unknown):
    """Restore the types of layers that had to be hidden from the parser."""
    kinds = {place.layer: place.kind for place in unknown if place.kind and place.hidden}
    for layer in net.layer:
        if not layer.type and layer.name in kinds:
            layer.type = kinds[layer.name]


def _last_words(done):
    """The last error that a program logged with glog, its last line, or its signal."""
    logged = re.findall(r"^[EF]\d{4}.*?\] (.*)", done.stderr, re.MULTILINE)
    lines = done.stderr.strip().splitlines()
    if logged or lines:
        return (logged or lines)[-1].strip()
    if done.returncode < 0:
        return f"it ended with {signal.Signals(-done.returncode).name}"
    return "no message"


def _upgrade_tool():
    """Path of Caffe's own upgrade program: installed with pycaffe, or on PATH."""
    installed = Path(caffe.__file__).resolve().parents[2] / "bin" / UPGRADE
    found = installed if installed.is_file() else shutil.which(UPGRADE)
    if not found:
        raise UserError(
            f"Caffe's program {UPGRADE} not found at {installed} or on PATH: run `make setup`, "
            "which builds it"
        )
    return str(found)


def set_up(path):
    """CompletedProcess of set_up.py, which prints the shapes of the net in a file."""
    return subprocess.run(
        # -P: a folder `tools` in the current folder is not this package.
        [sys.executable, "-P", "-m", "tools.nets.set_up", str(path), str(MEMORY)],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "GLOG_minloglevel": "0", "GLOG_logtostderr": "1"},
    )


def _set_up(net, what):
    """({blob: shape}, {layer with weights: [shapes]}) of a NetParameter, as Caffe sets it up.

    what: the net's name, for the UserError where Caffe refuses it.
    """
    with prototxt.as_file(net) as path:
        done = set_up(path)
    if done.returncode:
        layers = re.findall(r"\] Creating Layer (.*)", done.stderr)
        where = f" at layer {layers[-1]}" if layers else ""
        raise UserError(f"Caffe refuses {what}{where}: {_last_words(done)}")
    blobs, weights = json.loads(done.stdout.strip().splitlines()[-1])
    return (
        {blob: tuple(shape) for blob, shape in blobs.items()},
        {layer: [tuple(shape) for shape in found] for layer, found in weights.items()},
    )


def shapes(layers, inputs, name, fillers=None):
    """({blob: shape}, {layer with weights: [shapes]}) of layers in tests, as Caffe sets them up.

    layers   LayerParameters, whose rules are ignored
    inputs   {blob: shape} that they read
    name     of the net, for the UserError where Caffe refuses it
    fillers  {layer: its parameters} with a weight_filler that Caffe is to accept as well
    """
    net = caffe_pb2.NetParameter()
    for blob, shape in inputs.items():
        net.layer.add(
            name=blob, type="Input", top=[blob], input_param=dict(shape=[dict(dim=shape)])
        )
    tried = dict(fillers or {})
    for layer in layers:
        copy = net.layer.add()
        copy.CopyFrom(layer)
        for field in ("include", "exclude"):
            copy.ClearField(field)
        for part in ("convolution_param", "inner_product_param"):
            if copy.HasField(part) and getattr(copy, part).HasField("weight_filler"):
                # Random numbers for all weights take seconds, and only shapes are read.
                tried[layer.name] = getattr(layer, part)
                getattr(copy, part).ClearField("weight_filler")
    tests = _filler_tests(tried)
    net.layer.extend(tests)
    blobs, weights = _set_up(net, name)
    for layer in tests:
        weights.pop(layer.name, None)
        blobs.pop(layer.name)
    return blobs, weights


def _filler_tests(fillers):
    """LayerParameters that try each weight_filler on four weights per output."""
    if not fillers:
        return []
    image = caffe_pb2.LayerParameter(
        name="filler_input",
        type="Input",
        top=["filler_input"],
        input_param=dict(shape=[dict(dim=[1, 1, 2, 2])]),
    )
    return [image] + [
        caffe_pb2.LayerParameter(
            name=f"{layer}'s weight_filler",
            type="Convolution",
            bottom=["filler_input"],
            top=[f"{layer}'s weight_filler"],
            convolution_param=dict(
                num_output=max(param.num_output, 1),
                kernel_size=[2],
                weight_filler=param.weight_filler,
            ),
        )
        for layer, param in fillers.items()
    ]


def source_shape(layer, blob):
    """Shape of a blob that a data layer reads from its files, as Caffe reads it.

    None where Caffe can't read them.
    """
    net = caffe_pb2.NetParameter()
    copy = net.layer.add()
    copy.CopyFrom(layer)
    for field in ("include", "exclude"):
        copy.ClearField(field)
    for part in ("data_param", "image_data_param", "hdf5_data_param"):
        if copy.HasField(part):
            getattr(copy, part).batch_size = 1
    try:
        return _set_up(net, layer.name)[0].get(blob)
    except UserError:
        return None
