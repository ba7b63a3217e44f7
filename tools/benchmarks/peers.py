"""Compares a training step and a forward pass with other engines on the same net, turn by turn."""

import contextlib
import importlib.machinery
import itertools
import json
import os
import platform
import statistics
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_prep.common import files, progress, text_table, typed
from data_prep.common.cores import cores_of_process
from data_prep.common.errors import UserError
from tools import caffe_program

from . import contest, engines, peer_nets

ROOT = Path(__file__).resolve().parents[2]
OURS = "ours"
TRAIN, INFER = "train", "infer"
THREADS, BATCHES = (1, 2), (1, 16, 32)
TURNS, SECONDS = 5, 900
REQUIREMENTS = "pip install -r docker/requirements-compare.txt"
QUIET = 0.2  # cores that other processes may use meanwhile
ROOM = 0.9  # part of the free memory that engines may fill


@dataclass(frozen=True)
class Peer:
    """An engine beside ours.

    title     in the table
    engine    a key of engines.ENGINES
    works     what it is compared in
    needs     modules
    """

    title: str
    engine: str
    works: tuple[str, ...]
    needs: tuple[str, ...] = ()


STOCK, SINGLE = "stock", "single"
PEERS = {
    STOCK: Peer("stock Caffe", engines.CAFFE, (TRAIN, INFER)),
    "torch": Peer("PyTorch", engines.TORCH, (TRAIN, INFER), ("torch",)),
    "torch_last": Peer("PyTorch, channels last", engines.TORCH_LAST, (TRAIN, INFER), ("torch",)),
    "onnxruntime": Peer("ONNX Runtime", engines.ONNX, (INFER,), ("onnxruntime", "onnx")),
    "opencv": Peer("OpenCV", engines.OPENCV, (INFER,)),
    SINGLE: Peer("ours, 1 thread", engines.CAFFE, (TRAIN, INFER)),
}


@dataclass(frozen=True)
class Pair:
    """Ours beside one peer: seconds of a step in each turn, ours and theirs in the same turns.

    error   relative difference of what they compute
    cores   CPU seconds per second, ours and theirs
    memory  bytes at the peak, ours and theirs
    others  CPU seconds per second that other processes used meanwhile
    """

    net: str
    work: str
    batch: int
    threads: int
    peer: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    error: float
    cores: tuple[float, ...]
    memory: tuple[int, ...]
    others: float

    @property
    def disturbed(self):
        """Whether it is to be measured again."""
        return self.others > QUIET

    @property
    def key(self):
        return self.net, self.work, self.batch, self.threads, self.peer

    @property
    def ratios(self):
        """Theirs / ours of each turn: above 1, ours is faster."""
        return [theirs / ours for ours, theirs in zip(self.ours, self.theirs)]


@dataclass(frozen=True)
class Engine:
    """What was measured: version, what multiplies its matrices, and how that runs its threads."""

    version: str
    blas: str = ""
    threading: str = ""


@dataclass(frozen=True)
class Report:
    """The content of --out."""

    machine: dict
    engines: dict[str, Engine] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Case:
    """One net, work, batch and number of threads; peers: names of those still to be measured."""

    net: str
    work: str
    batch: int
    threads: int
    peers: tuple[str, ...]

    def __str__(self):
        return f"{self.net}, {self.work}, batch {self.batch}, {self.threads} threads"


def run(options):
    """What tools/bench.py step --peers does; returns the exit status."""
    peers, absent = _present(options)
    for name, reason in absent.items():
        print(f"skipped: {PEERS[name].title}: {reason}", file=sys.stderr)
    if not peers:
        raise UserError("no engine to compare with is here: see above")
    report = _begin(options.out)
    done = {pair.key for pair in report.pairs if not pair.disturbed}
    nets = (
        {"net": options.solver} if options.solver else {n: peer_nets.NETS[n] for n in options.net}
    )
    cases = [
        Case(net, work, batch, threads, left)
        for batch, net, threads, work in itertools.product(
            options.batch, nets, sorted(options.threads, reverse=True), options.work
        )
        if (
            left := tuple(
                name
                for name in peers
                if work in PEERS[name].works
                and (threads > 1 or name != SINGLE)
                and (net, work, batch, threads, name) not in done
            )
        )
    ]
    known = {pair.key[:4] for pair in report.pairs}
    cases.sort(key=lambda case: (case.net, case.work, case.batch, case.threads) in known)
    with tempfile.TemporaryDirectory(prefix="bench_peers.") as folder:
        run = Run(options, nets, Path(folder), report)
        run.measure(cases)
    print("\n".join(_text(run.report)))
    for line in run.failed:
        print(f"failed: {line}", file=sys.stderr)
    if run.left:
        again = (
            "the same command goes on" if options.out else "--seconds allows more, --out goes on"
        )
        print(
            f"time is up: {run.left} of {len(cases)} cases not measured; {again}", file=sys.stderr
        )
    if disturbed := sum(pair.disturbed for pair in run.report.pairs):
        print(
            f"disturbed: beside {disturbed} of {len(run.report.pairs)} pairs, marked *, other "
            f"processes used more than {QUIET} cores; with --out the same command measures them "
            "again",
            file=sys.stderr,
        )
    if options.out:
        print(f"wrote {options.out}")
    return 1 if run.failed else 0


class Run:
    """Measures cases until the time is up. report: what is known; failed: reasons, one a peer and
    case; left: number of cases not measured."""

    def __init__(self, options, nets, folder, report):
        self._options, self._nets, self._folder = options, nets, folder
        self._start = time.monotonic()
        self.report, self.failed, self.left = report, [], 0

    def measure(self, cases):
        for number, case in enumerate(progress.each(cases, "measuring", "cases", len(cases))):
            spent = time.monotonic() - self._start
            if number and spent > self._options.seconds or not self._case(case, not number):
                self.left = len(cases) - number
                return

    def _case(self, case, first):
        """Measure one case; returns False if it is too long for the time left. The first case is
        measured in any case."""
        try:
            with self._runner(OURS, case) as ours:
                expected = ours.ask("values")["values"]
                warm = ours.turn(seconds=0)
                need = (self._options.runs + 2) * max(contest.TURN, warm["seconds"])
                left = self._options.seconds - (time.monotonic() - self._start)
                if not first and need * (1 + len(case.peers)) > left:
                    return False
                for group in _groups(case.peers, warm["memory"]):
                    self._group(case, group, ours, expected)
        except contest.EngineError as error:
            self.failed.append(f"{case}: ours: {error}")
        return True

    def _group(self, case, peers, ours, expected):
        """Measure ours and some peers turn by turn."""
        errors = {}
        with contextlib.ExitStack() as stack:
            runners = {OURS: ours}
            for name in peers:
                try:
                    runner = stack.enter_context(self._runner(name, case))
                    found = runner.ask("values")["values"]
                    errors[name] = contest.check_equal(case.work, expected, found)
                    runners[name] = runner
                except contest.EngineError as error:
                    self._fail(case, name, error)
            if len(runners) == 1:
                return
            answers, failed = contest.alternate(runners, self._options.runs)
        for name, reason in failed.items():
            self._fail(case, name, reason)
        if OURS in failed:
            return
        pairs = [
            _pair(case, name, answers[OURS], found, errors[name])
            for name, found in answers.items()
            if name != OURS
        ]
        new = {pair.key: pair for pair in pairs}
        kept = [pair for pair in self.report.pairs if pair.key not in new]
        self.report = replace(self.report, pairs=(*kept, *pairs))
        if self._options.out:
            files.write_whole(self._options.out, json.dumps(typed.to_json(self.report), indent=1))

    def _fail(self, case, name, reason):
        title = PEERS[name].title if name in PEERS else name
        self.failed.append(f"{case}: {title}: {reason}")

    def _runner(self, name, case):
        """The process of one engine, whose versions are in the report."""
        specification = engines.Specification(
            PEERS[name].engine if name in PEERS else engines.CAFFE,
            case.work,
            str(self._net(case, name)),
            case.batch,
            1 if name == SINGLE else case.threads,
            str(self._options.packages or ""),
        )
        runner = contest.Runner(specification, _environment(name, self._options))
        try:
            self._identify(name, Engine(**runner.ask("versions")))
        except BaseException:
            runner.__exit__()
            raise
        return runner

    def _identify(self, name, engine):
        """Note an engine's versions. Raises EngineError for a stock Caffe on a BLAS that a stock
        user doesn't have, UserError if it is another than the one in --out."""
        if name == STOCK and engine.threading != "pthreads":
            raise contest.EngineError(
                f"it runs on {engine.blas or 'no OpenBLAS'}, not on the one of libopenblas0-pthread"
            )
        known = self.report.engines.get(name)
        if known and known != engine:
            raise UserError(
                f"{self._options.out} was measured with {name} {known.version} on {known.blas}, "
                f"now it is {engine.version} on {engine.blas}: name another file with --out"
            )
        self.report = replace(self.report, engines=self.report.engines | {name: engine})

    def _net(self, case, name):
        """The folder of a net, made at its first use."""
        folder = self._folder / case.net
        if not folder.exists():
            solver = self._nets[case.net] or peer_nets.graft_resnet(self._folder)
            peer_nets.write(solver, max(self._options.batch), folder)
        if name == "onnxruntime" and not (folder / "net.onnx").exists():
            if self._options.packages and str(self._options.packages) not in sys.path:
                sys.path.append(str(self._options.packages))
            try:
                peer_nets.write_onnx(folder)
            except UserError as error:
                raise contest.EngineError(str(error)) from None
        return folder


def _pair(case, name, ours, theirs, error):
    def of(key):
        return tuple(tuple(answer[key] for answer in answers) for answers in (ours, theirs))

    return Pair(
        case.net,
        case.work,
        case.batch,
        case.threads,
        name,
        *of("seconds"),
        error,
        tuple(map(statistics.median, of("cores"))),
        tuple(map(max, of("memory"))),
        statistics.mean(itertools.chain(*of("others"))),
    )


def _groups(peers, memory):
    """Peers in groups that fit into the free memory beside ours, which takes `memory` bytes.

    Raises EngineError if not even one does.
    """
    room = int(ROOM * _free_memory() // memory)
    if not room:
        raise contest.EngineError(
            f"a second engine does not fit into memory ({memory / 2**30:.1f} GiB each)"
        )
    return [peers[i : i + room] for i in range(0, len(peers), room)]


def _free_memory():
    with open("/proc/meminfo", encoding="ascii") as lines:
        found = dict(line.split(":") for line in lines)
    return int(found["MemAvailable"].split()[0]) * 1024


def _present(options):
    """(names of the peers that are here, {name: reason} of the others)."""
    absent = {name: reason for name in options.peer if (reason := _missing(name, options))}
    return [name for name in options.peer if name not in absent], absent


def _missing(name, options):
    """Why a peer can't be measured; None if it can."""
    if name == STOCK and not has_caffe(options.stock):
        return f"no Caffe in {options.stock}: docker/build_caffe.sh --stock builds it"
    path = [*sys.path, *([str(options.packages)] if options.packages else [])]
    finder = importlib.machinery.PathFinder
    lacks = [module for module in PEERS[name].needs if not finder.find_spec(module, path)]
    if lacks:
        return f"{' and '.join(lacks)} not installed: {REQUIREMENTS}"
    if name == "opencv":
        from data_prep.opencv import cv2

        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            return f"OpenCV {cv2.__version__} does not read Caffe's files, 4.x does"
    return None


def has_caffe(prefix):
    """Whether pycaffe is installed there."""
    return (prefix / "python/caffe/__init__.py").is_file()


def _environment(name, options):
    """Variables that lead to an engine's libraries; nothing for those of this Python."""
    if name not in (OURS, SINGLE, STOCK):
        return {}
    prefix = options.stock if name == STOCK else options.ours
    found = {"PYTHONPATH": str(prefix / "python")}
    if name == STOCK:  # Debian's alternatives may have chosen another OpenBLAS for the system
        folder = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "", "openblas-pthread")
        if folder.is_dir():
            paths = [str(folder), os.environ.get("LD_LIBRARY_PATH", "")]
            found["LD_LIBRARY_PATH"] = ":".join(filter(None, paths))
    return found


def _begin(out):
    """The Report to add to: that in --out, if it is of this machine."""
    report = Report(_machine())
    if out is None:
        return report
    files.make_way(out)
    if not out.exists():
        return report
    try:
        content = json.loads(out.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"--out {out} exists and is no report of this command") from None
    known = typed.from_json(Report, content, f"--out {out}")
    if known.machine != report.machine:
        raise UserError(f"--out {out} was measured on another machine: name another file")
    return known


def _machine():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": cores_of_process(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
    }


def _text(report):
    """The lines of the tables."""
    machine = report.machine
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}"
    ]
    for name, engine in report.engines.items():
        title = PEERS[name].title if name in PEERS else name
        lines.append(f"{title}: {engine.version}; BLAS: {engine.blas}")
    for work, title in ((TRAIN, "forward, backward and update"), (INFER, "forward")):
        pairs = [pair for pair in report.pairs if pair.work == work]
        if pairs:
            lines += ["", f"{title}: milliseconds of ours, and how many times as long others take"]
            lines += text_table.aligned(_rows(pairs), right={1, 2, 3})
    return lines


def _rows(pairs):
    """Rows of a table: medians over the turns, smallest and largest ratio in parentheses."""
    names = [name for name in PEERS if any(pair.peer == name for pair in pairs)]
    found = {pair.key: pair for pair in pairs}
    times = {pair.key[:4]: [] for pair in pairs}
    for pair in pairs:
        times[pair.key[:4]] += pair.ours
    yield ("net", "batch", "threads", OURS, *(PEERS[name].title for name in names))
    nets = list(dict.fromkeys(pair.net for pair in pairs))
    for key in sorted(times, key=lambda key: (nets.index(key[0]), *key[2:])):
        net, _, batch, threads = key
        yield (
            net,
            str(batch),
            str(threads),
            f"{1e3 * statistics.median(times[key]):.1f}",
            *(_ratio(found.get((*key, name))) for name in names),
        )


def _ratio(pair):
    if pair is None:
        return "-"
    ratios = pair.ratios
    mark = "*" if pair.disturbed else ""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}){mark}"


def add_ours(parser):
    """Add the option --ours to a benchmark."""
    parser.add_argument(
        "--ours",
        type=Path,
        metavar="DIR",
        help="where our Caffe is installed (default: the one that .venv or PATH has)",
    )


def prefix_of_ours(given):
    """The folder that --ours names, or that of the caffe that is found without it.

    Raises UserError if no Caffe with pycaffe is there.
    """
    prefix = given.resolve() if given else Path(caffe_program.path()).resolve().parents[1]
    if not has_caffe(prefix):
        raise UserError(f"--ours {prefix} holds no Caffe with pycaffe")
    return prefix
