"""Learning curves."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure


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
