"""Converts public taxonomy files, with a child and its parent per line, to label trees.

Such files come with NABirds (`hierarchy.txt`: class, parent; `classes.txt`: class, name), with
ImageNet (`wordnet.is_a.txt`: parent, child) and many others.
"""

import re

from data_prep import names
from data_prep.common.errors import UserError
from data_prep.common.text import read_text
from data_prep.label_tree import Hierarchy

SHOWN = 3  # leaves named in a sentence


def convert(path, names_path=None, levels=None, parent_first=False, pad=False):
    """The Hierarchy of a taxonomy file. Its fine classes are the leaves.

    names_path    file with a node and its name per line; None: nodes serve as names
    levels        names of the levels, fine to coarse (default: level_1, ...), without the root
    parent_first  each line has the parent before the child
    pad           repeat a shallow leaf as its own only child, down to the depth of the others

    A level is a depth below the root; a single root is left out, because it separates no classes.
    Raises UserError if the file is not such a tree or, without `pad`, if leaves differ in depth.
    """
    parents = _parents(path, parent_first)
    lines = [_line(path, parents, node) for node in _leaves(parents)]
    if not lines:
        raise UserError(f"the taxonomy {path} is a circle: every class is a parent of another")
    roots = {line[-1] for line in lines}
    if len(roots) == 1:
        lines = [line[:-1] for line in lines]
    depth = max(map(len, lines))
    if depth == 0:
        raise UserError(f"{path} has no classes below {roots.pop()}")
    shallow = [line for line in lines if len(line) < depth]
    if shallow and not pad:
        deep = next(line for line in lines if len(line) == depth)
        some = ", ".join(f"{line[0]} at {len(line)}" for line in shallow[:SHOWN])
        raise UserError(
            f"{path}: {len(shallow)} of {len(lines)} leaves have a smaller depth than {depth} "
            f"(that of {deep[0]}): {some}; add --pad to repeat such leaves on the levels below them"
        )
    lines = [[line[0]] * (depth - len(line)) + line for line in lines]
    levels = levels or tuple(f"level_{number}" for number in range(1, depth + 1))
    if len(levels) != depth:
        raise UserError(f"--levels names {len(levels)} levels, but {path} has {depth}")
    known = _names(names_path) if names_path else {}
    return _tree(levels, lines, known, names_path)


def _pairs(path, what):
    """Yield (line number, first word, rest) of a file: tabs, commas or blanks between the two."""
    text = read_text(path, what)
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        separator = next((mark for mark in ("\t", ",", ";") if mark in line), None)
        cells = [cell.strip() for cell in line.split(separator, 1)]
        if len(cells) != 2 or not all(cells) or not all(cell.isprintable() for cell in cells):
            raise UserError(f"{what} {path}, line {number}: expected two values, got {line[:60]!r}")
        yield number, *cells


def _parents(path, parent_first):
    """{child: parent}; a root is not a key."""
    found, lines = {}, {}
    for number, first, second in _pairs(path, "the taxonomy"):
        if re.search(r"[\t,;]", second):
            raise UserError(f"the taxonomy {path}, line {number}: more than two values")
        child, parent = (second, first) if parent_first else (first, second)
        if child == parent:  # some files mark the root like this
            continue
        if found.setdefault(child, parent) != parent:
            hint = "" if parent_first else "; if lines have the parent first, add --parent-first"
            raise UserError(
                f"the taxonomy {path}, line {number}: {child} has a second parent, {parent}, "
                f"besides {found[child]} in line {lines[child]}{hint}"
            )
        lines.setdefault(child, number)
    if not found:
        raise UserError(f"the taxonomy {path} has no lines of a child and its parent")
    return found


def _leaves(parents):
    """The nodes without children: sorted if all are numbers, otherwise in the file's order."""
    inner = set(parents.values())
    leaves = [node for node in parents if node not in inner]
    if all(node.isascii() and node.isdigit() and len(node) < 20 for node in leaves):
        leaves.sort(key=int)
    return leaves


def _line(path, parents, node):
    """[node, its parent, ..., root]"""
    line, seen = [node], {node}
    while line[-1] in parents:
        line.append(parents[line[-1]])
        if line[-1] in seen:
            raise UserError(f"the taxonomy {path}: {line[-1]} is its own ancestor")
        seen.add(line[-1])
    return line


def _names(path):
    found = {}
    for number, node, name in _pairs(path, "the names"):
        if found.setdefault(node, name) != name:
            raise UserError(f"the names {path}, line {number}: {node} has two names")
    return found


def _tree(levels, lines, known, names_path):
    """The Hierarchy of lines [fine, ..., coarse] of nodes."""
    nodes = [[*dict.fromkeys(level)] for level in zip(*lines)]
    lacking = sorted({node for level in nodes for node in level if known and node not in known})
    if lacking:
        raise UserError(f"the names {names_path} lack {len(lacking)} classes, e.g. {lacking[0]}")
    numbers = [{node: number for number, node in enumerate(level)} for level in nodes]
    labels = [[number[node] for number, node in zip(numbers, line)] for line in lines]
    hierarchy = Hierarchy(levels, labels, [_unique(level, known) for level in nodes])
    hierarchy.check()
    return hierarchy


def _unique(nodes, known):
    """Names of a level's nodes; the node is appended to a name that occurs twice."""
    found = [names.class_name(known.get(node, node)) for node in nodes]
    twice = (
        {name for name in found if found.count(name) > 1} if len(set(found)) < len(found) else ()
    )
    return [f"{name} ({node})" if name in twice else name for name, node in zip(found, nodes)]
