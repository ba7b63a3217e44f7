"""The trainings of a study, each with its identity and its commands."""

import functools
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

from data_prep import manifest
from data_prep.common import files
from data_prep.common.errors import UserError
from tools.studies import plan, settings

SELECT, FINAL = "select", "final"  # roles
TESTS = "tests"
ATTRIBUTES = "attributes"
CURVE_TESTS = 20  # tests during a training, for its curve; of the option `tests`
WORK = Path("snapshots")  # make_prototxt's folder of snapshots


@dataclass(frozen=True)
class Row:
    """A row of the table: what is compared.

    shown       ((option of grid or vary, value), ...)
    candidates  options of the trainings among which one is selected, each ((option, value), ...);
                a single one where nothing is selected
    """

    data: plan.Data
    net: plan.Net
    variant: str
    shown: tuple
    candidates: tuple

    @property
    def name(self):
        return " ".join((self.data.name, self.net.name, self.variant, *texts(self.shown)))


@dataclass(frozen=True)
class Cell:
    """One training of a row. role: SELECT (scored on val, to choose its options) or FINAL."""

    study: plan.Study
    row: Row
    options: tuple
    seed: int
    role: str

    @property
    def place(self):
        """plan.Place of the LMDBs."""
        held_out = self.split == plan.VAL
        source = self.row.data.validation if held_out else self.row.data.whole
        return source[self.row.net.name]

    @property
    def split(self):
        """The split on which it is scored."""
        return plan.VAL if self.role == SELECT else self.study.split

    @property
    def watched(self):
        """The split of the tests during the training; None: not tested.

        After a selection the test images are looked at once, by the evaluation.
        """
        return None if self.study.select and self.role == FINAL else self.split

    @property
    def text(self):
        """One line for people."""
        row = self.row
        words = (
            row.data.name,
            row.net.name,
            row.variant,
            *texts(self.chosen),
            f"seed {self.seed}",
        )
        return " ".join(words) + (" (validation)" if self.role == SELECT else "")

    @property
    def chosen(self):
        """((option, value), ...) of the grid and the sweep."""
        varied = set(self.study.grid) | set(self.study.vary) | swept(self.study)
        return tuple((name, value) for name, value in self.options if name in varied)


def swept(study):
    """Names of all options that a study selects."""
    return set(study.sweep).union(*(one.sweep for one in study.overrides))


def texts(pairs):
    """["option=value"] of ((option, value), ...), as people read them."""
    return [f"{name}={value_text(value)}" for name, value in pairs]


def value_text(value):
    """The value of an option as people read it."""
    return json.dumps(value) if isinstance(value, (list, bool)) else f"{value}"


def rows(study):
    """The Rows of a study, in the order of its file. UserError for options that don't fit."""
    found, used = [], set()
    for data, net, variant in itertools.product(study.data, study.nets, study.variants):
        names = dict(data=data.name, net=net.name, variant=variant)
        fixed, sweep = dict(study.options), dict(study.sweep)
        for override in study.overrides:
            if _matches(override.match, names):
                fixed |= override.options
                sweep |= override.sweep
        for shown in _shown(study, variant):
            candidates = []
            for swept_options in _product(sweep, variant):
                options = _applying({**fixed, **shown, **swept_options}, variant)
                matching = [
                    number
                    for number, one in enumerate(study.excluded)
                    if _matches(one, {**options, **names})
                ]
                used.update(matching)
                if matching:
                    continue
                settings.check(options, f"study {study.path}, {variant}")
                candidates.append(tuple(options.items()))
            if candidates:
                found.append(Row(data, net, variant, tuple(shown.items()), tuple(candidates)))
    if not found:
        raise UserError(f"study {study.path}: [[exclude]] leaves no training")
    for number, one in enumerate(study.excluded):
        if number not in used:
            raise UserError(f"study {study.path}: no training matches the [[exclude]] of {one}")
    return found


def _shown(study, variant):
    """Options {name: value} of each row of a variant: those of the grid, then each of `vary`."""
    grid = _product(study.grid, variant)
    varied = [
        {name: value} for name, values in _applying(study.vary, variant).items() for value in values
    ]
    return [{**one, **more} for one in grid for more in ({}, *varied)]


def _product(lists, variant):
    """Combinations {option: value} of the options that apply to a variant."""
    lists = _applying(lists, variant)
    return [dict(zip(lists, values)) for values in itertools.product(*lists.values())]


def _applying(options, variant):
    return {name: value for name, value in options.items() if settings.applies(name, variant)}


def _matches(match, names):
    return all(names.get(name) in values for name, values in match.items())


def candidates_of(study, row):
    """{options: its Cells for the choice}, in order; {} where there is nothing to choose."""
    if not study.select:
        return {}
    return {
        options: [Cell(study, row, options, seed, SELECT) for seed in study.select_seeds]
        for options in row.candidates
    }


def finals_of(study, row, options):
    """The Cells of a row that the table shows, with the options that were chosen."""
    return [Cell(study, row, options, seed, FINAL) for seed in study.seeds]


# --- Identity


class Digests:
    """Digests of data sets and weights, each read once."""

    def __init__(self):
        self._known = {}

    def of(self, cell):
        """{data, weights, and attributes of a cell that reads a table of them: hexadecimal digest}.

        UserError, with the command that makes it, if one is missing.
        """
        found = {
            "data": self._data(cell.place, cell.split),
            "weights": self._weights(cell.row.net.weights),
        }
        table = dict(cell.options).get(ATTRIBUTES)
        return {**found, "attributes": self._attributes(table)} if table else found

    def _data(self, place, split):
        key = place.folder, split
        if key not in self._known:
            folder = Path(place.folder)
            if not (folder / manifest.FILE).is_file():
                raise UserError(f"the data set {folder} is not built: {place.build}")
            facts = manifest.read(folder)
            if split not in facts.splits:
                raise UserError(f"{folder} has no {split} split: {place.build}")
            content = {
                "tree": facts.checksums["hierarchy.tsv"],
                **{name: facts.splits[name].sha256 for name in ("train", split)},
            }
            self._known[key] = digest(content)
        return self._known[key]

    def _weights(self, path):
        if path and path not in self._known:
            if not Path(path).is_file():
                from tools.inputs import weights_command

                raise UserError(f"the weights {path} are missing: {weights_command(path)}")
            self._known[path] = files.sha256(path)
        return self._known.get(path, "")

    def _attributes(self, path):
        if path not in self._known:
            if not Path(path).is_file():
                raise UserError(f"the table of attributes {path} is missing")
            self._known[path] = files.sha256(path)
        return self._known[path]


def digest(content):
    """Hexadecimal SHA-256 of a value as JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def key(cell, digests):
    """The identity of a Cell: what its result depends on, but for the version of the code.

    digests: of Digests.of.
    """
    return digest(
        {
            **digests,
            "net": cell.row.net.name,
            "variant": cell.row.variant,
            "options": dict(cell.options),
            "seed": cell.seed,
            "split": cell.split,
            "watched": cell.watched,
            "ranks": cell.study.ranks,
        }
    )


# --- Commands


@dataclass(frozen=True)
class Files:
    """Where the files of a cell lie, by its key. name: of make_prototxt's --name."""

    cell: Cell
    key: str

    @property
    def name(self):
        return f"{self.cell.study.name}.{self.key[:8]}"

    @property
    def pair(self):
        return f"{self.name}_{self.cell.row.net.name}_{self.cell.row.variant}"

    @property
    def work(self):
        """The folder that make_prototxt's solver writes its snapshots into."""
        return WORK / self.pair

    @property
    def solver(self):
        return self.work / f"{self.pair}_solver.prototxt"

    @property
    def net(self):
        return self.work / f"{self.name}_{self.cell.row.net.name}_train_val.prototxt"

    def weights(self, iterations):
        """The final weights."""
        return self.work / f"model_iter_{iterations}.caffemodel"

    @property
    def log(self):
        return self.work / "train.log"

    @property
    def result(self):
        """What tools/evaluate.py writes."""
        return self.work / f"{self.cell.split}.json"

    @functools.cached_property
    def record(self):
        row = self.cell.row
        name = f"{row.data.name}_{row.net.name}_{row.variant}_{self.key[:8]}.json"
        return self.cell.study.results / name


def make_command(files_of):
    """Words of the command that generates the net and the solver of a cell."""
    cell = files_of.cell
    options = {TESTS: CURVE_TESTS, **dict(cell.options)}
    if not cell.watched:
        options[TESTS] = 0
    return [
        *("tools/make_prototxt.py", "--data", cell.place.folder),
        *("--net", cell.row.net.name, "--variant", cell.row.variant, "--name", files_of.name),
        *("--out", str(files_of.work), "--seed", str(cell.seed)),
        *(("--test-split", plan.VAL) if cell.split == plan.VAL else ()),
        *settings.words(options),
    ]


def train_command(files_of, gpus=(), snapshot=None):
    """Words of the command that trains a cell. gpus: numbers of GPUs, none for the CPU."""
    cell = files_of.cell
    weights = cell.row.net.weights
    numbers = ",".join(map(str, gpus))
    if cell.study.ranks == 1:
        begin = ["-snapshot", str(snapshot)] if snapshot else ["-weights", weights] * bool(weights)
        where = ["-gpu", numbers] if gpus else []
        return ["caffe", "train", "-solver", str(files_of.solver), *begin, *where]
    begin = ["--snapshot", str(snapshot)] if snapshot else ["--weights", weights] * bool(weights)
    where = ["--gpus", numbers] if gpus else ["--processes", str(cell.study.ranks)]
    return ["tools/train_parallel.py", "--solver", str(files_of.solver), *begin, *where]


def evaluate_command(files_of, model, gpus=()):
    """Words of the command that scores a cell's final weights."""
    return [
        *("tools/evaluate.py", "--solver", str(files_of.solver), "--weights", str(model)),
        *("--split", files_of.cell.split, "--out", str(files_of.result)),
        *(("--gpu", str(gpus[0])) if gpus else ()),
    ]
