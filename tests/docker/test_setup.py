"""docker/setup.sh and its test scripts: their arguments, and what they do to .venv."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {
    "docker/setup.sh": ["CAFFE_PREFIX", "ANY_SYSTEM"],
    "docker/test_systems.sh": ["--folder", "--steps", "--again", "--keep", "DEBIAN_MIRROR"],
    "tests/under_load.sh": ["--runs", "--at-once", "--loops", "--folder"],
}


def run(*command, **options):
    command = list(map(str, command))
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.parametrize("script, takes", SCRIPTS.items())
def test_help_and_usage_errors(script, takes):
    done = run(ROOT / script, "--help")
    assert done.returncode == 0 and "Example:" in done.stdout, done.stderr
    assert all(option in done.stdout for option in takes)
    for option in (
        option for option in takes if option in ("--folder", "--runs", "--at-once", "--steps")
    ):
        done = run(ROOT / script, option)
        assert done.returncode == 2 and done.stderr == f"error: {option} needs a value\n"


def test_unknown_release():
    done = run(ROOT / "docker/test_systems.sh", "11")
    assert done.returncode == 2 and "unknown release Debian 11" in done.stderr


def test_what_the_machine_says_about_the_network_reaches_the_systems(tmp_path):
    """pip's indexes and proxies; not those that are files of this machine."""
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://index.example/simple\ntimeout = 7\n"
        "extra-index-url = file:///opt/simple https://more.example/simple\n"
    )
    pip = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    done = run(
        *("bash", "-c", '. "$1"; machine_settings; printf "%s\\n" "${pass_on[@]}"', "bash"),
        ROOT / "docker/test_systems.sh",
        env=pip | {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "https_proxy": "http://p:1"},
    )
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.split())
    assert {
        "https_proxy=http://p:1",
        "PIP_INDEX_URL=https://index.example/simple",
        "PIP_EXTRA_INDEX_URL=https://more.example/simple",
    } <= found
    assert not [line for line in found if "file:" in line or "TIMEOUT" in line]


@pytest.mark.skipif(
    run("unshare", "--mount", "--pid", "--fork", "true").returncode != 0,
    reason="no namespaces can be made here: not root, or a container",
)
def test_what_test_systems_starts_ends_with_it():
    """In this very system in place of a made one; the pipe ends when all who hold it have ended."""
    script = '. "$1"; pass_on=(); end_together; inside / sh -c "echo started; exec sleep 100000"'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", ROOT / "docker/test_systems.sh"], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"started\n"
    process.terminate()
    assert process.stdout.read() == b"" and process.wait() == 130


@pytest.fixture
def venv(tmp_path):
    """make_venv() in a folder with blanks and an apostrophe, of a lock file without packages."""
    folder = tmp_path / "a user's own folder"
    shutil.copytree(ROOT / "docker", folder / "docker")
    (folder / "docker/requirements.lock").write_text("# nothing\n")

    def make_venv():
        return run("bash", "-c", ". docker/setup.sh; make_venv", cwd=folder)

    make_venv.folder = folder
    return make_venv


needs_debian = pytest.mark.skipif(
    run("/usr/bin/python3", "-c", "import ensurepip").returncode != 0
    if Path("/usr/bin/python3").exists()
    else True,
    reason="/usr/bin/python3 can make no .venv: not Debian, or an image",
)


@needs_debian
def test_venv_is_made_once_and_made_again_for_another_python(venv):
    python = venv.folder / ".venv/bin/python"
    done = venv()
    assert done.returncode == 0 and "installing" in done.stdout, done.stderr
    assert run(python, "-c", "").returncode == 0
    assert venv().stdout == ""
    python.unlink()
    python.write_text("#!/bin/sh\nexit 1\n")  # as after an upgrade of the system
    python.chmod(0o755)
    done = venv()
    assert "recreating it" in done.stdout and done.returncode == 0, done.stderr
    assert run(python, "-c", "").returncode == 0


@needs_debian
def test_an_unfinished_venv_is_finished(venv):
    assert venv().returncode == 0
    (venv.folder / ".venv/requirements.lock").unlink()
    (venv.folder / ".venv/unfinished").touch()
    done = venv()
    assert done.returncode == 0 and "installing" in done.stdout
    assert (venv.folder / ".venv/requirements.lock").exists()


@needs_debian
def test_what_has_no_wheel_is_said(venv):
    (venv.folder / "docker/requirements.lock").write_text(
        "no-such-package-of-anyone==1.0 --hash=sha256:" + "0" * 64 + "\n"
    )
    done = run(
        *("bash", "-c", ". docker/setup.sh; make_venv"),
        cwd=venv.folder,
        env=os.environ | {"PIP_NO_INDEX": "1"},
    )
    assert done.returncode == 1
    assert "no-such-package-of-anyone" in done.stderr and "make image-cpu" in done.stderr
    assert not (venv.folder / ".venv/requirements.lock").exists()


def test_a_venv_of_the_users_own_stays(venv):
    own = venv.folder / ".venv"
    own.mkdir()
    (own / "mine").touch()
    done = venv()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "make setup' did not make it" in done.stderr
    assert [path.name for path in own.iterdir()] == ["mine"]
