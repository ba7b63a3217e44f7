#!/usr/bin/env python3
"""Print, check or convert the label tree of a data set."""

import argparse
from pathlib import Path

from data_prep import taxonomy, tree_page
from data_prep.common import files
from data_prep.common.arguments import level_names
from data_prep.common.command import command
from data_prep.common.errors import UserError
from data_prep.label_tree import (
    Hierarchy,
    find_problems,
    look_alikes,
    read_rows,
    report,
    tree,
)

EXAMPLES = """examples:
  data_prep/hierarchy.py show data/cub --html cub.html
  data_prep/hierarchy.py check birds.tsv
  data_prep/hierarchy.py convert hierarchy.txt --names classes.txt --pad --out nabirds.tsv
"""


def _parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print the tree")
    check = actions.add_parser(
        "check",
        help="check for classes with two parents, gaps in numbering and duplicate names, and "
        "report groups and empty SP sets",
    )
    for action in (show, check):
        action.add_argument(
            "path",
            type=Path,
            help="a built data set (data/<name>) or a table such as data_prep/hierarchies/cub.tsv",
        )
    show.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write the tree to an HTML page instead of printing it, with image counts if the data "
        "set is built",
    )
    convert = actions.add_parser(
        "convert",
        help="convert a taxonomy file with a child and its parent per line to a table",
    )
    convert.add_argument("path", type=Path, help="the taxonomy file, e.g. NABirds' hierarchy.txt")
    convert.add_argument("--out", type=Path, required=True, metavar="FILE", help="output table")
    convert.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="file with a class and its name per line, e.g. NABirds' classes.txt (default: use the "
        "class identifiers as names)",
    )
    convert.add_argument(
        "--levels",
        type=level_names,
        metavar="FINE,...,COARSE",
        help="names of the levels (default: level_1,level_2,...)",
    )
    convert.add_argument(
        "--parent-first", action="store_true", help="the parent comes first in each line"
    )
    convert.add_argument(
        "--pad",
        action="store_true",
        help="if leaves have different depths, repeat shallow ones on the levels below them "
        "(default: refuse such files)",
    )
    return parser.parse_args(argv)


def _show(args, path):
    hierarchy = Hierarchy.read(path)
    if args.html is None:
        print("\n".join(tree(hierarchy)))
        return
    tree_page.write(args.html, hierarchy, args.path, tree_page.images(args.path, hierarchy))
    print(f"wrote {args.html}: open it in a browser")


def _check(path):
    problems = find_problems(*read_rows(path))
    if problems:
        print("\n".join(problems))
        raise UserError(f"{path} is not a label tree: {len(problems)} problem(s) listed above")
    hierarchy = Hierarchy.read(path)
    print("\n".join(report(hierarchy)))
    for sentence in look_alikes(hierarchy):
        print(f"warning: {sentence}")
    print(f"{path} is a label tree of the levels {', '.join(hierarchy.levels)}")


def _convert(args):
    files.make_way(args.out)
    hierarchy = taxonomy.convert(
        args.path, args.names, args.levels, parent_first=args.parent_first, pad=args.pad
    )
    files.write_whole(args.out, hierarchy.text())
    print("\n".join(report(hierarchy)))
    print(f"wrote {args.out}")


def main(argv=None):
    args = _parse(argv)
    if args.action == "convert":
        _convert(args)
        return 0
    path = args.path / "hierarchy.tsv" if args.path.is_dir() else args.path
    if args.action == "show":
        _show(args, path)
    else:
        _check(path)
    return 0


if __name__ == "__main__":
    command(main)
