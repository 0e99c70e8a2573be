"""Learning curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from gemmodel.core import files


def write(
    path: Path, history: Mapping[str, Sequence[float]], best_epoch: int, by_penalty: pd.DataFrame | None = None
) -> Path:
    """Writes loss and accuracy as a CSV file, and a picture as a PNG beside it, whose path it returns.

    Args:
        path: the CSV file, a row per point: `curve`, `step` (the epoch, or the penalty), `loss` and `accuracy`.
        history: `loss`, `accuracy`, `val_loss` and `val_accuracy` by epoch.
        best_epoch: the epoch that was kept.
        by_penalty: of a fit in closed form, as `penalty_curves` returns it; it is shown in place of epochs.
    """
    points = by_epoch(history) if by_penalty is None else by_penalty
    with files.atomic_write(path) as new:
        points.to_csv(new, index=False, lineterminator="\n")
    figure = learning_curves(history, best_epoch) if by_penalty is None else closed_form_curves(by_penalty)
    picture = path.with_suffix(".png")
    figure.savefig(picture, dpi=110, metadata={"Software": None})
    return picture


def by_epoch(history: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Returns the curves of the training and of the validation part, one row per point, as `write` writes them."""
    return pd.DataFrame(
        [
            (curve, epoch, loss, accuracy)
            for curve, prefix in (("training", ""), ("validation", "val_"))
            for epoch, (loss, accuracy) in enumerate(
                zip(history[f"{prefix}loss"], history[f"{prefix}accuracy"], strict=True)
            )
        ],
        columns=["curve", "step", "loss", "accuracy"],
    )


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


def closed_form_curves(points: pd.DataFrame) -> Figure:
    """Draws loss and accuracy over the penalty, a line for each degree alone and marks for the whole head.

    Args:
        points: one row per point: `curve`, `step` (the penalty), `loss` and `accuracy`.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    both = figure.subplots(1, 2)
    for axes, name in zip(both, ("loss", "accuracy"), strict=True):
        for i, (curve, rows) in enumerate(points.groupby("curve", sort=False)):
            style = {"marker": "o", "markersize": 4}
            if str(curve).startswith("the head"):
                style = {"marker": "*" if "left out" in str(curve) else "D", "markersize": 10, "linestyle": "none"}
            axes.plot(rows["step"], rows[name], color=f"C{i}", label=str(curve), **style)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # powers as text: typesetting of 10^-1 takes 0.4 s
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("penalty of the ridge regression")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure
