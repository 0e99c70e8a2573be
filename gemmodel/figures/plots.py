"""Plots for several stages."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def save(figure: Figure, path: Path, *, dpi: int) -> None:
    """Writes a figure as PNG, without the name of the software: the same figure gives the same bytes."""
    figure.savefig(path, dpi=dpi, metadata={"Software": None})


def normalize_rows(matrix: np.ndarray) -> np.ndarray:
    """Returns each value of a non-negative matrix as a fraction of its row's sum; rows of zeros stay zero."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def confusion_heatmap(matrix: np.ndarray, classes: Sequence[str], *, photos: str = "test") -> Figure:
    """Draws a confusion matrix as fractions of each actual class, labelled with the counts that are not 0.

    Args:
        matrix: counts of shape (classes, classes), one row per actual class.
        classes: the names.
        photos: which they are, for the title.
    """
    fractions = normalize_rows(matrix)
    side = max(5.0, 2.2 + 0.27 * len(classes))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if fractions[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set_xticks(np.arange(-0.5, len(classes)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(classes)), minor=True)
    axes.grid(which="minor", color="0.92", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.set_title(f"{np.trace(matrix)} of {matrix.sum()} {photos} photos right")
    return figure
