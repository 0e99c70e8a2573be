"""Learning curves."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from gemmodel.core import files

if TYPE_CHECKING:
    import pandas as pd


def write(
    path: Path, history: Mapping[str, Sequence[float]], best_epoch: int, penalties: "pd.DataFrame | None" = None
) -> Figure:
    """Writes each metric by epoch as a CSV file, and a picture as a PNG beside it; returns its figure.

    Args:
        path: the CSV file.
        history: each metric's values by epoch.
        best_epoch: the epoch that was kept.
        penalties: of a fit in closed form, as `penalty_curves` returns it; the picture shows it in place of epochs.
    """
    with files.atomic_write(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *history])
        writer.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values(), strict=True)))
    figure = learning_curves(history, best_epoch) if penalties is None else closed_form_curves(penalties)
    figure.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})
    return figure


def learning_curves(history: Mapping[str, Sequence[float]], best_epoch: int) -> Figure:
    """Draws loss and accuracy of training and validation by epoch, with a line at the epoch that was kept."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    marker = "o" if len(history["loss"]) < 5 else None  # a line of one point is invisible
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(history[name], label="training", marker=marker)
        axes.plot(history[f"val_{name}"], label="validation", marker=marker)
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def closed_form_curves(points: "pd.DataFrame") -> Figure:
    """Draws loss and accuracy over the penalty, a line for each degree alone and marks for the whole head.

    Args:
        points: one row per point: `curve`, `penalty`, `loss` and `accuracy`.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    both = figure.subplots(1, 2)
    for axes, name in zip(both, ("loss", "accuracy"), strict=True):
        for i, (curve, rows) in enumerate(points.groupby("curve", sort=False)):
            style = {"marker": "o", "markersize": 4}
            if str(curve).startswith("the head"):
                style = {"marker": "*" if "left out" in str(curve) else "D", "markersize": 10, "linestyle": "none"}
            axes.plot(rows["penalty"], rows[name], color=f"C{i}", label=str(curve), **style)
        axes.set_xscale("log")
        axes.set_xlabel("penalty of the ridge regression")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure
