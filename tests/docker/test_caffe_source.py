"""docker/caffe_source.sh: Caffe's source from each of its places, with local stand-ins for all of
them, and proven by its content.
"""

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docker" / "build_caffe.sh"  # it reads caffe_source.sh
TARBALL = "caffe_1.0.0+git20180821.99bd997.orig.tar.gz"
KINDS = ("mirror", "archive", "snapshot", "git", "upstream")  # in the order of caffe_places


def bash(code, *arguments, **variables):
    """Run code with the script's functions loaded; arguments are $1, $2 ..."""
    return subprocess.run(
        ["bash", "-c", f'script=$1; shift; . "$script"; {code}', "bash", SCRIPT, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def git(folder, *arguments):
    """git without the user's own settings; its output."""
    identity = {f"GIT_{role}_{what}": "nobody" for role in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")}  # fmt: skip
    done = subprocess.run(
        ["git", "-C", folder, *arguments],
        env={**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def tree(folder, text="message Datum {}\n"):
    """A little source tree."""
    for name, content in {
        "src/caffe/proto/caffe.proto": text,
        "a file's name": "1\n",
        ".gitignore": "*.o\n",
        "tools/run.sh": "#!/bin/sh\n",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "tools/run.sh").chmod(0o755)
    return folder


def pack(folder, path, inside="."):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, inside)
    return path


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; below /moved it sends to another address, as snapshot.debian.org does."""

    def do_GET(self):
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """(http address on the loopback interface, the folder that it serves)"""
    folder = tmp_path_factory.mktemp("served")
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


def offer(kind, source, to, address):
    """Make a stand-in for a place of this kind that offers the tree `source`; its line of
    caffe_places.
    """
    url, served = address
    name = to.parent.name + "-" + kind
    if kind == "mirror":
        folder = to / "debian/dists/bullseye/main/source"
        folder.mkdir(parents=True)
        pool = to / "debian/pool/main/c/caffe"
        stanza = {"md5": [], "sha256": []}
        description = pool / "caffe_1.dsc"
        for path in (pack(source, pool / TARBALL), pack(source, pool / "caffe_1.debian.tar.gz")):
            assert path.parent == pool
        description.write_text("Format: 3.0 (quilt)\n")
        for path in sorted(pool.iterdir()):
            for algorithm, lines in stanza.items():
                digest = hashlib.new(algorithm, path.read_bytes()).hexdigest()
                lines.append(f" {digest} {path.stat().st_size} {path.name}\n")
        (folder / "Sources").write_text(
            "Package: caffe\nFormat: 3.0 (quilt)\nBinary: caffe-cpu\nArchitecture: any\n"
            "Version: 1.0.0+git20180821.99bd997-8\nDirectory: pool/main/c/caffe\n"
            f"Files:\n{''.join(stanza['md5'])}Checksums-Sha256:\n{''.join(stanza['sha256'])}\n"
        )
        return "mirror bullseye"
    if kind == "git":
        shutil.copytree(source, to)
        return f"git file://{to}"
    inner = "." if kind in ("archive", "snapshot") else "caffe-99bd997"
    pack(source, served / name / TARBALL, inner)
    return f"tarball {url}/{'moved/' if kind == 'snapshot' else ''}{name}/{TARBALL}"


@pytest.fixture
def places(tmp_path, address):
    """fetch(states): asks places of all KINDS, "good", "missing" or "tampered", for the source.

    Returns the finished process, with the tree that it made and the folder that it worked in.
    """
    good, bad = tree(tmp_path / "good"), tree(tmp_path / "bad", "message Datum {} // and more\n")
    git(good, "init", "-q")
    git(good, "add", "-A", "-f")
    git(good, "commit", "-q", "-m", "all")
    commit = git(good, "rev-parse", "HEAD")
    sha = bash('tree_hash "$1"', good).stdout.strip()
    codename = bash("sed -n s/^VERSION_CODENAME=//p /etc/os-release").stdout.strip() or "stable"

    def fetch(states, kept=None):
        lines = []
        for kind, state in zip(KINDS, states):
            if state == "tampered" and kind == "git":  # another content under the same name
                shutil.copytree(bad, tmp_path / "bad git")
                git(tmp_path / "bad git", "init", "-q")
                git(tmp_path / "bad git", "add", "-A", "-f")
                git(tmp_path / "bad git", "commit", "-q", "-m", "all")
                other = git(tmp_path / "bad git", "rev-parse", "HEAD")
                lines.append(f"forged_git {other} file://{tmp_path}/bad git")
                continue
            to = tmp_path / (f"{kind} place" if kind == "git" else f"{kind}_place")
            line = offer(kind, bad if state == "tampered" else good, to, address)
            if state == "missing":
                shutil.rmtree(to, ignore_errors=True)
                shutil.rmtree(address[1] / f"{tmp_path.name}-{kind}", ignore_errors=True)
            lines.append(line)
        parts = tmp_path / "etc/apt/sources.list.d"
        parts.mkdir(parents=True)
        (parts.parent / "apt.conf.d").mkdir()
        mirror = f"{tmp_path}/mirror_place/debian"  # apt takes no blanks here
        (parts / "local.list").write_text(f"deb [trusted=yes] file:{mirror} {codename} main\n")
        (tmp_path / "apt.conf").write_text(f'Dir::Etc "{tmp_path}/etc/apt";\n')
        work = tmp_path / "work"
        work.mkdir()
        if kept:
            pack({"good": good, "tampered": bad}[kept], work / TARBALL)
        (tmp_path / "places").write_text("".join(f"{line}\n" for line in lines))
        done = bash(
            # a repository that holds something else under the commit's name can't be made: the
            # stand-in asks for another commit
            'try_forged_git() { COMMIT=${1%% *} try_git "${1#* }" "$2"; }\n'
            'work=$1 log=$1/log python=$2 COMMIT=$3 TREE_SHA256=$4 list=$5; : >"$log"\n'
            'caffe_places() { cat "$list"; }; fetch_source "$work/tree"',
            *(work, sys.executable, commit, sha, tmp_path / "places"),
            APT_CONFIG=str(tmp_path / "apt.conf"),
            HOME=str(tmp_path),
        )
        return SimpleNamespace(**vars(done), work=work, good=good, states=dict(zip(KINDS, states)))

    return fetch


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


needs_apt = pytest.mark.skipif(not shutil.which("apt-get"), reason="no apt-get: not Debian")


@needs_apt
@pytest.mark.parametrize("before", ["missing", "tampered"])
@pytest.mark.parametrize("number", range(len(KINDS)))
def test_each_place_when_those_before_it_fail(places, number, before):
    states = [before] * number + ["good"] + ["missing"] * (len(KINDS) - number - 1)
    done = places(states)
    assert done.returncode == 0, done.stdout + done.stderr
    assert content(done.work / "tree") == content(done.good)
    tries = [line for line in done.stdout.splitlines() if "fetching it from" in line]
    reasons = [line for line in done.stdout.splitlines() if line.startswith("  not from there: ")]
    assert len(tries) == number + 1 and len(reasons) == number
    if before == "tampered":
        assert all("its content is not that of upstream's commit" in line for line in reasons)
    # what an earlier build kept is used before all of them
    again = bash(
        'work=$1 log=$1/log TREE_SHA256=$2; caffe_places() { die asked; }; fetch_source "$1/tree"',
        *(done.work, bash('tree_hash "$1"', done.good).stdout.strip()),
    )
    assert again.returncode == 0 and "the copy kept in" in again.stdout, again.stderr
    assert content(done.work / "tree") == content(done.good)


@needs_apt
@pytest.mark.parametrize("state", ["missing", "tampered"])
def test_all_places_fail(places, state):
    done = places([state] * len(KINDS))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "came from none of 5 places" in done.stderr and f"get {TARBALL}" in done.stderr
    for place in ("this machine's mirror (bullseye): ", "/moved/", "git place", f"{TARBALL}: "):
        assert place in done.stderr or state == "tampered" and place == "git place", place
    assert done.stderr.count("; ") == 4
    assert not (done.work / "tree").exists() and not (done.work / TARBALL).exists()


@needs_apt
def test_a_tampered_copy_of_an_earlier_build_is_not_used(places):
    done = places(["missing", "good", "good", "good", "good"], kept="tampered")
    assert done.returncode == 0, done.stderr
    assert f"not from {done.work / TARBALL}: its content" in done.stdout
    assert content(done.work / "tree") == content(done.good)


def test_the_places_are_the_ones_promised():
    lines = bash("caffe_places").stdout.splitlines()
    assert lines[0] == "mirror bullseye" or "ubuntu" in Path("/etc/os-release").read_text()
    rest = [line for line in lines if not line.startswith("mirror ")]
    assert [line.split()[1].split("/")[2] for line in rest] == [
        "archive.debian.org",
        "snapshot.debian.org",
        "github.com",
        "github.com",
    ]


@pytest.mark.parametrize(
    "release, suites",
    [
        ("ID=debian\nVERSION_CODENAME=trixie\n", ["bullseye", "trixie"]),
        ("ID=debian\nVERSION_CODENAME=bullseye\n", ["bullseye"]),
        ("ID=debian\n", ["bullseye"]),
        ("ID=ubuntu\nVERSION_CODENAME=noble\n", ["jammy", "focal", "noble"]),
    ],
)
def test_suites_of_the_machines_mirror(tmp_path, release, suites):
    (tmp_path / "os-release").write_text(release)
    assert bash('mirror_suites "$1"', tmp_path / "os-release").stdout.split() == suites


def change_a_byte(folder):
    (folder / "src/caffe/proto/caffe.proto").write_text("message Datum {}\t")


def add_a_file(folder):
    (folder / "src/more.cpp").write_text("")


def take_a_file(folder):
    (folder / "a file's name").unlink()


def rename_a_file(folder):
    (folder / "a file's name").rename(folder / "another")


def make_a_link(folder):
    (folder / "link").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    "change", [change_a_byte, add_a_file, take_a_file, rename_a_file, make_a_link]
)
def test_the_hash_is_over_all_that_is_there(tmp_path, change):
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two's place")
    hashes = [bash('tree_hash "$1"', folder).stdout for folder in (one, two)]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 65
    (two / ".git").mkdir()
    (two / ".git/config").write_text("of git alone")
    assert bash('tree_hash "$1"', two).stdout == hashes[0]
    change(two)
    assert bash('tree_hash "$1"', two).stdout != hashes[0]


@pytest.mark.parametrize("kind", ["tarball", "folder"])
def test_source_named_by_hand(tmp_path, kind):
    """A tarball must hold the expected files; a folder is used as it is, with a note."""
    source = tree(tmp_path / "mine")
    sha = bash('tree_hash "$1"', source).stdout.strip()
    named = pack(source, tmp_path / "x.tar.gz", "inner") if kind == "tarball" else source
    code = 'work=$1 log=$1/log TREE_SHA256=$4; take_source "$2" "$3"'
    done = bash(code, tmp_path, named, tmp_path / "tree", sha)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "tree") == content(source)
    done = bash(code, tmp_path, named, tmp_path / "tree", "0" * 64)
    if kind == "tarball":
        assert done.returncode == 1 and "is not Caffe's source: its content is not" in done.stderr
    else:
        assert done.returncode == 0 and "used as they are" in done.stdout


def test_hostile_tarball_writes_nothing_outside(tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for name in ("../outside", "/tmp/../tmp/outside"):
            archive.addfile(tarfile.TarInfo(name))
    done = bash('log=$1/log work=$1; unpack "$1/x.tar.gz" "$1/deep/tree"; echo "$reason"', tmp_path)
    assert not (tmp_path / "deep/outside").exists() and not Path("/tmp/outside").exists()
    assert done.returncode in (0, 1)
