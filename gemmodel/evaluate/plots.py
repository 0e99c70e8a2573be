"""Diagrams of a model's confidence; each function returns a matplotlib figure."""

import pandas as pd
from matplotlib.figure import Figure

BLUE, RED = "#4c78a8", "#d1495b"


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
        table: a row a threshold: `coverage`, `accuracy` and `threshold`, all in [0, 1].
    """
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(table["coverage"], table["accuracy"], color=BLUE, label="accuracy of the answers given")
    axes.plot(table["coverage"], table["threshold"], color="0.6", linestyle="--", label="least confidence of an answer")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of the photos that get an answer")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return figure
