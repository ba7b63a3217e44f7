"""Formats rows of strings as a table, aligned for a terminal or in Markdown."""

import unicodedata


def aligned(rows, right=()):
    """Lines with aligned columns; right: indices of right-aligned columns."""
    rows = [list(row) for row in rows]
    widths = [max(map(width, column)) for column in zip(*rows)]
    return ["  ".join(_cells(row, widths, right)).rstrip() for row in rows]


def _cells(row, widths, right):
    for index, (text, wide) in enumerate(zip(row, widths)):
        blank = " " * (wide - width(text))
        yield blank + text if index in right else text + blank


def width(text):
    """Width of the text in terminal columns: wide characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def markdown(rows):
    """Lines of a Markdown table whose header is the first row."""
    rows = list(rows)
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]
