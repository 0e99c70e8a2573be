"""Diagrams of a model's confidence; each function returns a matplotlib figure."""

import pandas as pd
from matplotlib.figure import Figure

BLUE, RED = "#4c78a8", "#d1495b"


def reliability_diagram(bins: pd.DataFrame, error: float) -> Figure:
    """Draws the accuracy of each bin of confidence, and below it the number of photos in the bin.

    Args:
        bins: one row per bin: `low`, `high`, mean `confidence`, `accuracy` and `photos`.
        error: the expected calibration error, in [0, 1].
    """
    figure = Figure(figsize=(5.5, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    centres, width = (bins["low"] + bins["high"]) / 2, bins["high"] - bins["low"]
    upper.bar(centres, bins["accuracy"], width * 0.94, color=BLUE, label="accuracy")
    upper.plot(bins["confidence"], bins["confidence"], "o", color=RED, label="mean confidence")
    upper.vlines(bins["confidence"], bins["accuracy"], bins["confidence"], color=RED, linewidth=1)
    upper.plot([0, 1], [0, 1], color="0.5", linestyle=":")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title=f"Expected calibration error {error:.3f}")
    upper.legend(loc="upper left")
    bars = lower.bar(centres, bins["photos"], width * 0.94, color="0.7")
    lower.bar_label(bars, fontsize=8)
    lower.margins(y=0.2)
    lower.set(xlabel="confidence of the prediction", ylabel="photos")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return figure


def abstention_curve(table: pd.DataFrame) -> Figure:
    """Draws the accuracy, and the threshold of confidence, against the fraction of photos above this threshold.

    Args:
        table: one row per threshold: `coverage`, `accuracy` and `threshold`, all in [0, 1].
    """
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(table["coverage"], table["accuracy"], color=BLUE, label="accuracy on the covered photos")
    axes.plot(table["coverage"], table["threshold"], color="0.6", linestyle="--", label="threshold of confidence")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="coverage: fraction of photos above the threshold")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return figure
