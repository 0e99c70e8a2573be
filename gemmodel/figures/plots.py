"""Plots for several stages."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gemmodel.figures import fonts

matplotlib.rcdefaults()  # a matplotlibrc of the user would change the pictures' colours, fonts and bytes

MAX_CONFUSED = 100  # classes in a confusion matrix; 3,600 pixels wide at 120 dpi


def save(figure: Figure, path: Path, *, dpi: int) -> None:
    """Writes a figure as PNG, without the name of the software: the same figure gives the same bytes."""
    figure.savefig(path, dpi=dpi, metadata={"Software": None})


def normalize_rows(matrix: np.ndarray) -> np.ndarray:
    """Returns each value of a non-negative matrix as a fraction of its row's sum; rows of zeros stay zero."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def condense(matrix: np.ndarray, classes: Sequence[str], max_classes: int) -> tuple[np.ndarray, list[str]]:
    """Sums the classes with the fewest errors of a confusion matrix in a last row and column, so that it stays small.

    Args:
        matrix: counts of shape (classes, classes), one row per actual class.
        classes: the names.
        max_classes: the number of classes that are kept, in their order: those with the most errors, as actual or as
            predicted class. With as many classes or fewer, nothing changes.

    Returns:
        The matrix and the names, at most one more than `max_classes`. The last cell of its diagonal counts photos of
        the other classes that are taken for any of the other classes.
    """
    if len(classes) <= max_classes:
        return matrix, list(classes)
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    kept = np.sort(np.lexsort((np.asarray(classes), -errors))[:max_classes])  # ties by name: the same in any order
    groups = np.full(len(classes), max_classes)
    groups[kept] = np.arange(max_classes)
    small = np.zeros((max_classes + 1, max_classes + 1), matrix.dtype)
    np.add.at(small, (groups[:, np.newaxis], groups), matrix)
    return small, [*(classes[i] for i in kept), f"{len(classes) - max_classes} others"]


def confusion_heatmap(
    matrix: np.ndarray, classes: Sequence[str], *, photos: str = "test", table: str = "",
    max_classes: int = MAX_CONFUSED,
) -> Figure:  # fmt: skip
    """Draws a confusion matrix as fractions of each actual class, labelled with the counts that are not 0.

    Of many classes it shows those with the most errors, and the sum of the others.

    Args:
        matrix: counts of shape (classes, classes), one row per actual class.
        classes: the names.
        photos: which they are, for the title.
        table: the file with all classes, for the title.
        max_classes: the number of classes shown.
    """
    title = f"{np.trace(matrix)} of {matrix.sum()} {photos} photos right"
    if len(classes) > max_classes:
        title += f"\n{max_classes} of {len(classes)} classes, those with the most errors; the others are summed"
        title += f"; {table} has all" if table else ""
    matrix, classes = condense(matrix, classes, max_classes)
    names, style = fonts.legible(classes)
    fractions = normalize_rows(matrix)
    side = max(5.0, 2.2 + 0.27 * len(classes))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if fractions[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8, **style)
    axes.set_yticks(range(len(classes)), names, fontsize=8, **style)
    axes.set_xticks(np.arange(-0.5, len(classes)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(classes)), minor=True)
    axes.grid(which="minor", color="0.92", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.set_title(title)
    return figure
