"""docker/packages.sh with stand-ins for apt and dpkg: what it installs on which release, and that
what only the demo or a test needs never ends a set-up.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docker" / "packages.sh"
SYSTEMS = [
    line.split(maxsplit=3)
    for line in (ROOT / "docker" / "systems.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
DECKS = {"12": "kdegames-card-data-kf5", "13": "kdegames-card-data"}


def table():
    """[(group, need, [alternative], reason)] of packages.txt, as the script reads it."""
    done = subprocess.run(
        ["bash", "-c", '. "$1"; rows', "bash", SCRIPT], capture_output=True, text=True, check=True
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [(group, need, names.split("|"), reason) for group, need, names, reason in rows]


SET_UP = ("caffe", "python", "demo", "pictures", "tests")  # the groups that set-up takes


def names(*groups):
    return {row[2][0] for row in table() if row[0] in groups}


@pytest.fixture
def machine(tmp_path):
    """Runs the script on a machine whose lists have some packages, of which some are installed."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in (
        "bash",
        "awk",
        "cat",
        "cut",
        "dirname",
        "echo",
        "env",
        "grep",
        "sed",
        "uname",
        "uniq",
        "xargs",
    ):
        (tools / name).symlink_to(shutil.which(name))
    for name, does in {
        "dpkg-query": 'grep -qx "$4" installed && printf installed',
        "apt-cache": 'grep -qx "$2" known && echo "  Candidate: 1" || echo "  Candidate: (none)"',
        # install: all of a transaction or, where one is broken, none of it
        "apt-get": 'echo "$*" >>calls; case " $* " in *" update "*) exit ;; esac\n'
        'all="$*"; wanted=${all#*--no-install-recommends }\n'
        'for name in $wanted; do\n! grep -qx "$name" broken || { echo "E: $name" >&2; exit 100; }\n'
        "done\n"
        "for name in $wanted; do echo $name >>installed; done",
        "id": "cat uid",
    }.items():
        (tools / name).write_text(f'#!/usr/bin/env bash\ncd "$MACHINE"\n{does}\n')
        (tools / name).chmod(0o755)

    def run(*arguments, known=(), installed=(), broken=(), uid=0, system=None, sudo=False):
        for name, lines in dict(known=known, installed=installed, broken=broken).items():
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        (tmp_path / "uid").write_text(str(uid))
        (tmp_path / "calls").write_text("")
        (tmp_path / "os-release").write_text(system or "ID=debian\nVERSION_ID=13\n")
        if sudo:
            (tools / "sudo").write_text('#!/usr/bin/env bash\nexec "$@"\n')
            (tools / "sudo").chmod(0o755)
        done = subprocess.run(
            [
                "bash",
                "-c",
                '. "$1"; os_release=$MACHINE/os-release; shift; main "$@"',
                "bash",
                SCRIPT,
            ]
            + list(arguments),
            env={"PATH": str(tools), "MACHINE": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        done.installed = set((tmp_path / "installed").read_text().split())
        done.calls = (tmp_path / "calls").read_text()
        return done

    return run


def known_on(release):
    """What the lists of a release of Debian have of packages.txt."""
    others = set(DECKS.values()) - {DECKS[release]}
    return {name for row in table() for name in row[2]} - others


@pytest.mark.parametrize("release", DECKS)
def test_each_release_gets_its_own_names(machine, release):
    done = machine(known=known_on(release))
    assert done.returncode == 0, done.stderr
    expected = names(*SET_UP) - set(DECKS.values()) | {DECKS[release]}
    assert done.installed == expected
    assert done.calls.count(" install ") == 1 and "continuing without" not in done.stdout


@pytest.mark.parametrize("group", ["demo", "tests"])
def test_what_only_the_demo_or_a_test_needs_does_not_end_set_up(machine, group):
    """A package that is unknown or can't be installed is left out; the others are installed."""
    absent, broken = sorted(names(group))[:2]
    done = machine(known=known_on("13") - {absent}, broken=[broken])
    assert done.returncode == 0, done.stderr
    assert done.installed == names(*SET_UP) - {
        absent,
        broken,
    }
    lines = done.stdout.split("continuing without these")[1].splitlines()[1:]
    for package in (absent, broken):
        (line,) = [line for line in lines if f"  {package} " in line or f"  {package} or" in line]
        assert f"({group}: " in line


def test_an_optional_package_that_the_lists_lack_costs_no_second_update(machine):
    lists = known_on("13") - {"graphviz"} | {"libc6"}
    done = machine(known=lists, installed=lists)
    assert done.returncode == 0 and done.calls == ""
    assert "graphviz (tests: " in done.stdout


@pytest.mark.parametrize("group", ["caffe", "python"])
def test_what_is_needed_ends_set_up(machine, group):
    package = sorted(names(group))[0]
    done = machine(known=known_on("13") - {package})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"have no {package} (" in done.stderr and not done.installed
    done = machine(known=known_on("13"), broken=[package])
    assert done.returncode == 1
    assert "error: apt-get could not install" in done.stderr.splitlines()[-1]


def test_an_installed_alternative_is_enough(machine):
    everything = {row[2][-1] for row in table()}
    done = machine(known=known_on("13"), installed=everything)
    assert (done.stdout, done.calls) == ("system packages: all installed\n", "")


def test_without_root(machine):
    needed = names("caffe", "python")
    done = machine(known=known_on("13"), uid=1000, installed=needed - {"cmake", "patch"})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert (
        "have an administrator run 'apt-get install cmake patch'" in done.stderr and not done.calls
    )
    done = machine(known=known_on("13"), uid=1000, installed=needed)
    assert done.returncode == 0 and "librsvg2-bin (demo: " in done.stdout and not done.calls
    done = machine(known=known_on("13"), uid=1000, sudo=True)
    assert done.returncode == 0 and needed <= done.installed


@pytest.mark.parametrize("line", SYSTEMS, ids=lambda line: "_".join(line[:2]))
def test_systems(machine, line):
    system, version, state, remark = line
    release = f'PRETTY_NAME="{system} {version}"\nID={system}\nVERSION_ID="{version}"\n'
    done = machine(known=known_on("13"), system=release)
    if state == "refused":
        assert done.returncode == 1 and f"({remark})" in done.stderr and not done.calls
    else:
        assert state in ("tested", "expected") and done.returncode == 0


@pytest.mark.parametrize(
    "system, called",
    [
        ('PRETTY_NAME="Fedora Linux 43"\nID=fedora\nVERSION_ID=43\n', "Fedora Linux 43"),
        ('PRETTY_NAME="Debian GNU/Linux forky/sid"\nID=debian\n', "Debian GNU/Linux forky/sid"),
        ('NAME="Linux Mint"\nID=linuxmint\nID_LIKE=ubuntu\nVERSION_ID="22"\n', "Linux Mint"),
        ("", os.uname().sysname),  # a system without os-release
    ],
)
def test_another_system_is_sent_to_the_image(machine, system, called):
    """In one sentence, before anything is installed; ANY_SYSTEM tries it all the same."""
    done = machine(known=known_on("13"), system=system or "\n")
    assert done.returncode == 1 and not done.calls and not done.installed
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert f"this is {called}: " in done.stderr and "make image-cpu" in done.stderr
    assert "Debian 12 and 13, Ubuntu 24.04 and 26.04" in done.stderr
    assert machine("--any-system", known=known_on("13"), system=system or "\n").returncode == 0


def test_make_setup_asks_for_the_system_first(tmp_path):
    """In a copy whose table does not list this system: one sentence, and nothing is made."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    (tmp_path / "docker" / "systems.txt").write_text("debian 99 tested -\n")
    before = sorted(tmp_path.iterdir())
    outer = ("ANY_SYSTEM", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # of the make that runs the tests
    environment = {key: value for key, value in os.environ.items() if key not in outer}
    done = subprocess.run(
        ["make", "setup"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    error, makes = done.stderr.splitlines()
    assert error.startswith("error: make setup supports Debian 99, but this is ")
    assert makes.startswith("make: ***")
    assert sorted(tmp_path.iterdir()) == before


def test_options(machine):
    assert "Example:" in machine("--help").stdout
    done = machine("--speed")
    assert done.returncode == 2 and "--speed" in done.stderr
    done = machine("games")
    assert done.returncode == 2 and "no group games" in done.stderr and "lint" in done.stderr
    done = machine("--missing", "caffe", installed=names("caffe") - {"cmake"})
    assert done.stdout == "cmake\n"
    done = machine("--installed", "demo", installed=["librsvg2-bin", "kdegames-card-data-kf5"])
    assert sorted(done.stdout.split()) == ["kdegames-card-data-kf5", "librsvg2-bin"]
    done = machine("lint", known=["shellcheck"])
    assert done.installed == {"shellcheck"}


def test_table():
    rows = table()
    needs = {group: need for group, need, _, _ in rows}
    assert needs == {
        "caffe": "needed",
        "python": "needed",
        "pictures": "optional",
        "demo": "optional",
        "tests": "optional",
        "lint": "on request",
        "browser": "on request",
    }
    firsts = [row[2][0] for row in rows]
    assert len(set(firsts)) == len(firsts) and all(row[3] for row in rows)
    known = subprocess.run(["bash", SCRIPT, "--help"], capture_output=True, text=True).stdout
    assert "set-up needs, caffe python demo pictures tests)" in known


def test_readme_names_the_systems():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[1]
    for system, version, state, _ in SYSTEMS:
        assert version in readme and system.capitalize() in readme, (system, version, state)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck: docker/packages.sh lint")
def test_shell_scripts_are_clean():
    scripts = [*(ROOT / "docker").rglob("*.sh"), *(ROOT / "tests").rglob("*.sh")]
    scripts += [ROOT / "docker/image/caffe", ROOT / ".ci/run"]
    scripts = [script for script in scripts if script.exists()]  # an image has no .ci
    done = subprocess.run(
        ["shellcheck", "-x", "--severity=warning", *scripts],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
