"""Reads bounding boxes from tables, in the common published forms."""

import math

from data_prep.common.errors import UserError

FORMS = {  # columns of a box, measured from the image's top left corner
    "pixels": ("x", "y", "w", "h"),
    "relative": ("x", "y", "w", "h"),
    "corners": ("x1", "y1", "x2", "y2"),
    "relative-corners": ("x1", "y1", "x2", "y2"),
}
FAR = 1e6  # pixels; no photograph is so large
OVER = 1e-3  # rounding error allowed, as a fraction of a side
HELP = (
    "form of the boxes: pixels (x, y, w, h: left, top, width, height), relative (the same as "
    "fractions of the image's width and height), corners (x1, y1, x2, y2: left, top, right and "
    "bottom edge in pixels) or relative-corners (default: pixels)"
)


def form(table, header, wanted):
    """The form of a table's boxes, a key of FORMS; None if it has none. wanted: --boxes or None."""
    has = {name: [c for c in columns if c in header] for name, columns in FORMS.items()}
    if wanted is None:
        if has["corners"] and not has["pixels"]:
            raise UserError(
                f"{table}: the boxes have the columns {', '.join(has['corners'])}: add --boxes "
                "corners (or relative-corners, where they lie in 0 to 1)"
            )
        wanted = "pixels"
    lacking = [column for column in FORMS[wanted] if column not in header]
    if lacking:
        raise UserError(
            f"{table}: the header has no column {lacking[0]}: a box has "
            f"{', '.join(FORMS[wanted])}; --column {lacking[0]}=NAME names a column for it"
        )
    return wanted


def read(rows, wanted):
    """[(x, y, width, height)] of rows (where, {column: cell}), in pixels or relative to the image.

    Raises UserError, which names the row, if a box does not fit this form.
    """
    numbers = [_numbers(where, row, FORMS[wanted]) for where, row in rows]
    relative = wanted.startswith("relative")
    if not relative and all(max(values) <= 1 for values in numbers):
        raise UserError(
            f"{rows[0][0]}: all boxes lie in 0 to 1: fractions of width and height need --boxes "
            f"{'relative' if wanted == 'pixels' else 'relative-corners'}"
        )
    return [_box(*row, values, wanted, relative) for row, values in zip(rows, numbers)]


def _numbers(where, row, columns):
    values = []
    for column in columns:
        try:
            values.append(float(row[column]))
        except ValueError:
            raise UserError(f"{where}: {column} is {row[column]!r}, not a number") from None
    if not all(map(math.isfinite, values)) or max(map(abs, values)) >= FAR:
        raise UserError(f"{where}: the box {_shown(row, columns)} has a number of {FAR:g} or more")
    return values


def _box(where, row, values, wanted, relative):
    columns = FORMS[wanted]
    x, y, width, height = values
    what = f"{where}: the box {_shown(row, columns)}"
    if wanted.endswith("corners"):
        width, height = width - x, height - y
    if x < 0 or y < 0 or width <= 0 or height <= 0:
        shape = (
            "x1, y1 from 0 and x2, y2 beyond them (x, y, width, height need --boxes pixels)"
            if wanted.endswith("corners")
            else "x and y from 0, and a width and height above 0"
        )
        raise UserError(f"{what} is not {shape}")
    if relative and max(x + width, y + height) > 1 + OVER:
        raise UserError(
            f"{what} reaches beyond the image: x + width and y + height are fractions of at most "
            "1 (x and y are neither the center nor pixels)"
        )
    return x, y, width, height


def _shown(row, columns):
    return ", ".join(row[column][:20] for column in columns)
