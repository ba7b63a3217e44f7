"""A user's own photographs, listed with their labels in one table: a CSV or TSV file with a header.

Classes are numbered by name, so that the order of the rows has no influence on the labels.
"""

import csv
import hashlib
import io
import math
import os
import re
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.hierarchy import Hierarchy
from data_prep.readers.files import add_images, own_name, some
from data_prep.records import SPLITS, Record, Source, inside

DESCRIPTION = "your own photographs: a table of paths, labels and splits"
SIZE = 256
BOX = ("x", "y", "w", "h")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
FAR = 1e6  # pixels; no photograph is so large
RULES = """\
The table is a UTF-8 file, .csv (commas) or .tsv (tabs), whose first line is a header such as

  path,species,family,order,split,x,y,w,h
  gulls/0001.jpg,Ivory Gull,Laridae,Charadriiformes,train,12,30,200,180

path      the image, relative to --root; it must not lead out of it, and occur in one row only
x,y,w,h   optional: the box in pixels, left and top edge from 0, width and height; for --bbox
split     train or test; a class that is tested must have training images
the rest  one column per level of the label tree, the finest first, named as you like (letters,
          digits and _); a class has one parent, so names must differ within a level

No cell is empty, but for the boxes' without --bbox; blanks around a value are ignored; a value with
a comma stands in "quotes".
"""


def add_arguments(parser):
    parser.description = f"{DESCRIPTION}\n\n{RULES}"
    parser.add_argument("--table", type=Path, required=True, help="the table, .csv or .tsv")
    parser.add_argument(
        "--root", type=Path, help="the folder of the photographs (default: the table's)"
    )
    parser.add_argument(
        "--bbox", action="store_true", help="crop to the boxes x,y,w,h (default: not used)"
    )


def name(args):
    """The target's name, or else that of the table (and _bbox), as a part of file names."""
    table = args.table.stem + "_bbox" * args.bbox
    return own_name(args.out.resolve().name if args.out else table)


def open_source(args):
    table, root = args.table, args.table.parent if args.root is None else args.root
    if not root.is_dir():
        raise UserError(f"{root} is no folder: --root must name the folder of the photographs")
    data, header, rows = _read(table)
    levels = _levels(table, header, args.bbox)
    hierarchy, labels = _tree(table, levels, rows)
    records = _records(table, root, rows, levels[0], labels, args.bbox)
    _check_splits(table, rows, levels[0])
    digest = hashlib.sha256(hierarchy.text().encode() + data)
    missing = add_images(digest, records)
    if missing:
        line = next(line for line, row in rows if _plain(row["path"]) == missing[0].name)
        more = f" (and {len(missing) - 1} more of {len(records)})" if len(missing) > 1 else ""
        raise UserError(
            f"{table}, line {line}: there is no file {missing[0].path}{more}: paths are relative "
            "to --root"
        )
    return Source(hierarchy, digest.hexdigest(), lambda folder, jobs: records, {"bbox": args.bbox})


def _read(table):
    """The bytes of the table, its header, and [(line number, {column: value})]."""
    delimiter = DELIMITERS.get(table.suffix.lower())
    if delimiter is None:
        raise UserError(f"{table} must be named .csv (values between commas) or .tsv (tabs)")
    try:
        data = table.read_bytes()
        text = data.decode("utf-8-sig")  # some editors write a mark in front
    except OSError as error:
        raise UserError(f"{table}: {error.strerror}: --table must name the table") from None
    except UnicodeDecodeError:
        raise UserError(f"{table} is not UTF-8 text: save it as UTF-8") from None
    header, rows = None, []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            where, cells = f"{table}, line {reader.line_num}", [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if header is None:
                header = cells
                _check_header(where, header)
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{where}: {len(cells)} values, and the header has {len(header)} columns"
                )
            rows.append((reader.line_num, dict(zip(header, cells))))
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: {error}") from None
    if not rows:
        raise UserError(f"{table} lists no images: a header and one row per image expected")
    return data, header, rows


def _check_header(where, header):
    for column in header:
        if not column:
            raise UserError(f"{where}: the header has a column without a name")
        if not re.fullmatch(r"\w+", column):
            raise UserError(
                f"{where}: the column name {column!r} is not of letters, digits and _ (a .csv has "
                "commas between columns, a .tsv tabs)"
            )
        if header.count(column) > 1:
            raise UserError(f"{where}: the header has the column {column} twice")
    for column in ("path", "split"):
        if column not in header:
            raise UserError(f"{where}: the header has no column {column}")


def _levels(table, header, bbox):
    """The columns that are levels of the label tree."""
    levels = [column for column in header if column not in ("path", "split", *BOX)]
    lacking = [column for column in BOX if column not in header]
    if not levels:
        raise UserError(f"{table}: the header has no column of a level, such as species")
    if lacking and (bbox or len(lacking) < len(BOX)):
        raise UserError(
            f"{table}: the header has no column {lacking[0]}: a box has {', '.join(BOX)}"
        )
    return levels


def _tree(table, levels, rows):
    """The Hierarchy, and {fine class: label}."""
    parents = [{} for _ in levels]  # per level {class: (its parent, line)}
    for line, row in rows:
        for column in ("path", "split", *levels):
            if not row[column]:
                raise UserError(f"{table}, line {line}: the cell of {column} is empty")
            if not row[column].isprintable():
                raise UserError(
                    f"{table}, line {line}: {row[column]!r} has control characters: rename it"
                )
        for level, parent, known in zip(levels, levels[1:], parents):
            before, first = known.setdefault(row[level], (row[parent], line))
            if before != row[parent]:
                raise UserError(
                    f"{table}, line {line}: the {level} {row[level]} has two parents, the {parent} "
                    f"{row[parent]} and, in line {first}, {before}"
                )
    names = [sorted({row[level] for _, row in rows}) for level in levels]
    if len(names[0]) == 1:
        raise UserError(f"{table} has one {levels[0]} only, {names[0][0]}: two or more are needed")
    numbers = [{text: number for number, text in enumerate(level)} for level in names]
    path = {row[levels[0]]: [row[level] for level in levels] for _, row in rows}
    labels = [[number[text] for number, text in zip(numbers, path[fine])] for fine in names[0]]
    hierarchy = Hierarchy(levels, labels, names)
    hierarchy.check()
    return hierarchy, numbers[0]


def _records(table, root, rows, fine, labels, bbox):
    records, lines = [], {}
    for line, row in rows:
        where, file = f"{table}, line {line}", _plain(row["path"])
        if row["split"] not in SPLITS:
            raise UserError(f"{where}: the split is {row['split']!r}, neither train nor test")
        if lines.setdefault(file, line) != line:
            raise UserError(f"{where}: {row['path']} is listed in line {lines[file]} already")
        try:
            path = inside(root, row["path"])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if not os.path.isfile(path) and os.path.exists(path):
            raise UserError(f"{where}: {path} is no plain file")
        box = _box(where, row) if bbox else None
        records.append(Record(file, path, labels[row[fine]], row["split"], box))
    return records


def _plain(path):
    """The path without . and // in it, the image's name in the data set."""
    return os.path.normpath(path)


def _box(where, row):
    values = []
    for column in BOX:
        try:
            values.append(float(row[column]))
        except ValueError:
            raise UserError(f"{where}: {column} is {row[column]!r}, no number") from None
    if all(map(math.isfinite, values)) and max(values) < FAR:
        x, y, width, height = values
        if x >= 0 and y >= 0 and width > 0 and height > 0:
            return tuple(values)
    raise UserError(
        f"{where}: the box {', '.join(row[column] for column in BOX)} is not x and y from 0, and a "
        "width and height above 0, in pixels"
    )


def _check_splits(table, rows, fine):
    for split in SPLITS:
        if not any(row["split"] == split for _, row in rows):
            raise UserError(f"{table} has no {split} images")
    trained = {row[fine] for _, row in rows if row["split"] == "train"}
    lacking = sorted({row[fine] for _, row in rows} - trained)
    if lacking:
        line = next(line for line, row in rows if row[fine] == lacking[0])
        raise UserError(
            f"{table}, line {line}: {len(lacking)} of the classes have no training images: "
            f"{some(lacking)}: a class that is tested must have some"
        )
