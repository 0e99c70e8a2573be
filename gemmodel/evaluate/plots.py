"""Diagrams of a model's confidence; each function returns a matplotlib figure."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gemmodel.figures.tiles import BLUE


def reliability_diagram(bins: pd.DataFrame, confidence: np.ndarray, error: float) -> Figure:
    """Draws the accuracy of each bin of confidence with its interval, and below it the confidence of all photos.

    Args:
        bins: one row per bin: mean `confidence`, `accuracy`, its bounds `low` and `high`, and `photos`.
        confidence: of all photos, in [0, 1].
        error: the expected calibration error, in [0, 1].
    """
    figure = Figure(figsize=(6.5, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="as often right as the confidence says")
    intervals = np.maximum([bins["accuracy"] - bins["low"], bins["high"] - bins["accuracy"]], 0)
    sizes = sorted({bins["photos"].min(), bins["photos"].max()})
    label = f"{' or '.join(map(str, sizes))} photos each, with 95 % intervals"
    upper.errorbar(bins["confidence"], bins["accuracy"], intervals, fmt="o", color=BLUE, capsize=3, label=label)
    upper.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel="fraction of right predictions")
    upper.set_title(f"Expected calibration error {error:.3f}")
    upper.legend(loc="upper left")
    lower.hist(confidence, bins=np.linspace(0, 1, 41), color="0.6")
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
    axes.plot(table["coverage"], table["accuracy"], color=BLUE, label="accuracy on the photos that get an answer")
    axes.plot(
        table["coverage"], table["threshold"], color="0.45", linestyle="--", label="least confidence of an answer"
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="fraction of photos that get an answer (coverage)", ylabel="fraction")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return figure
