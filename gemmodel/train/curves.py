"""Learning curves."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from gemmodel.core import files


def write(path: Path, history: Mapping[str, Sequence[float]], best_epoch: int) -> Figure:
    """Writes each metric by epoch as a CSV file, and the learning curves as a PNG beside it; returns their figure."""
    with files.atomic_write(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *history])
        writer.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values(), strict=True)))
    figure = learning_curves(history, best_epoch)
    figure.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})
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
