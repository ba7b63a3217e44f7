"""What a study has, what is missing, and how long that will take."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from data_prep.common.cores import cores_of_process
from data_prep.common.errors import UserError
from data_prep.common.text import read_table
from tools.nets import solver, tables
from tools.nets.data import BBOX
from tools.nets.datasets import built_dataset
from tools.studies import cells, code_version, generated, records, selection

FORWARD = 1 / 3  # of the time of a training step
COSTS = Path(__file__).resolve().parent / "costs.tsv"
CORES = 2  # of the CPU of COSTS


@dataclass(frozen=True)
class Known:
    """A Cell, its cells.Files and what is known of it.

    record   None if it has not ended
    missing  why it can't run here, with the command that helps; None if it can
    """

    cell: cells.Cell
    place: cells.Files
    record: records.Record | None
    missing: str | None = None

    @property
    def lacks(self):
        """The study's measures without which the record was evaluated; only the table's cells."""
        if self.record is None or self.cell.role != cells.FINAL:
            return ()
        return self.record.lacks(self.cell.study.measures)

    @property
    def final(self):
        """Path of its final weights; only where there is a record."""
        return self.place.weights(self.record.iterations)

    @property
    def again(self):
        """Whether it lacks measures, and can be evaluated again: its weights are still there."""
        return bool(self.lacks) and not self.missing and self.final.is_file()


class State:
    """The cells of a study and their records.

    Where a cell's data set or weights are missing, its record is recognized by its options alone,
    so that tables of committed results need no data. digests: cells.Digests; None: look for none.
    """

    def __init__(self, study, digests=None):
        self.study, self._digests = study, digests
        self.rows = cells.rows(study)
        self._places = {}  # of `_place`
        self._ended = {}  # {path: record}: once written, a record stays
        self._changed = {}  # {path: bool}, of `changed`
        self._others = None  # records by description, of cells whose data is missing

    def identity(self, cell):
        """({data, weights: digest}, None), or of their names, and the reason."""
        names = {"data": cell.place.folder, "weights": cell.row.net.weights}
        if self._digests is None:
            return names, None
        try:
            return self._digests.of(cell), None
        except UserError as error:
            return names, str(error)

    def known(self, cell):
        """Known of a cell."""
        place, missing = self._place(cell)
        if place.record not in self._ended:
            found = records.find(place.record, place.key)
            if found is None and missing:
                found = self._described(cell)
            if found is None:
                return Known(cell, place, None, missing)
            self._ended[place.record] = found
        return Known(cell, place, self._ended[place.record], missing)

    def _place(self, cell):
        """(cells.Files, None), or of the names of data and weights, and the reason.

        A run asks for all cells after each of them: an identity is computed once.
        """
        name = id(cell.row), cell.role, cell.seed, repr(cell.options)
        if name not in self._places:
            identity, missing = self.identity(cell)
            place = cells.Files(cell, cells.key(cell, identity))
            if missing:
                return place, missing
            self._places[name] = place
        return self._places[name], None

    def changed(self, known):
        """Whether today's code would compute something else than what a record is of.

        Without the cell's data set or weights, only its Python layers are compared. Records of
        format 1 are compared by all sources of the generators and the layers.
        """
        if known.place.record not in self._changed:
            record, at_hand = known.record, bool(self._digests) and not known.missing
            if record.format == 1:
                found = record.code != code_version.of_all()
            else:
                found = not generated.unchanged(record, known.place, at_hand)
            self._changed[known.place.record] = found
        return self._changed[known.place.record]

    def renew(self, known):
        """Read the record of a Known once more: it was evaluated again."""
        del self._ended[known.place.record]

    def again(self):
        """[Known] of the cells that can be evaluated again, for measures that they lack."""
        return [known for known in self.wanted() if known.again]

    def _described(self, cell):
        """The newest record with a cell's description, or None."""
        if self._others is None:
            self._others = {}
            for path in sorted(self.study.results.glob("*.json")):
                record = records.read(path)
                old = self._others.get(record.description)
                if old is None or old.ended < record.ended:
                    self._others[record.description] = record
        row = cell.row
        return self._others.get(
            records.description(
                row.data.name, row.net.name, row.variant, cell.role, cell.seed, cell.options
            )
        )

    def candidates(self, row):
        """{options: [Known]} of the trainings for the choice."""
        found = cells.candidates_of(self.study, row)
        return {options: [self.known(cell) for cell in each] for options, each in found.items()}

    def choice(self, row):
        """(options, selection.Candidates tried) of a row; options None: nothing can be chosen yet,
        or every candidate diverged."""
        if not self.study.select:
            return row.candidates[0], ()
        found = self.candidates(row)
        if any(one.record is None for each in found.values() for one in each):
            return None, ()
        chosen, tried = selection.choose(
            {options: [one.record for one in each] for options, each in found.items()}
        )
        return chosen and chosen.options, tuple(tried)

    def finals(self, row):
        """[Known] of the trainings that the table shows; [] before the choice."""
        options, _ = self.choice(row)
        if options is None:
            return []
        return [self.known(cell) for cell in cells.finals_of(self.study, row, options)]

    def wanted(self):
        """[Known] of every cell that is known to be needed, in the order in which they run."""
        found = []
        for row in self.rows:
            for each in self.candidates(row).values():
                found += each
            found += self.finals(row)
        return found

    def later(self):
        """Cells of rows whose options are not chosen yet, each with the first of its candidates."""
        found = []
        for row in self.rows:
            if not self.choice(row)[1] and self.study.select:
                found += cells.finals_of(self.study, row, row.candidates[0])
        return found

    def count(self):
        """Cells of the whole study, as far as they are known to be needed."""
        return len(self.wanted()) + len(self.later())


# --- Cost


def images_of(cell):
    """The images that a cell trains on, each as often as it is read; None if that is unknown.

    Images of another size than the network's own count by their pixels, and those of tests, where
    their number is known, as a part of one. Data sets of the tables need not be built.
    """
    original, options = tables.NETS[cell.row.net.name], dict(cell.options)
    net = original.reading(options["crop"]) if "crop" in options else original
    batch, max_iter = options.get("train-batch"), options.get("max-iter")
    tested = 0
    try:
        dataset = built_dataset(Path(cell.place.folder), net, cell.split)
        tests = options.get(cells.TESTS, cells.CURVE_TESTS) if cell.watched else 0
        tested = FORWARD * (tests + 1) * dataset.test  # and the evaluation
    except UserError:
        dataset = tables.DATASETS.get(cell.row.data.name.removesuffix(f"_{BBOX}"))
        if dataset is None:
            return batch and max_iter and batch * max_iter * cell.study.ranks
    run = solver.run_of(dataset, net, batch=batch, max_iter=max_iter)
    part = (dataset.settings(net)[0].crop / original.crop) ** 2
    return (run.max_iter * run.batch * cell.study.ranks + tested) * part


class Costs:
    """Seconds of trainings: measured here where a cell of the network has ended, else of COSTS.

    On a CPU a cost is in seconds of one core, and `jobs` trainings share the cores; on GPUs it is
    in seconds of the GPUs of a training.
    """

    def __init__(self, found, machine, device, jobs):
        self._measured, self._cpu, self._jobs = {}, device == "CPU", jobs
        self._cores = max(1, cores_of_process() // jobs) if self._cpu else 1  # of a training
        self._table = _table() if self._cpu else {}
        for known in found:
            record = known.record
            if record and record.machine == machine and record.device == device:
                self.add(known)

    def add(self, known):
        """Take the cost of a Known that has ended here: per image, tests included."""
        record = known.record
        if record.status == records.FINISHED:
            cores = record.threads * known.cell.study.ranks if self._cpu else 1
            each = record.seconds * cores / images_of(known.cell)
            self._measured.setdefault(record.net, []).append(each)

    def seconds(self, cell):
        """Seconds of one cell, or None where nothing is known."""
        images, net = images_of(cell), cell.row.net.name
        if images is None:
            return None
        if net in self._measured:
            return images * statistics.median(self._measured[net]) / self._cores
        return images * self._table[net] / self._cores if net in self._table else None

    def total(self, some):
        """(seconds of all cells, on all jobs; number of cells of unknown cost)."""
        found = [self.seconds(cell) for cell in some]
        known = [one for one in found if one is not None]
        return sum(known) / self._jobs, len(found) - len(known)


def _table():
    """{network: seconds of one core per image} of COSTS, which were measured on CORES of them."""
    header, rows = read_table(COSTS, "the table of costs", remarks=True)
    return {row[0]: CORES * float(row[header.index("seconds_per_image")]) for row in rows}
