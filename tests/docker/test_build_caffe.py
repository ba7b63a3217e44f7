"""docker/build_caffe.sh without building: its checks, its settings, and when it does nothing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "docker" / "build_caffe.sh"
PATCHES = sorted((ROOT / "docker").glob("patches*/*.patch"))
REQUIREMENTS = sorted((ROOT / "docker").glob("requirements-cuda*.txt"))
TARBALL = "caffe_1.0.0+git20180821.99bd997.orig.tar.gz"


def bash(code, **variables):
    """Run code with the script's functions loaded."""
    return subprocess.run(
        ["bash", "-c", f'. "{SCRIPT}"; {code}'],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def build(*arguments, **variables):
    command = [SCRIPT, "--python", sys.executable, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)


def one_error(done, status=1):
    """The one-line error that a run ended with."""
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("error: ").strip()


@pytest.fixture
def built(tmp_path):
    """A prefix that looks like a finished build of today's script."""
    prefix = tmp_path / "caffe"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "caffe").write_text("#!/bin/sh\n")
    (prefix / "bin" / "caffe").chmod(0o755)
    recipe = bash(f'''mapfile -t facts < <(python_facts "{sys.executable}"); prefix="{prefix}"
                      python_version=${{facts[0]}} numpy_version=${{facts[4]}}; hash_recipe''')
    (prefix / "BUILD").write_text(f"recipe: {recipe.stdout.strip()}\nsource: other\n")
    return prefix


def test_help_and_usage_errors():
    done = build("--help")
    assert done.returncode == 0 and "Example:" in done.stdout
    for option in [
        "--prefix",
        "--source",
        "--python",
        "--jobs",
        "--test",
        "--stock",
        "--cuda",
        "--cuda-arch",
        "--cuda-home",
    ]:
        assert option in done.stdout
    assert "--speed" in one_error(build("--speed"), 2)
    assert "--prefix needs a value" in one_error(build("--prefix"), 2)
    assert "--jobs two" in one_error(build("--jobs", "two"), 2)
    assert "--cuda 11 is not one of" in one_error(build("--cuda", "11"), 2)
    assert "are for --cuda" in one_error(build("--cuda-arch", "90"), 2)
    assert "are for --cuda" in one_error(build("--cuda-home", "/usr"), 2)
    assert "--stock is for the CPU" in one_error(build("--stock", "--cuda", "13"), 2)


@pytest.mark.parametrize("listed", ["90a", "75,80", "sm_90", "7.5", "9", "075", "75;rm"])
def test_wrong_architectures(listed):
    assert f"'{listed}' is not a list" in one_error(build("--cuda", "13", "--cuda-arch", listed), 2)


def test_unchanged_build_is_not_repeated(built):
    before = (built / "BUILD").stat().st_mtime_ns
    done = build("--prefix", built, PATH=f"{built}/no_network:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (0, f"Caffe: up to date in {built}\n")
    assert (built / "BUILD").stat().st_mtime_ns == before
    assert not built.with_name("caffe.build").exists()


@pytest.mark.parametrize("change", ["recipe", "source", "broken"])
def test_changed_or_broken_build_is_repeated(built, tmp_path, change):
    source = tmp_path / "tree"
    source.mkdir()  # no Caffe in it: the attempt ends there
    if change == "recipe":
        (built / "BUILD").write_text("recipe: 0\n")
    elif change == "broken":
        (built / "bin" / "caffe").write_text("#!/bin/sh\nexit 127\n")
    before = (built / "BUILD").read_text()
    assert "holds no Caffe source" in one_error(build("--prefix", built, "--source", source))
    assert (built / "BUILD").read_text() == before  # stays until a new build is complete


def test_recipe_depends_on_python_numpy_and_prefix():
    values = dict(python_version="3.11", numpy_version="2.4.6", prefix="/x")
    changes = [{}, {"python_version": "3.12"}, {"numpy_version": "1.26.4"}, {"prefix": "/y"}]
    hashes = [bash("hash_recipe", **{**values, **change}).stdout for change in changes]
    assert len(set(hashes)) == len(hashes) and all(hashes)
    assert bash("hash_recipe", **{**values, "numpy_version": "2.0.1"}).stdout == hashes[0]


def test_stock_is_another_build_in_a_folder_of_its_own():
    values = dict(python_version="3.11", numpy_version="2.4.6", prefix="/x", cuda="", HOME="/h")
    hashes = [bash("hash_recipe", **values, stock=stock).stdout for stock in ("", "yes")]
    assert len(set(hashes)) == 2 and all(hashes)
    listed = [bash("list_patches", stock=stock).stdout.splitlines() for stock in ("", "yes")]
    assert listed[0][:5] == listed[1] and len(listed[0]) > 5
    assert bash("default_prefix", **values, stock="yes").stdout.strip() == "/h/.local/caffe-stock"


@pytest.fixture
def toolkit(tmp_path):
    """A folder that looks like an installed CUDA 12.4 whose compiler knows few architectures."""
    home = tmp_path / "cuda-12.4"
    for folder in ["bin", "include", "lib64", "nvvm"]:
        (home / folder).mkdir(parents=True)
    (home / "bin" / "nvcc").write_text(
        "#!/bin/sh\ncase $1 in\n"
        '--version) echo "Cuda compilation tools, release 12.4, V12.4.131" ;;\n'
        "--list-gpu-code) printf 'sm_60\\nsm_75\\nsm_90\\n' ;;\nesac\n"
    )
    (home / "bin" / "nvcc").chmod(0o755)
    return home


CUDA = """. "$here/cuda.sh"; python="$python" python_version=3.11 numpy_version=2.4.6
          work=/w prefix=/x; use_cuda"""


def use_cuda(code, cuda="13", **variables):
    """Run code with the options for CUDA completed."""
    values = dict(cuda=cuda, cuda_arch="", cuda_home="", python=sys.executable)
    return bash(f"{CUDA}; {code}", **{**values, **variables})


def test_cuda_options_reach_cmake():
    options = use_cuda('printf "%s\\n" "${CMAKE_OPTIONS[@]}"').stdout.splitlines()
    assert "-DCPU_ONLY=OFF" in options and "-DCPU_ONLY=ON" not in options
    assert "-DUSE_CUDNN=ON" in options and "-DUSE_NCCL=ON" in options
    assert "-DCUDA_ARCH_BIN=75 80 90 100 120" in options and "-DCUDA_ARCH_PTX=120" in options
    options = use_cuda('printf "%s\\n" "${CMAKE_OPTIONS[@]}"', cuda_arch="90 100 75 90").stdout
    assert "-DCUDA_ARCH_BIN=75 90 100\n" in options and "-DCUDA_ARCH_PTX=100\n" in options
    assert "-DCPU_ONLY=ON" in bash('printf "%s\\n" "${CMAKE_OPTIONS[@]}"').stdout.splitlines()


def test_recipe_depends_on_cuda(toolkit):
    cpu = bash("hash_recipe", prefix="/x", python_version="3.11", numpy_version="2.4.6").stdout
    hashes = [cpu] + [
        use_cuda("hash_recipe", **options).stdout
        for options in [
            {},
            {"cuda_arch": "90"},
            {"cuda_arch": "80 90"},
            {"cuda": "12", "cuda_home": str(toolkit)},
            {"cuda": "12", "cuda_home": str(toolkit), "cuda_arch": "90"},
        ]
    ]
    assert len(set(hashes)) == len(hashes) and all(hashes)
    assert use_cuda("hash_recipe", cuda_arch="90 80").stdout == hashes[3]  # the order says nothing


def test_cuda_home_is_checked(toolkit, tmp_path):
    message = one_error(build("--cuda", "13", "--cuda-home", toolkit, "--prefix", tmp_path / "p"))
    assert f"{toolkit} is not CUDA 13" in message
    message = one_error(build("--cuda", "12", "--cuda-home", tmp_path, "--prefix", tmp_path / "p"))
    assert "has no bin/nvcc" in message
    assert not (tmp_path / "p.build").exists()


def test_cuda_12_needs_a_toolkit():
    done = use_cuda("", cuda="12", PATH=os.environ["PATH"])
    if list(Path("/usr/local").glob("cuda-12*")):
        assert done.returncode == 0
    else:
        assert "--cuda 12 needs a CUDA 12 toolkit" in one_error(done)


def test_architectures_are_asked_of_the_compiler(toolkit, tmp_path):
    (tmp_path / "cuda").symlink_to(toolkit)
    code = f'. "$here/cuda.sh"; work="{tmp_path}" cuda_arch="%s"; check_architectures'
    assert bash(code % "60 90").returncode == 0
    message = one_error(bash(code % "60 100"))
    assert "compiles for 60 75 90" in message and "--cuda-arch 100" in message


@pytest.mark.parametrize(
    "left, kind",
    [
        ("cuda: 13\ncuda_arch: 75 90\ncuda_home: \n", "CUDA 13 (sm_75 sm_90)"),
        ("", "the CPU"),
        ("cuda: \nstock: yes\n", "the CPU, stock"),
    ],
)
def test_a_folder_stays_what_it_was_built_for(built, tmp_path, left, kind):
    (built / "BUILD").write_text("recipe: 0\n" + left)
    (tmp_path / "tree").mkdir()  # no Caffe in it: the attempt ends there
    done = build("--prefix", built, "--source", tmp_path / "tree")
    assert f"for {kind} (log: " in done.stdout and "holds no Caffe source" in done.stderr


def test_default_architectures_are_lists_that_the_option_takes():
    tables = bash(
        '. "$here/cuda.sh"; for cuda in "${!CUDA_ARCH[@]}"; do '
        'echo "$cuda ${CUDA_ARCH[$cuda]}"; done'
    ).stdout.splitlines()
    assert {line.split()[0] for line in tables} == {
        re.search(r"cuda(\d+)", path.name).group(1) for path in REQUIREMENTS
    }
    for line in tables:
        numbers = [int(word) for word in line.split()[1:]]
        assert numbers == sorted(set(numbers)) and numbers[0] >= 50


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.stem)
def test_cuda_wheels_are_pinned_with_checksums(path):
    lines = [
        line
        for line in path.read_text().replace("\\\n", " ").splitlines()
        if line and not line.startswith("#")
    ]
    pin = re.compile(r"(nvidia-[a-z0-9-]+)==[0-9.]+ +--hash=sha256:[0-9a-f]{64}")
    names = [pin.fullmatch(line).group(1) for line in lines]
    assert len(set(names)) == len(names)
    assert any(name.startswith("nvidia-cudnn-") for name in names)
    assert any(name.startswith("nvidia-nccl-") for name in names)


def test_toolkit_is_merged_once_and_libraries_get_their_link_names(toolkit, tmp_path):
    """A stand-in for pip leaves the folders of cuDNN's wheel."""
    (toolkit / "lib64" / "libcudart.so.12").write_text("library")
    (toolkit / "include" / "cuda.h").write_text("header")
    pip = tmp_path / "python"
    pip.write_text(
        f"""#!/bin/sh
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/nvidia/cudnn/lib" "$2/nvidia/cudnn/include"
echo 9 > "$2/nvidia/cudnn/lib/libcudnn.so.9"
echo once >> "{tmp_path}/fetched"
"""
    )
    pip.chmod(0o755)
    code = (
        f'. "$here/cuda.sh"; python="{pip}" work="{tmp_path}/work" log="{tmp_path}/log"; '
        f'cuda=12 cuda_home="{toolkit}"; mkdir "$work"; assemble_toolkit; assemble_toolkit'
    )
    done = bash(code)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fetched").read_text() == "once\n"
    merged = tmp_path / "work" / "cuda"
    assert (merged / "lib64" / "libcudnn.so").read_text() == "9\n"
    assert (merged / "lib" / "libcudart.so").read_text() == "library"
    assert (merged / "include" / "cuda.h").read_text() == "header"
    assert (merged / "bin" / "nvcc").exists() and not (tmp_path / "work" / "wheels").exists()


def test_failed_download_leaves_no_toolkit(tmp_path):
    pip = tmp_path / "python"
    pip.write_text("#!/bin/sh\necho 'ERROR: no such host'; exit 1\n")
    pip.chmod(0o755)
    done = bash(
        f'. "$here/cuda.sh"; python="{pip}" work="{tmp_path}" log="{tmp_path}/log" cuda=13 '
        "cuda_home=; assemble_toolkit"
    )
    assert done.returncode == 1
    assert "no such host" in done.stderr and "error: pip could not fetch" in done.stderr
    assert not (tmp_path / "cuda" / "READY").exists()


def test_foreign_folder_is_not_replaced(tmp_path):
    (tmp_path / "mine").write_text("precious")
    assert "was not built by this script" in one_error(build("--prefix", tmp_path))
    assert (tmp_path / "mine").read_text() == "precious"


def test_missing_package_is_named(tmp_path):
    (tmp_path / "packages.sh").write_text("#!/bin/sh\necho no-such-package-1\n")
    (tmp_path / "packages.sh").chmod(0o755)
    message = one_error(bash(f'here="{tmp_path}"; check_packages'))
    assert "lacks the packages no-such-package-1: " in message
    assert "docker/packages.sh caffe" in message


def test_interpreter_without_numpy(tmp_path):
    bare = tmp_path / "bare"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", bare], check=True)
    done = build("--python", bare / "bin" / "python", "--prefix", tmp_path / "p", PYTHONPATH="")
    assert "lacks numpy, protobuf, six: " in one_error(done)


def test_wrong_source(tmp_path):
    wrong = tmp_path / TARBALL
    wrong.write_bytes(b"not Caffe")
    message = one_error(build("--prefix", tmp_path / "p", "--source", wrong))
    assert f"{wrong} is not Caffe's source: it is not a complete tarball" in message
    message = one_error(build("--prefix", tmp_path / "p", "--source", tmp_path / "none"))
    assert "does not exist" in message
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "name, entries, expected",
    [
        (
            "debian.sources",
            """\
# the archive
Types: deb
URIs: http://mirror.example/debian
Suites: CODENAME CODENAME-updates
Components: main contrib
Architectures: amd64
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://mirror.example/security
Suites: CODENAME-security
Components: main

Types: deb
URIs: http://tools.example/apt
Suites: nodistro
Components: main

Types: deb
URIs: http://off.example/debian
Suites: CODENAME
Components: main
Enabled: no
""",
            """\
Types: deb-src
Suites: bullseye
Components: main
URIs: http://mirror.example/debian
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

""",
        ),
        (
            "local.list",
            """\
# deb http://old.example/debian CODENAME main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian CODENAME main contrib  # ours
deb http://plain.example/debian stable main
deb http://mirror.example/security CODENAME-security main
deb http://tools.example/apt nodistro main
deb-src http://mirror.example/debian CODENAME main
""",
            """\
deb-src [ signed-by=/k.gpg] http://mirror.example/debian bullseye main
deb-src http://plain.example/debian bullseye main
""",
        ),
    ],
)
def test_source_entries_follow_the_machines_own(tmp_path, name, entries, expected):
    codename = bash("sed -n s/^VERSION_CODENAME=//p /etc/os-release").stdout.strip() or "stable"
    parts = tmp_path / "apt" / "sources.list.d"
    parts.mkdir(parents=True)
    (parts / name).write_text(entries.replace("CODENAME", codename))
    done = bash(f'source_entries "{tmp_path}/apt" "{tmp_path}/out" bullseye')
    assert done.returncode == 0, done.stderr
    written = {path.suffix: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {Path(name).suffix: expected}


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_patch_states_its_reason(patch):
    reason = patch.read_text().split("\n--- a/")[0]
    assert len(reason.split()) > 25 and not reason.startswith(("---", "From", "diff"))


def test_patches_apply_to_the_verified_source(tmp_path):
    prefix = Path(shutil.which("caffe")).resolve().parent.parent
    tarball = prefix.with_name(prefix.name + ".build") / TARBALL
    if not tarball.exists():
        pytest.skip(f"{tarball}, which a build fetches, is not there")
    code = """. "$3"; log=$2/log
        unpack "$1" "$2/tree" && right_content "$2/tree" &&
          apply_patches "$2/tree" "$here/patches" """
    run = ["bash", "-c", code, "bash", tarball, tmp_path, SCRIPT]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tree = tmp_path / "tree"
    shutil.copytree(tree, tmp_path / "source")
    done = bash(f'log="{tmp_path}/log"; apply_patches "{tmp_path}/source" "$here/patches-cuda"')
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log").read_text()
    assert "fuzz" not in log and "offset" not in log
    assert log.count("patching file tools/caffe.cpp") == 3  # two of patches, one of patches-cuda
    (tree / "tools" / "caffe.cpp").unlink()  # a tree that is not that version
    done = bash(f'log="{tmp_path}/log"; apply_patches "{tree}" "$here/patches"')
    assert done.returncode == 1 and "does not apply" in done.stderr


@pytest.fixture
def project(tmp_path):
    """start(): start_or_resume on a small source and one patch; its output. It was called once."""
    source, patches = tmp_path / "mine", tmp_path / "here" / "patches"
    for name in ("src/caffe/proto/caffe.proto", "same.cpp", "patched.cpp", "gone.cpp"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("one\n")
    patches.mkdir(parents=True)
    work = tmp_path / "work"
    work.mkdir()

    def start(python_version="3.11"):
        code = f"""here={tmp_path}/here work={work} log=$work/log source={source} cuda= prefix=/x
            python=/p python_version={python_version} numpy_version=2.4.6
            recipe=$(hash_recipe); start_or_resume"""
        done = bash(code)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def patch(to):
        (patches / "0001-a.patch").write_text(
            f"--- a/patched.cpp\n+++ b/patched.cpp\n@@ -1 +1 @@\n-one\n+{to}\n"
        )

    patch("two")
    start()
    for file in (work / "source").rglob("*"):
        os.utime(file, (1, 1))
    (work / "build" / "same.o").touch()
    (work / "source" / "made.so").touch()
    return SimpleNamespace(start=start, patch=patch, source=source, work=work)


def times(project):
    return {
        path.name: path.stat().st_mtime for path in (project.work / "source").iterdir()
    }  # whole seconds: those that os.utime set


def test_one_changed_patch_compiles_only_what_it_concerns(project):
    """Unchanged files keep their time, and build products stay."""
    project.patch("three")
    (project.source / "gone.cpp").unlink()
    assert "source: 2;" in project.start()
    tree, found = project.work / "source", times(project)
    assert (tree / "patched.cpp").read_text() == "three\n" and found["patched.cpp"] > 1
    assert found["same.cpp"] == 1 and (tree / "made.so").exists()
    assert "gone.cpp" not in found and (project.work / "build" / "same.o").exists()
    assert "resuming in" in project.start()


def test_an_interrupted_update_is_done_again(project):
    project.patch("three")
    (project.work / "started").unlink()
    (project.work / "source" / "patched.cpp").write_text("hal")
    project.start()
    assert (project.work / "source" / "patched.cpp").read_text() == "three\n"
    assert times(project)["same.cpp"] == 1


def test_another_configuration_compiles_everything(project):
    project.start(python_version="3.12")
    assert not (project.work / "build" / "same.o").exists()
    assert not (project.work / "source" / "made.so").exists()
