"""Checks of the Docker images that need no Docker; docker/test_image.sh does the others."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))
WRAPPER = ROOT / "docker" / "image" / "caffe"
TEST_IMAGE = ROOT / "docker" / "test_image.sh"
PREFIX = Path(shutil.which("caffe") or "/nowhere/bin/caffe").resolve().parent.parent


def run(*command, **variables):
    return subprocess.run(
        list(map(str, command)),
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def instructions(dockerfile):
    """[(instruction, its arguments)] with continued lines joined and comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def ignored(path, patterns):
    """Whether .dockerignore leaves `path` out: the last pattern that fits it or a parent says."""
    verdict = False
    parts = path.split("/")
    parents = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        # `*` stays within one name; `**/` is any depth
        expression = re.escape(wanted).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(expression, parent) for parent in parents):
            verdict = not pattern.startswith("!")
    return verdict


@pytest.fixture(scope="module")
def patterns():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "data/cub/train_images/data.mdb",
        "results/cub.json",
        "weights/bvlc_googlenet.caffemodel",
        "snapshots/cub_googlenet_ours/model_iter_1.solverstate",
        "photos/cats/1.jpg",
        "prototxt/mine/model.caffemodel",
        "tools/__pycache__/evaluate.pyc",
        "tests/.pytest_cache/README.md",
        "core",
    ],
)
def test_context_leaves_out(patterns, path):
    assert ignored(path, patterns)


def test_context_holds_the_repository(patterns):
    listing = run("git", "-C", ROOT, "ls-files")
    if listing.returncode:
        pytest.skip("no git to list the repository's files")
    left_out = {path for path in listing.stdout.splitlines() if ignored(path, patterns)}
    assert {path for path in left_out if "/" in path} == {".ci/run"}
    assert not left_out & {"LICENSE", "Makefile", "README.md", "pyproject.toml"}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile(dockerfile, patterns):
    """Copied files exist and are in the context; stages exist; the image's user is not root."""
    stages, user = set(), "root"
    for name, arguments in instructions(dockerfile):
        words = arguments.split()
        if name == "FROM":
            assert words[0] == "${BASE}" or words[0] in stages
            stages.update(words[2:])
        elif name == "COPY" and words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages
        elif name == "COPY":
            for source in words[:-1]:
                assert (ROOT / source).exists(), f"{dockerfile.name} copies {source}"
                assert source == "." or not ignored(source, patterns)
        elif name == "USER":
            user = arguments
        else:
            assert name in (
                "ARG",
                "CMD",
                "ENTRYPOINT",
                "ENV",
                "EXPOSE",
                "HEALTHCHECK",
                "LABEL",
                "RUN",
                "WORKDIR",
            )
    assert user not in ("root", "0")
    build, final = dockerfile.read_text().split("\nFROM ")[1:]
    assert "RUN docker/packages.sh" in build and "build_caffe.sh" not in final
    # compiled once: what changes often comes after Caffe
    assert not re.search(r"^COPY (\.|tools|python_layers|docker) ", build, re.MULTILINE)
    assert "CA_CERTIFICATES" not in final and "PIP_" not in final


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_image_serves(dockerfile):
    """The documented command reaches the server in the image, and only from this machine."""
    text = (ROOT / "docker" / "README.md").read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if re.match("docker run .*serve.py", line)]
    words = shlex.split(line)
    address, outside, inside = words[words.index("-p") + 1].split(":")
    assert address == "127.0.0.1" and outside == inside
    assert ("EXPOSE", inside) in instructions(dockerfile)
    command = words[words.index("tools/serve.py") :]
    assert command[command.index("--host") + 1] == "0.0.0.0"  # the container's, not its loopback
    _, mounted, mode = words[words.index("-v") + 1].split(":")
    assert mounted == command[command.index("--model") + 1] and mode == "ro"
    usage = run(sys.executable, ROOT / "tools" / "serve.py", "--help").stdout
    assert all(option in usage for option in command if option.startswith("--"))
    assert re.search(rf"--port .*\(default: {inside}\)", usage, re.DOTALL)


@pytest.mark.parametrize("name", ["requirements", "requirements-cupy"])
def test_locked_packages_are_the_pinned_ones(name):
    """NAME.lock has every pin of NAME.txt, each with checksums, and agrees with the other lock."""

    def pins(path):
        return dict(re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(), re.MULTILINE))

    lock = ROOT / "docker" / f"{name}.lock"
    pinned, locked = pins(lock.with_suffix(".txt")), pins(lock)
    assert pinned.items() <= locked.items(), f"run the command at the top of {lock.name} again"
    entries = re.split(r"^(?=\w)", lock.read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked)
    assert all("--hash=sha256:" in entry for entry in entries)
    everywhere = pins(ROOT / "docker" / "requirements.lock")
    assert {
        package: everywhere.get(package, version) for package, version in locked.items()
    } == locked


# --- caffe of the CUDA image


def gpu_arguments(dev, *arguments, **variables):
    """(arguments that caffe is given, line on stderr) with the device files in `dev`."""
    code = f'. "{WRAPPER}"; gpu_arguments "$@"; printf "%s\\n" "${{arguments[@]}}"'
    done = run(
        "bash",
        "-c",
        code,
        "bash",
        dev,
        *arguments,
        **({"CAFFE_GPU": "", "CUDA_VISIBLE_DEVICES": "0"} | variables),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") <= 1
    return done.stdout.splitlines(), done.stderr


@pytest.fixture(params=["nvidia0", "nvidia3", "dxg"])
def dev(request, tmp_path):
    """A /dev with one GPU."""
    for name in ("null", "nvidiactl", request.param):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def no_dev(tmp_path):
    """A /dev without one (nvidiactl alone is none)."""
    (tmp_path / "nvidiactl").touch()
    return tmp_path


TRAIN = ["train", "-solver", "solver.prototxt"]


@pytest.mark.parametrize("command", [TRAIN, ["test", "-model", "a"], ["time", "--model=a"]])
def test_gpu_is_used(dev, command):
    arguments, line = gpu_arguments(dev, *command)
    assert arguments == [*command, "-gpu", "0"] and "on GPU 0" in line


@pytest.mark.parametrize("command", [TRAIN, ["test", "-model", "a"], ["time", "--model=a"]])
def test_without_a_gpu_the_cpu_is_used_and_named(no_dev, command):
    arguments, line = gpu_arguments(no_dev, *command)
    assert arguments == command and "on the CPU: this container has no GPU" in line


def test_a_named_gpu_wins(dev):
    assert gpu_arguments(dev, *TRAIN, CAFFE_GPU="2")[0] == [*TRAIN, "-gpu", "2"]
    arguments, line = gpu_arguments(dev, *TRAIN, CAFFE_GPU="none")
    assert arguments == TRAIN and "on the CPU" in line


def test_hidden_gpus_are_none(dev):
    for hidden in ("", "-1"):
        assert gpu_arguments(dev, *TRAIN, CUDA_VISIBLE_DEVICES=hidden)[0] == TRAIN


@pytest.mark.parametrize(
    "command",
    [
        [*TRAIN, "-gpu", "1"],
        [*TRAIN, "--gpu=all"],
        ["train", "-gpu=1"],
        ["device_query"],
        ["-version"],
        [],
    ],
)
def test_left_alone(dev, command):
    arguments, line = gpu_arguments(dev, *command)
    assert [word for word in arguments if word] == command and line == ""


@pytest.mark.parametrize("flag", [["-solver", "{}"], ["--solver={}"]])
def test_solver_mode_of_the_solver_stands(dev, flag, tmp_path):
    """-gpu would win over it: see train() in Caffe's tools/caffe.cpp."""
    solver = tmp_path / "mine.prototxt"
    command = ["train", *(word.format(solver) for word in flag)]
    solver.write_text("# solver_mode: CPU\nnet: 'a'\n")
    assert gpu_arguments(dev, *command)[0] == [*command, "-gpu", "0"]
    solver.write_text("net: 'a'\n  solver_mode: CPU\n")
    arguments, line = gpu_arguments(dev, *command)
    assert arguments == command and str(solver) in line


@pytest.mark.parametrize("link", [False, True])
def test_wrapper_runs_caffe(tmp_path, link):
    """As the image has it: PREFIX/gpu/caffe beside PREFIX/bin/caffe, and a link on PATH."""
    for folder in ("bin", "gpu"):
        (tmp_path / folder).mkdir()
    real, wrapper = tmp_path / "bin" / "caffe", tmp_path / "gpu" / "caffe"
    real.write_text("#!/bin/sh\nprintf '%s|' \"$@\"\nexit 7\n")
    real.chmod(0o755)
    shutil.copy(WRAPPER, wrapper)
    if link:
        (tmp_path / "caffe").symlink_to(wrapper)
        wrapper = tmp_path / "caffe"
    done = run(wrapper, "train", "-solver", "a b", CAFFE_GPU="1")
    assert (done.returncode, done.stdout) == (7, "train|-solver|a b|-gpu|1|")
    done = run(wrapper, *TRAIN, CAFFE_GPU="first")
    assert done.returncode == 2 and done.stdout == "" and "CAFFE_GPU is 'first'" in done.stderr


# --- what is in an image


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="no dpkg: not Debian")
def test_runtime_packages():
    """Those of Caffe's libraries, without what the libraries themselves depend on."""
    done = run(ROOT / "docker" / "image" / "runtime_packages.sh", PREFIX / "lib")
    assert done.returncode == 0, done.stderr
    packages = done.stdout.split()
    assert packages == sorted(set(packages))
    for pattern in (
        "python3",
        "librsvg2-bin",
        r"libopenblas0-.*",
        r"libopencv-imgcodecs.*",
        r"libboost-python.*",
        r"libprotobuf\d+(t64)?",  # t64: releases with 64-bit times
        "liblmdb0",
    ):
        assert any(re.fullmatch(pattern, name) for name in packages), f"{pattern}: {packages}"
    assert not [name for name in packages if name.endswith("-dev") or "gdal" in name]


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="no dpkg: not Debian")
def test_runtime_packages_names_a_library_that_is_nowhere(tmp_path):
    broken = tmp_path / "broken.so"
    library = (PREFIX / "lib" / "libcaffe.so").read_bytes()
    broken.write_bytes(library.replace(b"libglog.so.", b"libgl0g.so."))
    done = run(ROOT / "docker" / "image" / "runtime_packages.sh", tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(
        rf"error: libgl0g\.so\.\d+ is not found, which is needed by {broken}\n", done.stderr
    )


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="no dpkg: not Debian")
def test_versions():
    done = run(ROOT / "docker" / "image" / "versions.sh", PREFIX, "1234abc")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == ["kind", "name", "version"] and all(len(row) == 3 for row in rows)
    found = {(kind, name): version for kind, name, version in rows}
    assert found["repository", ROOT.name] == "1234abc"
    assert re.fullmatch("[0-9a-f]{64}", found["caffe", "source"])
    assert ("debian", "libc6") in found
    assert ("python", "numpy") in found
    assert not [name for kind, name, _ in rows if kind == "nvidia"]


def test_versions_of_cuda(tmp_path):
    """Of a build for CUDA also NVIDIA's libraries, by the file that they were installed from."""
    (tmp_path / "BUILD").write_text("recipe: 12\nmode: CUDA 13 (sm_90)\n")
    done = run(ROOT / "docker" / "image" / "versions.sh", tmp_path, "1234abc")
    assert done.returncode == 0, done.stderr
    assert "caffe\tmode\tCUDA 13 (sm_90)\n" in done.stdout
    for package, version in {
        "nvidia-cudnn-cu13": r"9(\.\d+)+",
        "nvidia-nccl-cu13": r"2(\.\d+)+",
        "nvidia-cublas": r"13(\.\d+)+",
    }.items():
        assert re.search(rf"^nvidia\t{package}\t{version}$", done.stdout, re.MULTILINE)


def test_snapshot_folders(tmp_path):
    (tmp_path / "docker").mkdir()
    shutil.copy(ROOT / "docker" / "snapshot_folders.sh", tmp_path / "docker")
    for name, prefix in {
        "a_solver": "snapshots/a/model",
        "mine/b_solver": "snapshots/b c/model",
        "c_solver": "model",
        "d_train_val": "snapshots/d/model",
    }.items():
        file = tmp_path / "prototxt" / f"{name}.prototxt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'net: "x"\nsnapshot_prefix: "{prefix}"  # here\n')
    assert run(tmp_path / "docker" / "snapshot_folders.sh").returncode == 0
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == {"a", "b c"}


def test_test_image_says_what_it_takes():
    script = TEST_IMAGE
    done = run(script, "--help")
    assert done.returncode == 0 and "--data-root" in done.stdout and "Example:" in done.stdout
    for arguments, says in ((["gpu"], "unknown argument gpu"), (["--data-root"], "needs a value")):
        done = run(script, *arguments)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture
def stand_ins(tmp_path):
    """PATH with a docker that only takes in what `import` is given, once a dockerd runs, and a
    debootstrap that makes a folder.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, does in {
        "docker": 'case $1 in import) cat >"$here/base.tar" ;; *) [ -e "$here/running" ]; esac',
        "dockerd": "sleep 3600 & trap 'rm \"$here/running\"; kill $!; exit' TERM\n"
        'echo $$ >"$here/data/pid"; touch "$here/running"; wait',
        "debootstrap": 'mkdir -p "$3"/etc/apt/sources.list.d "$3"/etc/dpkg/dpkg.cfg.d',
        "id": "echo 0",  # -u: root
    }.items():
        (folder / name).write_text(f"#!/bin/sh\nhere={shlex.quote(str(tmp_path))}\n{does}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("release, suite", [("12", "bookworm"), ("13", "trixie")])
def test_a_base_image_made_here_has_the_settings_of_the_registrys(
    stand_ins, tmp_path, release, suite
):
    script = '. "$1"; work=$2; make_base "debian:$3-slim"'
    done = run(
        *("bash", "-c", script, "bash", TEST_IMAGE, tmp_path, release),
        PATH=stand_ins,
        DEBIAN_MIRROR="http://mirror.example",
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "base.tar") as base:
        sources = base.extractfile("./etc/apt/sources.list.d/debian.sources").read().decode()
        dpkg = base.extractfile("./etc/dpkg/dpkg.cfg.d/docker-apt-speedup").read()
    assert dpkg == b"force-unsafe-io\n"
    assert re.findall("^(?:URIs|Suites): (.*)$", sources, re.MULTILINE) == [
        "http://mirror.example/debian",
        f"{suite} {suite}-updates",
        "http://mirror.example/debian-security",
        f"{suite}-security",
    ]


@pytest.mark.parametrize("made, status", [("true", 0), ("false", 1)])
def test_the_daemon_of_the_test_ends_with_it(made, status, stand_ins, tmp_path):
    """Whether or not everything passes; its base image is there already (inspect)."""
    script = '. "$1"; build_image() { '
    script += f'{made}; }}; test_image() {{ :; }}; main --data-root "$2/data" cpu'
    done = run("bash", "-c", script, "bash", TEST_IMAGE, tmp_path, PATH=stand_ins)
    assert done.returncode == status and "unbound" not in done.stderr, done.stderr
    assert "starting a Docker daemon" in done.stdout
    assert not (tmp_path / "running").exists()
