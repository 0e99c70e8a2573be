"""Pictures of what a model knows; each function returns a matplotlib figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

BLUE, RED = "#4c78a8", "#d1495b"


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


def reliability_diagram(bins: pd.DataFrame, error: float) -> Figure:
    """Draws how often answers of each confidence are right, above how many there are.

    Args:
        bins: a row a bin of confidence: `low`, `high`, mean `confidence`, `accuracy` and `photos`.
        error: the calibration error, in [0, 1].
    """
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middles, width = (bins["low"] + bins["high"]) / 2, bins["high"] - bins["low"]
    upper.bar(middles, bins["accuracy"], width * 0.94, color=BLUE, label="share right")
    upper.plot(bins["confidence"], bins["confidence"], "o", color=RED, label="mean confidence")
    upper.vlines(bins["confidence"], bins["accuracy"], bins["confidence"], color=RED, linewidth=1)
    upper.plot([0, 1], [0, 1], color="0.5", linestyle=":")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title=f"Expected calibration error {error:.3f}")
    upper.legend(loc="upper left")
    bars = lower.bar(middles, bins["photos"], width * 0.94, color="0.7")
    lower.bar_label(bars, fontsize=8)
    lower.margins(y=0.2)
    lower.set(xlabel="confidence of the answer", ylabel="photos")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return figure


def abstention_curve(table: pd.DataFrame) -> Figure:
    """Draws accuracy against the share of photos that get an answer, and the confidence that an answer then needs.

    Args:
        table: a row a threshold: `answered`, `accuracy` and `threshold`, all in [0, 1].
    """
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(table["answered"], table["accuracy"], color=BLUE, label="accuracy of the answers given")
    axes.plot(table["answered"], table["threshold"], color="0.6", linestyle="--", label="least confidence of an answer")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of the photos that get an answer")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return figure


def learning_curves(history: Mapping[str, Sequence[float]], best_epoch: int) -> Figure:
    """Draws loss and accuracy of training and validation by epoch, with a line at the epoch that was kept."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(history[name], label="training")
        axes.plot(history[f"val_{name}"], label="validation")
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
