#!/usr/bin/env python3
"""Say what of this project's environment is there, what is missing, and how to mend it.

Without options: Python and its packages, Caffe, whether the caffe binary can import the Python
layers, GPUs, and (as notes: nobody needs them all) the LMDBs and weights that the solvers in
prototxt/ would read.
With --solver: every file that `caffe train -solver` would read, under the stages which that solver
names; the ones that are missing come with the command that makes them.

The exit status is 1 when something that is needed is missing, notes apart.

Examples:
    tools/check_env.py
    tools/check_env.py --solver prototxt/cub_googlenet_ours_solver.prototxt
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):  # run as a file: the repository's packages, not this folder's
    sys.path[0] = str(ROOT)

# Only the standard library here, and not data_prep.cli: that refuses to start where this command
# has to say why.
import argparse
import functools
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import tempfile

from tools import prototxt

SETUP = "make setup"
ACTIVATE = ". .venv/bin/activate"
SETUP_ACTIVATE = f"`{SETUP}`, then `{ACTIVATE}`"

# The GLM loss over four equal samples: small, but the binary must embed Python, import and run it.
LAYER_NET = """
layer { name: "data" type: "DummyData" top: "features" top: "label"
        dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 1 } } }
layer { name: "glm" type: "Python" bottom: "features" bottom: "label" top: "loss" loss_weight: 1
        python_param { module: "python_layers.glm_loss" layer: "GLMLossLayer" } }
"""

# How weights that are no product of this repository come about.
WEIGHTS = {
    "squeezenet_v1.1.caffemodel": "tools/convert_squeezenet.py",
    "VGG_ILSVRC_16_layers.caffemodel": "download it from http://www.robots.ox.ac.uk/~vgg/"
    "software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel into weights/",
}
ZOO = "download it from BVLC's model zoo ({name}) into weights/"


class Report:
    """Prints one line per item and counts what is missing."""

    def __init__(self):
        self.missing = 0

    def line(self, status, item, text):
        print(f"{status:8} {item:24} {text}", flush=True)

    def ok(self, item, text=""):
        self.line("ok", item, text)

    def note(self, item, text):
        self.line("note", item, text)

    def lacks(self, item, text, mend):
        self.missing += 1
        self.line("missing", item, f"{text}: {mend}" if text else mend)


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
            report.note(package, f"{found} instead of {wanted}: `{SETUP}` installs what was tried")


def run_caffe(*arguments):
    """(exit status, last message) of the caffe binary.

    It runs in an empty folder, so that no package there helps its imports.
    """
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "GLOG_minloglevel": "0", "GLOG_logtostderr": "1"}
        done = subprocess.run(
            ["caffe", *arguments],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    logged = re.findall(r"^[EF]\d{4}.*?\] (.*)", done.stdout, re.MULTILINE)
    lines = done.stdout.strip().splitlines()
    return done.returncode, logged[-1] if logged else lines[-1] if lines else "no message"


def check_caffe(report):
    if not shutil.which("caffe"):
        built = (ROOT / ".venv" / "bin" / "caffe").exists()
        report.lacks("caffe", "not on PATH", f"`{ACTIVATE}`" if built else SETUP_ACTIVATE)
        return
    status, version = run_caffe("-version")
    if status != 0:
        report.lacks("caffe", f"does not start ({version})", f"`{SETUP}` builds it anew")
        return
    status, devices = run_caffe("device_query", "-gpu", "all")
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
            f"Caffe is a GPU build but finds none ({devices}); without `-gpu` it uses the CPU",
        )
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as net:
        net.write(LAYER_NET)
        net.flush()
        status, message = run_caffe("time", "-model", net.name, "-iterations", "1")
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
    except Exception as error:  # whatever a broken build raises: this command is there to say so
        report.lacks("pycaffe", f"{type(error).__name__}: {error}", SETUP_ACTIVATE)
        return False
    report.ok("pycaffe", str(Path(caffe.__file__).parent))
    return True


@functools.cache  # many solvers share one net
def read_net(path):
    """NetParameter of a prototxt; ValueError as prototxt.parse."""
    from caffe.proto import caffe_pb2

    return prototxt.parse(path, caffe_pb2.NetParameter())


def inputs_of(solver_path):
    """What `caffe train -solver` reads: (SolverParameter, net's path, [LMDB folder], [mean file]).

    Only layers that the solver's train_state and test_state keep count. Raises ValueError in one
    sentence.
    """
    import caffe
    from caffe.proto import caffe_pb2
    from tools.nets import rules

    solver = prototxt.parse(solver_path, caffe_pb2.SolverParameter())
    path = solver.net or solver.train_net
    if not path:
        raise ValueError(f'{solver_path} names no net: give it `net: "..."`')
    layers = [layer for layer in read_net(path).layer if layer.type == "Data"]
    sources, means = {}, {}
    states = [(caffe.TRAIN, solver.train_state)]
    states += [(caffe.TEST, state) for state in solver.test_state or [caffe_pb2.NetState()]]
    for phase, state in states:
        for layer in layers:
            if rules.keeps(layer, phase, set(state.stage)):
                sources[layer.data_param.source] = None
                if layer.transform_param.mean_file:
                    means[layer.transform_param.mean_file] = None
    return solver, path, list(sources), list(means)


def build_command(folder):
    """The command that makes the LMDBs in a folder such as data/cub; tools/nets has a table."""
    from tools.nets import tables

    return tables.build_commands().get(
        Path(folder).as_posix(),
        (
            f"data_prep/build_lmdb.py DATASET --out {folder} "
            "(data_prep/build_lmdb.py --help lists the data sets)"
        ),
    )


def weights_command(path):
    name = Path(path).name
    return WEIGHTS.get(name) or ZOO.format(name=name.removesuffix(".caffemodel"))


def is_lmdb(path):
    return (Path(path) / "data.mdb").is_file()


def check_solver(report, path):
    """Every file that training by this solver needs, relative to the current folder."""
    try:
        solver, net, sources, means = inputs_of(path)
    except ValueError as error:
        report.lacks(
            "solver", str(error), "give one of prototxt/*_solver.prototxt, from the repository root"
        )
        return
    report.ok("solver", str(path))
    report.ok("net", net)
    for source in sources:
        if is_lmdb(source):
            report.ok("LMDB", source)
        else:
            report.lacks("LMDB", source, build_command(Path(source).parent))
    for mean in means:
        if Path(mean).is_file():
            report.ok("mean", mean)
        else:
            report.lacks("mean", mean, build_command(Path(mean).parent))
    for weights in ",".join(solver.weights).split(","):
        if weights and Path(weights).is_file():
            report.ok("weights", weights)
        elif weights:
            report.lacks("weights", weights, weights_command(weights))
    snapshots = Path(solver.snapshot_prefix).parent
    if solver.snapshot_prefix and not snapshots.is_dir():
        report.lacks("snapshots", f"folder {snapshots}", f"mkdir -p {snapshots}")


def check_all_solvers(report):
    """The data sets of all solvers, one line each, and the weights that their nets start from."""
    from tools.nets import tables

    os.chdir(ROOT)
    folders = {}
    for path in sorted(Path("prototxt").glob("*_solver.prototxt")):
        try:
            sources = inputs_of(path)[2]
        except ValueError as error:
            report.lacks("solver", str(error), "tools/make_prototxt.py writes it anew")
            continue
        for source in sources:
            folders.setdefault(str(Path(source).parent), {})[source] = path
    for folder, sources in folders.items():
        if all(is_lmdb(source) for source in sources):
            report.ok(folder, f"{len(sources)} LMDBs")
        else:
            report.note(folder, f"not built: {build_command(folder)}")
    for weights in sorted({net.weights for net in tables.NETS.values()}):
        if Path(weights).is_file():
            report.ok(weights)
        else:
            report.note(weights, f"not there: {weights_command(weights)}")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--solver",
        type=Path,
        metavar="FILE",
        help="check the files that this solver's training needs",
    )
    args = parser.parse_args(argv)
    report = Report()
    if args.solver:
        if check_pycaffe(report):
            check_solver(report, args.solver)
    else:
        check_python(report)
        check_caffe(report)
        if check_pycaffe(report):
            check_all_solvers(report)
    print(f"{report.missing} missing" if report.missing else "nothing that is needed is missing")
    return 1 if report.missing else 0


if __name__ == "__main__":
    try:  # as data_prep.cli.command, which may not be imported here
        status = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of our output, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
