"""tools/extract_features.py and tools/neighbors.py."""

import numpy as np
import photo_set
import pytest
from commands import assert_error, run

from data_prep.common.errors import UserError
from tools import solver_net
from tools.recognition import features


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photo_set.make(tmp_path_factory.mktemp("photos"), "--encoded", "png")


def blob_of(photos, name):
    """A blob for the test split, by Caffe alone."""
    scoring = solver_net.scoring_net(solver_net.read_solver(photos.solver), "test", 8)
    net = solver_net.load(scoring, photos.weights)
    net.forward()
    return net.blobs[name].data.copy()


@pytest.mark.parametrize("blob, shape", [(None, (8, 16)), ("conv", (8, 8, 7, 7)), ("data", None)])
def test_a_split(photos, tmp_path, blob, shape):
    out = tmp_path / "f.npz"
    more = ("--blob", blob) if blob else ()
    args = ("--solver", photos.solver, "--batch", 8, "--out", out, *more)
    done = run("extract_features", *args)
    assert done.returncode == 0 and f"{blob or 'feature'} of 8 images" in done.stdout, done.stderr
    found = features.read(out)
    np.testing.assert_array_equal(found.features, blob_of(photos, blob or "feature"))
    assert found.features.dtype == np.float32 and shape in (None, found.features.shape)
    assert found.features.std() > 0
    listed = photos.listed()
    assert found.keys.tolist() == [key for key, _, _ in listed]
    assert found.labels[:, 0].tolist() == [label for _, _, label in listed]
    assert found.levels == ("kind", "group") and found.names[0] == tuple(
        kind for _, kind in photo_set.KINDS
    )


def test_photographs_give_the_features_of_their_records(photos, tmp_path):
    (tmp_path / "list").write_text("".join(f"{path}\n" for _, path, _ in photos.listed()))
    args = ("--solver", photos.solver, "--list", tmp_path / "list", "--batch", 8)
    assert run("extract_features", *args, "--out", tmp_path / "f.npz").returncode == 0
    found = features.read(tmp_path / "f.npz")
    np.testing.assert_array_equal(found.features, blob_of(photos, "feature"))
    assert (found.labels == -1).all() and found.keys[0] == str(photos.listed()[0][1])


def test_same_bytes_again_and_npy(photos, tmp_path):
    for name in ("a.npz", "b.npz", "c.npy", "c.npy", "a.npz"):
        args = ("--solver", photos.solver, "--out", tmp_path / name)
        done = run("extract_features", *args, fresh=name == "b.npz")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    rows = np.load(tmp_path / "c.npy", allow_pickle=False)
    np.testing.assert_array_equal(rows, features.read(tmp_path / "a.npz").features)
    lines = (tmp_path / "c.tsv").read_text().splitlines()
    assert lines[0] == "key\tkind_id\tkind\tgroup_id\tgroup" and len(lines) == 9
    key, _, label = photos.listed()[3]
    assert lines[4].split("\t")[:3] == [key, str(label), f"kind {label}"]
    assert {one.name for one in tmp_path.iterdir()} == {"a.npz", "b.npz", "c.npy", "c.tsv"}


def test_broken_photographs(photos, tmp_path):
    good = photos.listed()[0][1]
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    args = ("--solver", photos.solver, "--out", tmp_path / "f.npz")
    done = run("extract_features", *args, tmp_path / "bad.jpg", good)
    assert done.returncode == 1 and "bad.jpg: not an image" in done.stderr
    assert features.read(tmp_path / "f.npz").keys.tolist() == [str(good)]
    args = ("--solver", photos.solver, "--out", tmp_path / "g.npz")
    assert run("extract_features", *args, tmp_path / "bad.jpg").returncode == 1
    assert not (tmp_path / "g.npz").exists()


def test_refusals(photos, tmp_path):
    def error(says, *args, out="f.npz"):
        args = ("--solver", photos.solver, "--out", tmp_path / out, *args)
        assert_error(run("extract_features", *args), says)

    error("no blob 'pool9'", "--blob", "pool9")
    error("no blob 'pool9'", "--blob", "pool9", photos.photographs)
    error("must end in .npz or .npy", out="f.txt")
    error("no val split", "--split", "val")
    (tmp_path / "other.npz").write_text("mine")
    error("other.npz exists", out="other.npz")
    assert (tmp_path / "other.npz").read_text() == "mine"
    np.save(tmp_path / "mine.npy", np.zeros(3))
    error("mine.npy exists", out="mine.npy")
    np.savez(tmp_path / "mine.npz", features=np.zeros(3))
    error("mine.npz exists", out="mine.npz")


def test_neighbors(photos, tmp_path):
    args = ("--solver", photos.solver, "--out", tmp_path / "f.npz")
    assert run("extract_features", *args).returncode == 0
    found = features.read(tmp_path / "f.npz")
    args = ("--solver", photos.solver, "--out", tmp_path / "q.npz", photos.listed()[2][1])
    assert run("extract_features", *args).returncode == 0
    done = run("neighbors", tmp_path / "f.npz", "--queries", tmp_path / "q.npz", "--k", 1)
    assert done.returncode == 0 and "00000002" in done.stdout and "1.0000" in done.stdout
    done = run("neighbors", tmp_path / "f.npz", "--of", "00000002", "--metric", "euclidean")
    lines = done.stdout.splitlines()
    assert len(lines) == 6 and lines[1].startswith("00000002")
    rows = found.features.astype(float)
    distances = np.linalg.norm(rows - rows[2], axis=1)
    for line, number in zip(lines[1:], [i for i in np.argsort(distances) if i != 2]):
        assert f"{number:08d}  " in line and f"{distances[number]:.4f}" in line
    assert_error(run("neighbors", tmp_path / "f.npz", "--of", "x"), "no image 'x'")
    (tmp_path / "bad.npz").write_bytes((tmp_path / "f.npz").read_bytes()[:200])
    assert_error(run("neighbors", tmp_path / "bad.npz"), "not what tools/extract_features.py")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_against_all_pairs(metric):
    rng = np.random.default_rng(0)
    rows = 100 + rng.normal(size=(40, 7)).astype(np.float32)  # far from 0: products lose digits
    rows[5] = rows[3]
    rows[7] = rows[3] + np.float32(1e-4)
    numbers, values = features.nearest(rows, rows, 4, metric=metric, skip=np.arange(40))
    for i, one in enumerate(rows.astype(float)):
        if metric == "euclidean":
            value = [np.linalg.norm(one - other) for other in rows.astype(float)]
            order = sorted((v, j) for j, v in enumerate(value) if j != i)[:4]
        else:
            value = [
                one @ other / np.linalg.norm(one) / np.linalg.norm(other)
                for other in rows.astype(float)
            ]
            order = [(-v, j) for v, j in sorted((-v, j) for j, v in enumerate(value) if j != i)[:4]]
        np.testing.assert_allclose(values[i], [v for v, _ in order], atol=1e-9)
        if metric == "euclidean":
            assert numbers[i].tolist() == [j for _, j in order]
        assert i not in numbers[i]


def test_a_pickle_is_not_read(tmp_path):
    np.savez(tmp_path / "f.npz", features=np.array([{}], dtype=object), levels=np.array(["a"]))
    with pytest.raises(UserError, match="not what"):
        features.read(tmp_path / "f.npz")
