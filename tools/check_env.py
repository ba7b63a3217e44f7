#!/usr/bin/env python3
"""Check this project's environment: what is installed, what is missing, and how to correct it.

Without options: Python and its packages, Caffe, whether the caffe binary can import the Python
layers, GPUs, and (as notes, since few users need them all) the LMDBs and weights that the solvers
in prototxt/ read.
With --solver: every file that `caffe train -solver` reads under that solver's stages, with the
command that makes a missing one; whether the net's classifiers and test_iter fit the data set; and
the snapshot from which training can resume.

The exit status is 1 if anything required is missing or wrong; notes do not count.

Examples:
    tools/check_env.py
    tools/check_env.py --solver prototxt/cub_googlenet_ours_solver.prototxt
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

# Standard library only, because this command reports which other packages are missing.

ROOT = Path(__file__).resolve().parent.parent
SETUP = "make setup"
ACTIVATE = ". .venv/bin/activate"
SETUP_ACTIVATE = f"`{SETUP}`, then `{ACTIVATE}`"

# The GLM loss over four equal samples: a small net for which the binary must embed Python.
LAYER_NET = """
layer { name: "data" type: "DummyData" top: "features" top: "label"
        dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 1 } } }
layer { name: "glm" type: "Python" bottom: "features" bottom: "label" top: "loss" loss_weight: 1
        python_param { module: "python_layers.glm_loss" layer: "GLMLossLayer" } }
"""


class Report:
    """Prints one line per item and counts what is missing or wrong."""

    def __init__(self):
        self.missing = self.wrong = 0

    def line(self, status, item, text):
        print(f"{status:8} {item:24} {text}", flush=True)

    def ok(self, item, text=""):
        self.line("ok", item, text)

    def note(self, item, text):
        self.line("note", item, text)

    def lacks(self, item, text, fix):
        self.missing += 1
        self.line("missing", item, f"{text}: {fix}" if text else fix)

    def fails(self, item, text):
        self.wrong += 1
        self.line("wrong", item, text)

    def summary(self):
        counts = {"missing": self.missing, "wrong": self.wrong}
        faults = [f"{count} {what}" for what, count in counts.items() if count]
        return ", ".join(faults) or "everything required is installed"


def pins(path=ROOT / "docker" / "requirements.txt"):
    """{package: version} of the pinned packages."""
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def check_python(report):
    version = ".".join(map(str, sys.version_info[:3]))
    if Path(sys.prefix).resolve() == (ROOT / ".venv").resolve():
        report.ok("Python", f"{version} of .venv")
    else:
        report.note(
            "Python",
            f"{version}, {sys.executable}, not that of .venv: `{ACTIVATE}`, after `{SETUP}`",
        )
    for package, wanted in pins().items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            report.lacks(package, "not installed", SETUP_ACTIVATE)
            continue
        if found == wanted:
            report.ok(package, found)
        else:
            report.note(
                package, f"{found} instead of {wanted}: `{SETUP}` installs the tested version"
            )


def check_repository(report):
    """Whether this Python finds the packages of the repository; the other checks need them."""
    if importlib.util.find_spec("data_prep") and importlib.util.find_spec("tools"):
        return True
    report.lacks("repository", f"not installed in {sys.executable}", SETUP_ACTIVATE)
    return False


def check_caffe(report):
    from tools import caffe_program

    if not shutil.which("caffe"):
        built = (ROOT / ".venv" / "bin" / "caffe").exists()
        report.lacks("caffe", "not on PATH", f"`{ACTIVATE}`" if built else SETUP_ACTIVATE)
        return
    status, version = caffe_program.run("-version")
    if status != 0:
        report.lacks("caffe", f"does not start ({version})", f"`{SETUP}` rebuilds it")
        return
    status, devices = caffe_program.run("device_query", "-gpu", "all")
    cpu_only = "CPU-only" in devices
    version = version.removeprefix("caffe version ")
    report.ok(
        "caffe",
        f"{version}, {'CPU' if cpu_only else 'GPU'} build, "
        f"{os.path.realpath(shutil.which('caffe'))}",
    )
    if cpu_only:
        report.ok("GPU", "none is used: Caffe is a CPU build")
    elif status == 0:
        report.ok("GPU", "found by Caffe")
    else:
        report.note(
            "GPU",
            f"Caffe is a GPU build but finds no GPU ({devices}); without `-gpu` it uses the CPU",
        )
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as net:
        net.write(LAYER_NET)
        net.flush()
        status, message = caffe_program.run("time", "-model", net.name, "-iterations", "1")
    if status == 0:
        report.ok("Python layers", "the caffe binary imports and runs python_layers.glm_loss")
    else:
        report.lacks(
            "Python layers",
            message,
            f"`{SETUP}`"
            if "No module named" not in message
            else f"`{ACTIVATE}`, so that caffe embeds the Python of .venv",
        )


def check_pycaffe(report):
    """Whether caffe can be imported here; the checks of prototxts need it."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    try:
        caffe = importlib.import_module("caffe")
        importlib.import_module("google.protobuf.text_format")
    except Exception as error:  # a broken build may raise anything, which is reported here
        report.lacks("pycaffe", f"{type(error).__name__}: {error}", SETUP_ACTIVATE)
        return False
    report.ok("pycaffe", str(Path(caffe.__file__).parent))
    return True


def check_solver(report, path):
    """Every file that training by this solver needs, relative to the current folder."""
    from data_prep.common.errors import UserError
    from tools import inputs

    try:
        solver, net, sources, means = inputs.inputs_of(path)
    except UserError as error:
        report.lacks(
            "solver", str(error), "name one of prototxt/*_solver.prototxt, from the repository root"
        )
        return
    report.ok("solver", str(path))
    report.ok("net", net)
    for source in sources:
        if inputs.is_lmdb(source):
            report.ok("LMDB", source)
        else:
            report.lacks("LMDB", source, inputs.build_command(Path(source).parent))
    for mean in means:
        if Path(mean).is_file():
            report.ok("mean", mean)
        else:
            report.lacks("mean", mean, inputs.build_command(Path(mean).parent))
    for weights in ",".join(solver.weights).split(","):
        if weights and Path(weights).is_file():
            report.ok("weights", weights)
        elif weights:
            report.lacks("weights", weights, inputs.weights_command(weights))
    snapshots = Path(solver.snapshot_prefix).parent
    if solver.snapshot_prefix and not snapshots.is_dir():
        report.lacks("snapshots", f"folder {snapshots}", f"mkdir -p {snapshots}")
    check_fit(report, solver, net, sources)
    check_snapshots(report, solver)


def check_fit(report, solver, net, sources):
    """Check that the net fits the data that it reads, as far as these exist."""
    from tools import data_checks, inputs

    if not all(map(inputs.is_lmdb, sources)):
        return
    found = data_checks.findings(solver, inputs.read_net(net))
    for finding in found:
        (report.fails if finding.serious else report.note)(finding.item, finding.text)
    if not found:
        report.ok("data", "classes and image counts match the net")


def check_snapshots(report, solver):
    """Report the newest snapshot from which training can resume, and damaged ones."""
    from tools import snapshots

    for snapshot in snapshots.of_solver(solver):
        reason = snapshot.problem()
        if reason is None:
            report.note("snapshot", f"`caffe train ... -snapshot {snapshot.state}` resumes from it")
            return
        report.note("snapshot", f"iteration {snapshot.iteration} is skipped: {reason}")


def check_all_solvers(report):
    """Report the data sets of all solvers, one line each, and the weights that they start from."""
    from data_prep.common.errors import UserError
    from tools import inputs
    from tools.nets import tables

    os.chdir(ROOT)
    folders = {}
    for path in sorted(Path("prototxt").glob("*_solver.prototxt")):
        try:
            sources = inputs.inputs_of(path)[2]
        except UserError as error:
            report.lacks("solver", str(error), "tools/make_prototxt.py writes it again")
            continue
        for source in sources:
            folders.setdefault(str(Path(source).parent), {})[source] = path
    for folder, sources in folders.items():
        if all(inputs.is_lmdb(source) for source in sources):
            report.ok(folder, f"{len(sources)} LMDBs")
        else:
            report.note(folder, f"not built: {inputs.build_command(folder)}")
    for weights in sorted({net.weights for net in tables.NETS.values() if net.weights}):
        if Path(weights).is_file():
            report.ok(weights)
        else:
            report.note(weights, f"not found: {inputs.weights_command(weights)}")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--solver",
        type=Path,
        metavar="FILE",
        help="check the files that training with this solver needs",
    )
    args = parser.parse_args(argv)
    report = Report()
    if args.solver:
        if check_repository(report) and check_pycaffe(report):
            check_solver(report, args.solver)
    else:
        check_python(report)
        if check_repository(report):
            check_caffe(report)
        if check_pycaffe(report):
            check_all_solvers(report)
    print(report.summary())
    return 1 if report.missing or report.wrong else 0


if __name__ == "__main__":
    try:  # as data_prep.common.command, which may be missing
        status = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of the output, e.g. head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
