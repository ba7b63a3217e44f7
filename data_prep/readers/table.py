"""A user's own photographs, listed with their labels in tables: CSV or TSV files.

Classes are numbered by name, so that labels do not depend on the order of the rows.
"""

import argparse
import csv
import hashlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

from data_prep.common.arguments import level_names, pairs
from data_prep.common.errors import UserError
from data_prep.common.text import read_text
from data_prep.label_tree import Hierarchy
from data_prep.names import class_name
from data_prep.readers import boxes, columns
from data_prep.readers.draws import add_test_share, drawn_test
from data_prep.readers.files import add_images, own_name, some
from data_prep.readers.splits import WORDS, split_of
from data_prep.records import NEEDED, SPLITS, Record, Source, inside

DESCRIPTION = "your own photographs: a table of paths, labels and splits"
SIZE = 256
DELIMITERS = {".csv": ",", ".tsv": "\t"}
RESERVED = {"path", "split", *(column for form in boxes.FORMS.values() for column in form)}
FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
RULES = """\
The table is a UTF-8 file, .csv (commas) or .tsv (tabs), whose first line is a header such as

  path,species,family,order,split,x,y,w,h
  gulls/0001.jpg,Ivory Gull,Laridae,Charadriiformes,train,12,30,200,180

path      the image, relative to --root or an absolute path below it; one row per image
x,y,w,h   optional: the box, for --bbox; see --boxes
split     train, val or test; each class with test images needs training images
others    one column per level of the label tree, finest first (see also --levels), named with
          letters, digits and _; a class has one parent, so names must differ within a level

Cells that are used must not be empty; blanks around a value are ignored; values with a comma need
"quotes".

Options adapt to other tables:
  no header:           --header path,x1,y1,x2,y2,model
  other names:         --column path=image,x1=xmin,species="common name"
  a table per split:   --table train=train.csv --table test=test.csv
  a column of 0 and 1: --column split=is_test
  no column of splits: --test-share 0.25
  incomplete paths:    --path "cars_{split}/{path}"  or  --path "{id}.jpg"

example: Kaggle's Cars, 8144 rows of ,x1,y1,x2,y2,Class,image without a split
  data_prep/build_lmdb.py table --table cardatasettrain.csv --root cars_train \\
    --column path=image --levels Class --boxes corners --bbox --test-share 0.25
"""


@dataclass(frozen=True)
class Row:
    where: str  # table and line, for messages
    cells: dict  # {column: value}
    split: str | None  # as given with --table


def _split_and_table(text):
    """Argument type: [SPLIT=]FILE as (split or None, path)."""
    split, mark, path = text.partition("=")
    return (split, Path(path)) if mark and split in SPLITS else (None, Path(text))


def _header(text):
    found = [name.strip() for name in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError("expected different names, separated by commas")
    return found


def add_arguments(parser):
    parser.description = f"{DESCRIPTION}\n\n{RULES}"
    parser.add_argument(
        "--table",
        type=_split_and_table,
        action="append",
        required=True,
        metavar="[SPLIT=]FILE",
        help="table, .csv or .tsv; may be repeated; SPLIT (train, val or test) applies to all "
        "images of the table",
    )
    parser.add_argument(
        "--root", type=Path, help="folder of the photographs (default: that of the first table)"
    )
    parser.add_argument("--bbox", action="store_true", help="crop to the boxes")
    parser.add_argument("--boxes", choices=boxes.FORMS, help=boxes.HELP)
    parser.add_argument(
        "--levels",
        type=level_names,
        metavar="FINE,...,COARSE",
        help="columns that are levels, finest first; other columns are ignored (default: all "
        "columns without another use)",
    )
    parser.add_argument(
        "--column",
        type=pairs,
        default={},
        metavar="NAME=COLUMN,...",
        help="the table's own names for the columns path, split, those of the boxes, and levels",
    )
    parser.add_argument(
        "--header",
        type=_header,
        metavar="COLUMN,...",
        help="names of the columns of a table without a header line",
    )
    parser.add_argument(
        "--path",
        metavar="TEMPLATE",
        help="path of an image below --root, where {path}, {split} and any other {column} are "
        "replaced by the row's values (default: {path})",
    )
    add_test_share(parser, "chosen by --seed; for tables without a column split")


def name(args):
    """The name of --out or else of the table (with _bbox), usable in file names."""
    _, first = args.table[0]
    return own_name(args.out.resolve().name if args.out else first.stem + "_bbox" * args.bbox)


def open_source(args):
    paths = [path for _, path in args.table]
    root = paths[0].parent if args.root is None else args.root
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: --root must name the folder of the photographs")
    tables = " and ".join(map(str, paths))
    data, header, rows = _read_all(args)
    form = _form(tables, header, args)
    levels = columns.levels(tables, header, rows, args.levels, RESERVED)
    hierarchy, labels = _tree(tables, levels, rows, asked=args.levels is not None)
    files = _files(args, root, rows)
    fine = [class_name(row.cells[levels[0]]) for row in rows]
    splits = _splits(tables, args, header, rows, [file for file, _ in files], fine)
    _check_splits(rows, splits, fine)
    crops = boxes.read([(row.where, row.cells) for row in rows], form) if form else None
    records = [
        Record(
            file,
            path,
            labels[label],
            split,
            crops[i] if crops else None,
            relative=bool(form) and form.startswith("relative"),
            row=rows[i].where,
        )
        for i, ((file, path), label, split) in enumerate(zip(files, fine, splits))
    ]
    digest = hashlib.sha256(hierarchy.text().encode() + data)
    missing = add_images(digest, records)
    if missing:
        row = next(row for row, (file, _) in zip(rows, files) if file == missing[0].name)
        more = f" (and {len(missing) - 1} more of {len(records)})" if len(missing) > 1 else ""
        raise UserError(
            f"{row.where}: no file {missing[0].path}{more}: paths are relative to --root, and "
            "--path completes them"
        )
    return Source(hierarchy, digest.hexdigest(), lambda folder, jobs: records, _options(args))


def _options(args):
    """The given options that the records depend on."""
    given = {
        "boxes": args.boxes,
        "levels": args.levels and list(args.levels),
        "column": args.column or None,
        "header": args.header,
        "path": args.path,
        "test_share": args.test_share,
        "tables": [split for split, _ in args.table] if args.table[0][0] else None,
    }
    return {"bbox": args.bbox, **{key: value for key, value in given.items() if value is not None}}


def _read_all(args):
    """(bytes of all tables, their common columns, [Row])."""
    data, headers, rows = b"", [], []
    for split, path in args.table:
        if (split is None) != (args.table[0][0] is None):
            raise UserError("--table: give a split, as in train=FILE, for all tables or for none")
        part, header, lines = _read(path, args.header)
        header = _renamed(path, header, args.column)
        _check_header(path, header, args)
        data += part
        headers.append(header)
        rows += [
            Row(f"{path}, line {number}", dict(zip(header, cells)), split)
            for number, cells in lines
        ]
    if not rows:
        raise UserError(
            f"{args.table[0][1]} lists no images: expected a header and one row per image"
        )
    common = [column for column in headers[0] if all(column in header for header in headers)]
    return data, common, rows


def _read(path, header):
    """The bytes of a table, its header, and [(line number, cells)]. header: used if it has none."""
    delimiter = DELIMITERS.get(path.suffix.lower())
    if delimiter is None:
        raise UserError(f"{path} must be named .csv (values between commas) or .tsv (tabs)")
    text, rows = read_text(path, "the table"), []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if header is None:
                header = cells
                if len(header) == 1:
                    raise UserError(
                        f"{path}, line 1: {header[0][:60]!r} is one column: a .csv has commas "
                        "between columns, a .tsv tabs"
                    )
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(cells)} values, but the header has "
                    f"{len(header)} columns"
                )
            rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    return path.read_bytes(), header or [], rows


def _renamed(path, header, columns):
    """The header, with the columns that --column names renamed to this reader's names."""
    for name, column in columns.items():
        if column not in header:
            raise UserError(
                f"--column {name}={column}: {path} has no column {column!r}, only "
                f"{', '.join(filter(None, header))}"
            )
        if name in header and name not in columns.values():
            raise UserError(f"--column {name}={column}: {path} has a column {name!r} as well")
    ours = {column: name for name, column in columns.items()}
    return [ours.get(column, column) for column in header]


def _check_header(path, header, args):
    """Raises UserError for missing columns, duplicate names and invalid names."""
    if not header:
        raise UserError(f"{path} lists no images: expected a header and one row per image")
    read = [column for column in header if args.levels is None or column in args.levels]
    for column in [*read, *(column for column in header if column in RESERVED)]:
        if column and not re.fullmatch(r"\w+", column):
            raise UserError(
                f"{path}, line 1: the column name {column!r} may have only letters, digits and _ "
                "(a .csv has commas between columns, a .tsv tabs; --levels names the columns that "
                "are levels, --column renames, --header is for a table without a header)"
            )
        if column and header.count(column) > 1:
            raise UserError(f"{path}, line 1: the header has the column {column} twice")
    if "path" not in header and not (args.path and "{path}" not in args.path):
        raise UserError(
            f"{path}, line 1: the header has no column path: --column path=NAME names it"
        )
    if "split" not in header and args.table[0][0] is None and args.test_share is None:
        raise UserError(
            f"{path}, line 1: the header has no column split: --column split=NAME names it, "
            "--table train=FILE --table test=FILE reads a table per split, --test-share 0.25 draws "
            "test images"
        )


def _form(tables, header, args):
    """The form of the boxes, a key of boxes.FORMS; None without --bbox."""
    if args.boxes and not args.bbox:
        raise UserError("--boxes has an effect only with --bbox, which crops to the boxes")
    some_columns = [column for column in boxes.FORMS["pixels"] if column in header]
    if args.bbox or 0 < len(some_columns) < 4 and not args.levels:
        form = boxes.form(tables, header, args.boxes)
        return form if args.bbox else None
    return None


def _tree(tables, levels, rows, asked):
    """The Hierarchy, and {fine class: label}. asked: whether --levels names the levels."""
    parents = [{} for _ in levels]  # per level {class: (its parent, row)}
    paths = {}
    for row in rows:
        for column in levels:
            hint = "" if asked else columns.without(levels, column)
            if not row.cells[column]:
                raise UserError(f"{row.where}: the cell of {column} is empty{hint}")
            if not class_name(row.cells[column]).isprintable():
                name = ascii(row.cells[column])
                raise UserError(f"{row.where}: {name} has invisible characters: rename it{hint}")
        found = [class_name(row.cells[column]) for column in levels]
        paths[found[0]] = found
        for j, known in enumerate(parents[:-1]):
            before, first = known.setdefault(found[j], (found[j + 1], row))
            if before != found[j + 1]:
                pair = levels[j : j + 2]
                hint = "" if asked else columns.without_either(levels, *pair, rows)
                raise UserError(
                    f"{row.where}: the {levels[j]} {found[j]} has two parents, the {levels[j + 1]} "
                    f"{found[j + 1]} and, in {_place(first, row)}, {before}{hint}"
                )
    names = [sorted({path[j] for path in paths.values()}) for j in range(len(levels))]
    if len(names[0]) == 1:
        raise UserError(
            f"{tables} has only one {levels[0]}, {names[0][0]}: at least two are needed"
        )
    numbers = [{text: number for number, text in enumerate(level)} for level in names]
    labels = [[number[text] for number, text in zip(numbers, paths[fine])] for fine in names[0]]
    hierarchy = Hierarchy(levels, labels, names)
    hierarchy.check()
    return hierarchy, numbers[0]


def _place(row, other):
    """The position of a row, for a sentence that begins with the position of another one."""
    table, _, line = row.where.rpartition(", ")
    return line if table == other.where.rpartition(", ")[0] else row.where


def _files(args, root, rows):
    """[(name, path)] of the images; the name is the normalized path below root."""
    found, first = [], {}
    for row in rows:
        given = _completed(args.path, row) if args.path else row.cells["path"]
        if not given:
            raise UserError(f"{row.where}: the cell of path is empty")
        if not given.isprintable():
            raise UserError(f"{row.where}: {ascii(given)} has invisible characters: rename it")
        file = os.path.normpath(_below(root, given))
        if first.setdefault(file, row) is not row:
            raise UserError(f"{row.where}: {given} is already listed in {_place(first[file], row)}")
        try:
            path = inside(root, file)
        except UserError as error:
            raise UserError(f"{row.where}: {error}") from None
        if not os.path.isfile(path) and os.path.exists(path):
            raise UserError(f"{row.where}: {path} is not a plain file")
        found.append((file, path))
    return found


def _completed(template, row):
    """The template of --path, filled with the row's values."""

    def value(match):
        if match[1] == "split" and row.split:
            return row.split
        if match[1] not in row.cells:
            raise UserError(f"--path {template}: {row.where} has no column {match[1]}")
        return row.cells[match[1]]

    return re.sub(r"\{([^{}]*)\}", value, template)


def _below(root, path):
    """An absolute path inside root as a relative path; others unchanged."""
    if not os.path.isabs(path):
        return path
    for folder in (os.path.abspath(root), os.path.realpath(root)):
        if os.path.commonpath([folder, os.path.normpath(path)]) == folder:
            return os.path.relpath(path, folder)
    return path


def _splits(tables, args, header, rows, files, fine):
    """The split of each row."""
    if args.test_share is not None:
        if "split" in header or args.table[0][0]:
            raise UserError(
                f"--test-share does not apply: {tables} states the splits; leave it out"
            )
        drawn = drawn_test(dict(zip(files, fine)), args.test_share, args.seed)
        return [drawn[file] for file in files]
    if args.table[0][0]:
        return [row.split for row in rows]
    words = {row.cells["split"].lower() for row in rows}
    flagged = split_of(args.column.get("split", "split"))
    if words <= set(FLAGS) and flagged and flagged[0] in NEEDED:
        other = {"train": "test", "test": "train"}[flagged[0]]
        return [flagged[0] if FLAGS[row.cells["split"].lower()] else other for row in rows]
    for row in rows:
        if row.cells["split"].lower() not in WORDS:
            hint = ""
            if words <= set(FLAGS):
                hint = (
                    "; a column of 0 and 1 needs a split's name: --column split=test or split=train"
                )
            raise UserError(
                f"{row.where}: the split is {row.cells['split']!r}, not train, val or test{hint}"
            )
    return [WORDS[row.cells["split"].lower()] for row in rows]


def _check_splits(rows, splits, fine):
    table = rows[0].where.rpartition(", ")[0]
    for split in NEEDED:
        if split not in splits:
            raise UserError(f"{table} has no {split} images")
    trained = {label for label, split in zip(fine, splits) if split == "train"}
    lacking = sorted(set(fine) - trained)
    if lacking:
        raise UserError(
            f"{rows[fine.index(lacking[0])].where}: {len(lacking)} of the classes have no training "
            f"images: {some(lacking)}: each class with test images needs some"
        )
