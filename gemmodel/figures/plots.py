"""Pictures of what a model knows; each function returns a matplotlib figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure


def confusion_heatmap(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draws a confusion matrix as shares of each actual class, with the counts written where they are not 0.

    Args:
        matrix: counts of shape (classes, classes), a row an actual class.
        classes: the names.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(5.0, 2.2 + 0.27 * len(classes))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set_xticks(np.arange(-0.5, len(classes)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(classes)), minor=True)
    axes.grid(which="minor", color="0.92", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.set_title(f"{np.trace(matrix)} of {matrix.sum()} test photos right")
    return figure
