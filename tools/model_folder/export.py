"""Exports a trained net: writes its folder, and checks it, before the folder gets its name."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep import lmdb_io
from data_prep.common import files, progress, prototxt
from data_prep.common.errors import UserError
from data_prep.images import ImageError
from tools import pycaffe, results, solver_net
from tools.nets import text as net_text
from tools.nets.stock import replaced
from tools.onnx_export import build
from tools.recognition import examples as sheets, labels, photographs, preprocessing, trained
from tools.recognition.engines import CaffeEngine
from tools.recognition.model import NET, ONNX, WEIGHTS

from . import agreement, card
from .place import MANIFEST, Place
from .readers import READERS, Traced, Unread, caffe_trace

HIERARCHY, CARD, EXAMPLE = "hierarchy.tsv", "README.md", "example.py"
NAMES = (NET, WEIGHTS, ONNX, labels.FILE, preprocessing.FILE, HIERARCHY, CARD, EXAMPLE)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    folder   as given
    files    {name: bytes}
    agreed   [agreement.Agreed]
    unread   {name of a reader: why it can't read its file}
    result   results.Result that the model card shows, or None
    lacks    why there is no sheet of examples, in a few words; None: there is, or it was not wanted
    """

    folder: Path
    files: dict
    agreed: tuple
    unread: dict
    result: object
    lacks: str | None = None


def export(
    solver,
    out,
    weights=None,
    *,
    photos=(),
    result=None,
    license=None,
    readers=tuple(READERS),
    examples=True,
):
    """Exported: the folder `out` of a solver's trained net.

    solver   path of the solver with which the net was trained
    weights  caffemodel (default: that of the solver's newest whole snapshot)
    photos   photographs to check with, files or folders (default: of the data set's test images)
    result   result of tools/evaluate.py to show (default: results/EXPERIMENT.json if it is of these
             weights)
    license  text for the model card
    readers  names of READERS that must agree with Caffe
    examples whether to write a sheet with a training image of every fine class

    Raises UserError, and leaves no folder, where `out` may not be replaced, where the net has no
    counterpart in ONNX, or where a reader does not agree.
    """
    solver = Path(solver)
    place = Place.of(out, (*NAMES, sheets.FILE))
    net = trained.read(solver, weights)
    experiment = solver.stem.removesuffix("_solver")
    digest = files.sha256(files.existing(net.weights, "caffemodel"))
    shown = _result(result, Path("results", f"{experiment}.json"), digest, net)
    images = _images(net, photos)
    with place.partial() as folder, progress.bar("export", "steps", 3 + len(readers)) as bar:
        preprocessing.write(folder, net.preprocessing)
        labels.write(folder, labels.Labels.of(net.hierarchy, net.outputs, net.feature))
        _write_caffe(folder, net, experiment)
        own, arrays, shapes = _net_of(folder, net)
        bar.update()
        model = build.build(own, arrays, shapes)
        files.write_whole(folder / ONNX, build.content(model))
        del model
        bar.update()
        expected = _expected(folder, net, images)
        bar.update()
        agreed, unread = [], {}
        for name in readers:
            try:
                agreed.append(_agreed(READERS[name], folder, net, expected, (own, arrays, shapes)))
            except Unread as error:
                if READERS[name].needed:
                    raise UserError(
                        f"{READERS[name].name} can't read the exported model: {error}"
                    ) from None
                unread[READERS[name].name] = str(error)
            bar.update()
        lacks = sheets.unavailable(net.data, net.hierarchy.sizes[0]) if examples else None
        examples = examples and lacks is None
        if examples:
            files.write_whole(folder / sheets.FILE, sheets.sheet(net.data, net.hierarchy.sizes[0]))
        commit = _commit()
        files.write_whole(folder / HIERARCHY, net.hierarchy.text())
        files.write_whole(folder / EXAMPLE, Path(__file__).with_name(EXAMPLE).read_bytes())
        files.write_whole(
            folder / CARD,
            card.text(net, experiment, commit, digest, agreed, unread, shown, license, examples),
        )
        written = (*NAMES, sheets.FILE) if examples else NAMES
        sizes = {name: (folder / name).stat().st_size for name in written}
        place.publish(folder, experiment, commit, digest)
    sizes[MANIFEST] = (place.path / MANIFEST).stat().st_size
    return Exported(Path(out), sizes, tuple(agreed), unread, shown, lacks)


def _write_caffe(folder, net, experiment):
    """Write the deploy file, and the weights of its layers alone.

    A Python layer that reads the label tree would need this repository: stock layers replace it.
    """
    try:
        stock = replaced(net.net)
    except ValueError as error:
        raise UserError(f"net {net.file}: {error}") from None
    header = [
        f"{experiment}, trained, for Caffe and OpenCV 4 (OpenCV 5 reads {ONNX} instead).",
        f"In: {net.preprocessing.words}",
        "Out: probabilities of the classes per level, in the order of labels.json.",
        "Made by tools/export.py",
    ]
    files.write_whole(folder / NET, net_text.net_text(stock.net, header, {}))
    loaded = solver_net.load_net(net.net, net.file, net.weights, "name those of its training")
    loaded.save(str(folder / WEIGHTS))
    model = pycaffe.caffe_pb2.NetParameter.FromString((folder / WEIGHTS).read_bytes())
    own = pycaffe.caffe_pb2.NetParameter(name=net.net.name)
    for layer in model.layer:
        if layer.blobs:
            own.layer.add(name=layer.name, type=layer.type).blobs.extend(layer.blobs)
    for name, arrays in stock.weights.items():
        constant = own.layer.add(name=name, type="InnerProduct")
        for array in arrays:
            constant.blobs.add(data=array.ravel()).shape.dim.extend(array.shape)
    files.write_whole(folder / WEIGHTS, own.SerializeToString(deterministic=True))


def _net_of(folder, net):
    """(net without layers in place, {layer: weights}, {blob: shape}) of the written Caffe files."""
    deploy = prototxt.read(folder / NET, pycaffe.caffe_pb2.NetParameter())
    own = build.without_in_place(deploy)
    loaded = solver_net.load_net(own, NET, folder / WEIGHTS, "export again")
    arrays = {name: [blob.data.copy() for blob in blobs] for name, blobs in loaded.params.items()}
    blob = loaded.blobs[net.preprocessing.input]
    blob.reshape(agreement.PHOTOGRAPHS, *tuple(blob.shape)[1:])
    loaded.reshape()
    return own, arrays, {name: tuple(blob.shape) for name, blob in loaded.blobs.items()}


def _expected(folder, net, images):
    """[(batch, {output: Caffe's probabilities, N x classes})]."""
    deploy = prototxt.read(folder / NET, pycaffe.caffe_pb2.NetParameter())
    engine = CaffeEngine(deploy, NET, folder / WEIGHTS, net.preprocessing.input)
    outputs = list(net.outputs.values())
    expected = []
    for batch in agreement.batches(images):
        found = engine.compute(batch, outputs)
        expected.append((batch, {name: found[name].reshape(len(batch), -1) for name in outputs}))
    agreement.refuse_diverged(expected, net.weights)
    return expected


def _agreed(kind, folder, net, expected, parts):
    """agreement.Agreed of one of READERS; parts: of build.build, for a comparison by layer."""
    reader = kind(folder, net.preprocessing.input)
    try:
        return agreement.compare(reader, expected, list(net.outputs.values()))
    except agreement.Disagreement as error:
        own, arrays, shapes = parts
        traced = Traced(own, build.build(own, arrays, shapes, trace=True))
        ours = caffe_trace(own, folder / WEIGHTS, error.batch)
        clause = agreement.where_they_part(ours, reader.trace(error.batch, traced))
        raise UserError(
            f"{reader.name} does not agree with Caffe, so nothing is exported: {error}; {clause}"
        ) from None


def _images(net, photos):
    """float32, PHOTOGRAPHS x 3 x height x width: inputs of real photographs, spread evenly."""
    if photos:
        found = photographs.find(photos)
        blobs = [_of_photograph(one, net.preprocessing) for one in _spread(found)]
    else:
        path = net.data / "test_images"
        if not (path / "data.mdb").is_file():
            raise UserError(
                f"{path} not found: build the data set, or name photographs to check the exported "
                "model with (--photographs)"
            )
        keys = [key for key, _ in lmdb_io.items(path)]
        blobs = [_of_record(path, key, net.preprocessing) for key in _spread(keys)]
    return np.concatenate(blobs)


def _spread(items):
    """PHOTOGRAPHS of the items, in their order; fewer items are repeated."""
    count = agreement.PHOTOGRAPHS
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def _of_photograph(photograph, prepared):
    try:
        return photographs.blob_of(Path(photograph.path).read_bytes(), prepared)
    except ImageError as error:
        raise UserError(f"{photograph.name} can't be used: {error}") from None


def _of_record(path, key, prepared):
    ((_, value),) = lmdb_io.items(path, [key])
    name = f"record {lmdb_io.key_text(key, path)} of {path}"
    try:
        return prepared.blob(lmdb_io.datum_image(lmdb_io.parse_datum(value, name)))
    except ImageError as error:
        raise UserError(f"{name}: {error}: build the data set again") from None


def _result(given, usual, digest, net):
    """The results.Result to show, or None; UserError where a given one is not of these weights."""
    path = Path(given) if given else usual
    if not given and not path.is_file():
        return None
    found = results.read(path)
    names = [level.level for level in found.levels]
    if found.weights_sha256 == digest and names == list(net.hierarchy.levels):
        return found
    if given:
        raise UserError(
            f"{path} is the evaluation of other weights ({found.weights}): evaluate "
            f"{net.weights} with tools/evaluate.py, or leave out --result"
        )
    return None


def _commit():
    """The commit of this repository's code: of its working copy or of the image it is in."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        done = subprocess.run(
            ["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True
        )
        if done.returncode == 0:
            return done.stdout.strip()
    versions = ROOT / "docker" / "versions.txt"
    if versions.is_file():
        for line in versions.read_text(encoding="utf-8").splitlines():
            kind, *_, version = line.split("\t")
            if kind == "repository":
                return version
    return "unknown"
