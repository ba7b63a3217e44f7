"""Writes a label tree as a single HTML page without scripts, in which classes can be folded."""

from html import escape

import numpy as np

from data_prep.common.files import write_whole
from data_prep.label_tree import report
from data_prep.records import NEEDED, SPLITS, read_listing

STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; }
details { margin-left: 1.2em; } ul { padding: 0; margin: 0; }
li { margin-left: 1.2em; list-style: none; }
summary { cursor: pointer; } .note { color: #666; font-size: 85%; }
"""


def images(folder, hierarchy):
    """{split: int array, images per fine class} of a built data set; {} for a table.

    Images that the training order repeats are counted once.
    """
    if not folder.is_dir():
        return {}
    labels = {
        split: [label for _, label in {*read_listing(folder / f"{split}.tsv", hierarchy)}]
        for split in SPLITS
        if split in NEEDED or (folder / f"{split}.tsv").exists()
    }
    return {
        split: np.bincount(found, minlength=hierarchy.sizes[0]) for split, found in labels.items()
    }


def write(path, hierarchy, title, counts):
    """Write the page atomically. counts: as returned by `images`."""
    top = len(hierarchy.levels) - 1
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{_text(title)}</h1>",
        *(f"<p>{_text(line)}</p>" for line in report(hierarchy)),
        *_branch(hierarchy, counts, top, np.arange(len(hierarchy.labels))),
        "</body></html>",
    ]
    write_whole(path, "\n".join(parts) + "\n")


def _branch(hierarchy, counts, level, members):
    """Lines of the classes of a level above the fine classes `members`, or of those themselves."""
    if level == 0:
        yield "<ul>"
    for i in sorted(set(hierarchy.labels[members, level].tolist())):
        inside = members[hierarchy.labels[members, level] == i]
        notes = [f"{hierarchy.levels[level]} {i}"]
        if level:
            classes = "class" if len(inside) == 1 else "classes"
            notes.append(f"{len(inside)} {hierarchy.levels[0]} {classes}")
        notes += [f"{found[inside].sum()} {split}" for split, found in counts.items()]
        note = f'<span class="note">{_text(", ".join(notes))}</span>'
        line = f"{_text(hierarchy.names[level][i])} {note}"
        if level == 0:
            yield f"<li>{line}</li>"
        else:
            unfolded = " open" if level == len(hierarchy.levels) - 1 else ""
            yield f"<details{unfolded}><summary>{line}</summary>"
            yield from _branch(hierarchy, counts, level - 1, inside)
            yield "</details>"
    if level == 0:
        yield "</ul>"


def _text(value):
    return escape(str(value))
