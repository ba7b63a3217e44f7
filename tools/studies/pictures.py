"""The panels of a study's figures: their size, grid and words."""

import textwrap

PANEL = (3.8, 2.9)  # inches
COLUMNS = 3
TITLE = 46  # characters of a title in a line


def grid(number):
    """(Matplotlib figure, [axes]) of `number` panels, in rows."""
    from matplotlib.figure import Figure  # takes a second, which most commands need not wait for

    columns = min(COLUMNS, number)
    rows = -(-number // columns)
    picture = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.5), layout="constrained")
    axes = picture.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[number:]:
        axis.set_axis_off()
    return picture, axes[:number]


def words(axis, title, x, y):
    """Title, names of the axes, and a legend of what is drawn with a label."""
    axis.set_title(
        textwrap.fill(title, TITLE, break_on_hyphens=False), fontsize=10, parse_math=False
    )
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=6, framealpha=0.6)
