"""Reads a study file (TOML) into a Study, and checks every name and option in it.

README.md beside this file lists the keys.
"""

import collections
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.common.text import read_text
from data_prep.common.typed import from_json
from tools.nets import tables
from tools.nets.data import BBOX
from tools.nets.options import file_name
from tools.studies import measures, settings

VAL, TEST = "val", "test"
BASE_LR = "base-lr"
MATCHED = ("data", "net", "variant")  # what [[exclude]] and [[override]] can name


@dataclass(frozen=True)
class Place:
    """A folder of LMDBs, and the command that builds it."""

    folder: str
    build: str


@dataclass(frozen=True)
class Data:
    """One data set of a study; networks may read builds of different sizes.

    whole       {net: Place} to train on and to test
    validation  {net: Place} of the same images with some of the training images in a split val;
                None where the study has no use for it
    """

    name: str
    whole: dict
    validation: dict | None


@dataclass(frozen=True)
class Net:
    """A network and the weights that it starts from; "": random values."""

    name: str
    weights: str


@dataclass(frozen=True)
class Override:
    """Options of the cells that match. match: {of MATCHED: names}; sweep: as Study.sweep."""

    match: dict
    options: dict = field(default_factory=dict)
    sweep: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A study as its file states it.

    name        of the file, without .toml
    results     folder of its records and tables
    seeds       of the trainings that a table shows
    select      VAL: options of `sweep` are chosen on the validation split; None: nothing is chosen
    select_seeds  seeds of the trainings for the choice
    split       on which cells are scored
    ranks       processes of tools/train_parallel.py per training; 1: `caffe train`
    options     {option: value} of every cell
    grid        {option: values}: a row of the table for each combination
    vary        {option: values}: a row for each value alone, and one without any
    sweep       {option: values}: one is chosen for each row
    overrides   later ones win
    excluded    ({of MATCHED or option: values}, ...)
    table       number of the paper's table that it repeats, for the published figures; ""
    measures    names of measures.MEASURES that the table shows
    """

    name: str
    path: Path
    results: Path
    title: str
    data: tuple
    nets: tuple
    variants: tuple
    seeds: tuple
    select: str | None
    select_seeds: tuple
    split: str
    ranks: int
    options: dict
    grid: dict
    vary: dict
    sweep: dict
    overrides: tuple
    excluded: tuple
    table: str
    measures: tuple


@dataclass(frozen=True)
class _DataText:
    """A table [data.NAME] as written."""

    folder: str | None = None
    build: str | None = None
    validation_folder: str | None = None
    validation_build: str | None = None


@dataclass(frozen=True)
class _NetText:
    """A table [nets.NAME] as written."""

    weights: str | None = None


@dataclass(frozen=True)
class _Text:
    """A study file as written."""

    title: str
    data: dict[str, _DataText]
    nets: dict[str, _NetText]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    select: str | None = None
    select_seeds: tuple[int, ...] | None = None
    validation: int | None = None
    split: str = TEST
    ranks: int = 1
    table: str = ""
    measures: tuple[str, ...] = ()
    options: dict | None = None
    grid: dict | None = None
    vary: dict | None = None
    sweep: dict | None = None
    override: tuple[dict, ...] = ()
    exclude: tuple[dict, ...] = ()


def read(path, folder):
    """The Study in a file; a path that does not exist here is looked for in `folder`, too.

    Raises UserError, in one sentence, for anything in it that is unknown or does not fit.
    """
    path = _found(Path(path), folder)
    where = f"study {path}"
    try:
        content = tomllib.loads(read_text(path, "the study"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{where} is not TOML: {error}") from None
    _check_names(content, [one.name for one in fields(_Text)], where)
    for table, kind in (("data", _DataText), ("nets", _NetText)):
        for name, entry in _entries(content, table, where):
            _check_names(entry, [one.name for one in fields(kind)], f"{where}: [{table}.{name}]")
    text = from_json(_Text, content, where)
    try:
        study = _study(text, path)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return study


def _found(path, folder):
    beside = Path(folder, path)
    if not path.exists() and beside.is_file():
        return beside
    if path.suffix != ".toml":
        raise UserError(f"{path}: a study file ends in .toml")
    return path


def _entries(content, table, where):
    entries = content.get(table, {})
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise UserError(f"{where}: {table} is not made of tables [{table}.NAME]")
    return entries.items()


def _check_names(content, known, where):
    """UserError for the first key that is unknown, with the nearest known one."""
    for name in content:
        if name not in known:
            raise UserError(f"{where} has an unknown key {name!r}{settings.nearest(name, known)}")


def _study(text, path):
    _demand(text.title.strip(), "title is empty")
    for name in ("data", "nets", "variants", "seeds"):
        _demand(getattr(text, name), f"{name} is empty")
    for name, known in (
        ("variants", tables.STAGES),
        ("nets", tables.NETS),
        ("measures", measures.MEASURES),
    ):
        for one in getattr(text, name):
            _demand(one in known, f"{name} has no {one!r}{settings.nearest(one, known)}")
    for name in ("variants", "seeds", "select_seeds", "measures"):
        values = getattr(text, name) or ()
        _demand(len(set(values)) == len(values), f"{name} has a value twice")
    _demand(all(0 <= seed < 2**31 for seed in text.seeds), "a seed is not from 0 to 2147483647")
    _demand(text.select in (None, VAL), f'select is not "{VAL}", the only split to select on')
    _demand(text.split in (VAL, TEST), f'split is neither "{TEST}" nor "{VAL}"')
    _demand(not (text.select and text.split == VAL), "with select, cells are scored on test images")
    _demand(1 <= text.ranks <= 64, "ranks is not from 1 to 64")
    options, grid, vary, sweep = (
        settings.flat(one or {}) for one in (text.options, text.grid, text.vary, text.sweep)
    )
    overrides = tuple(_override(entry, text) for entry in text.override)
    excluded = tuple(_match(settings.flat(entry), text, "[[exclude]]") for entry in text.exclude)
    for name, values in (*grid.items(), *vary.items(), *sweep.items()):
        _check_list(name, values)
    counts = collections.Counter((*options, *grid, *vary, *sweep))
    twice = [name for name, count in counts.items() if count > 1]
    _demand(
        not twice,
        f"{min(twice, default='')} is in two of [options], [grid], [vary] and [sweep]",
    )
    swept = set(sweep).union(*(one.sweep for one in overrides))
    if text.select:
        _demand(
            BASE_LR in swept,
            f'select = "{VAL}" needs a learning rate to select: give [sweep] {BASE_LR} = [...]',
        )
    else:
        _demand(not swept, f'[sweep] needs select = "{VAL}"; without, [grid] shows all values')
        _demand(not text.select_seeds, f'select_seeds needs select = "{VAL}"')
    return Study(
        name=file_name(path.stem, "the study's file"),
        path=path,
        results=path.parent / "results" / path.stem,
        title=text.title,
        data=tuple(_data(name, one, text) for name, one in text.data.items()),
        nets=tuple(
            Net(name, tables.NETS[name].weights if one.weights is None else one.weights)
            for name, one in text.nets.items()
        ),
        variants=text.variants,
        seeds=text.seeds,
        select=text.select,
        select_seeds=text.select_seeds or text.seeds,
        split=text.split,
        ranks=text.ranks,
        options=options,
        grid=grid,
        vary=vary,
        sweep=sweep,
        overrides=overrides,
        excluded=excluded,
        table=text.table,
        measures=text.measures,
    )


def _data(name, entry, text):
    """Data of a table [data.NAME]; what it leaves out is that of tools/nets/tables.py."""
    whole = {net: _whole(name, entry, _net(net, text)) for net in text.nets}
    if not (text.select or text.split == VAL):
        return Data(name, whole, None)
    _demand(
        text.validation or entry.validation_folder,
        "validation images are needed: give `validation = N`, the number of training images to "
        f"hold out, or validation_folder in [data.{name}]",
    )
    return Data(name, whole, {net: _validation(entry, place, text) for net, place in whole.items()})


def _net(name, text):
    """The tables.Net, which reads crops of the size that the study's options state, if any."""
    net, crop = tables.NETS[name], settings.flat(text.options or {}).get("crop")
    return net.reading(crop) if isinstance(crop, int) else net


def _whole(name, entry, net):
    if entry.folder:
        build = entry.build or f"data_prep/build_lmdb.py DATASET --out {entry.folder}"
        return Place(entry.folder, build)
    base = name.removesuffix(f"_{BBOX}")
    stages = (BBOX,) if name != base else ()
    known = tables.DATASETS.get(base)
    found = known and [one for one in known.settings(net) if one.stages == stages]
    _demand(found, f"[data.{name}] needs a folder: tools/nets/tables.py has no such data set")
    return Place(found[0].folder, entry.build or found[0].command)


def _validation(entry, whole, text):
    folder = entry.validation_folder or f"{whole.folder}_{VAL}"
    words = whole.build.split(" --out ")[0]
    held_out = f"{words} --validation {text.validation or 'N'} --out {folder}"
    if folder == whole.folder:  # it has a split val itself
        return whole
    return Place(folder, entry.validation_build or held_out)


def _override(entry, text):
    """Override of an [[override]]: names of MATCHED, and tables options and sweep."""
    where = "[[override]]"
    _demand(set(entry) & {"options", "sweep"}, f"{where} has neither options nor sweep")
    for name in ("options", "sweep"):
        _demand(isinstance(entry.get(name, {}), dict), f"{where}: {name} is not a table")
    sweep = settings.flat(entry.get("sweep", {}))
    for name, values in sweep.items():
        _check_list(name, values)
    rest = {name: value for name, value in entry.items() if name not in ("options", "sweep")}
    match = _match(rest, text, where)
    unknown = sorted(set(match) - set(MATCHED))
    _demand(not unknown, f"{where} can match {', '.join(MATCHED)}, not {''.join(unknown[:1])}")
    return Override(match, settings.flat(entry.get("options", {})), sweep)


def _match(entry, text, where):
    """{name: tuple of values} of an entry that matches cells; a single value is a list of one."""
    _demand(entry, f"{where} matches every cell")
    known = dict(data=tuple(text.data), net=tuple(text.nets), variant=text.variants)
    found = {}
    for name, value in entry.items():
        found[name] = tuple(value) if isinstance(value, list) else (value,)
        for one in found[name] if name in known else ():
            _demand(one in known[name], f"{where}: {name} has no {one!r} in this study")
    return found


def _check_list(name, values):
    _demand(isinstance(values, list) and values, f"{name} is not a list of values to try")
    texts = [str(value) for value in values]
    _demand(len(set(texts)) == len(texts), f"{name} has a value twice")


def _demand(fits, sentence):
    if not fits:
        raise ValueError(sentence)
