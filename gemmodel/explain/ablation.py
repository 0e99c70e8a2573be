"""Does colour decide? What a model still knows of photos whose colour, shape or texture is taken away."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import binomtest

from gemmodel.core.params import ExplainParams
from gemmodel.images import crop

Perturbation = Callable[[np.ndarray], np.ndarray]
UNCHANGED = "unchanged"
COLOURS = {
    "colour": "#d1495b",
    "shape": "#f2b447",
    "texture": "#4c78a8",
    "colour and texture": "#8c6bb1",
    "": "#888888",
}


def perturbations(params: ExplainParams, *, seed: int) -> dict[str, tuple[str, Perturbation]]:
    """Returns, by name, what each change takes away and the change itself, from uint8 (side, side, 3) to the same."""
    found: dict[str, tuple[str, Perturbation]] = {UNCHANGED: ("", lambda photo: photo), "grey": ("colour", grey)}
    for angle in params.hue_shifts:
        found[f"hue + {angle:g} degrees"] = ("colour", partial(hue_shifted, degrees=angle))
    found["silhouette"] = ("colour and texture", silhouette)
    for percent in params.blurs:
        found[f"blur, {percent:g} % of the side"] = ("texture", partial(blurred, percent=percent))
    for grid in params.patches:
        name = f"{grid} x {grid} patches shuffled"
        found[name] = ("shape", partial(shuffled, grid=grid, seed=seed))
    return found


def grey(photo: np.ndarray) -> np.ndarray:
    """Returns the luma (ITU-R BT.601) in all three channels."""
    return np.asarray(Image.fromarray(photo).convert("L").convert("RGB"))


def hue_shifted(photo: np.ndarray, degrees: float) -> np.ndarray:
    """Turns every pixel's hue, its saturation and its largest channel unchanged; greys stay as they are."""
    import cv2

    hsv = cv2.cvtColor(photo.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + degrees) % 360
    return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


def silhouette(photo: np.ndarray) -> np.ndarray:
    """Returns the stone in black on white, or all black where its saturation does not part it from the background.

    After Robert Geirhos and others, arXiv 1811.12231.
    """
    mask = crop.foreground(Image.fromarray(photo))
    black = Image.fromarray(~mask if mask.any() else np.zeros_like(mask))
    return np.asarray(black.convert("L").resize(photo.shape[:2]).convert("RGB"))


def blurred(photo: np.ndarray, percent: float) -> np.ndarray:
    """Blurs by a Gaussian whose deviation is a share of the side, in per cent."""
    import cv2

    return cv2.GaussianBlur(photo, (0, 0), len(photo) * percent / 100)


def shuffled(photo: np.ndarray, grid: int, seed: int) -> np.ndarray:
    """Moves the squares of a grid about; pixels that the grid leaves over at the right and below stay.

    The joint histogram of the colours is the same as before. A grid as fine as the photo leaves nothing but that.
    """
    size = len(photo) // grid
    order = np.random.default_rng(seed).permutation(grid**2)
    squares = photo[: grid * size, : grid * size].reshape(grid, size, grid, size, 3).swapaxes(1, 2)
    moved = squares.reshape(grid**2, size, size, 3)[order].reshape(grid, grid, size, size, 3)
    result = photo.copy()
    result[: grid * size, : grid * size] = moved.swapaxes(1, 2).reshape(grid * size, grid * size, 3)
    return result


def measure(
    probabilities: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, actual: np.ndarray,
    changes: Mapping[str, tuple[str, Perturbation]],
) -> pd.DataFrame:  # fmt: skip
    """Scores a model on the same photos under each change.

    Args:
        probabilities: of pixels float32 (photos, side, side, 3), shape (photos, classes).
        pixels: uint8 of shape (photos, side, side, 3).
        actual: class indices of shape (photos,).
        changes: `changes`; the first leaves the photos as they are.

    Returns:
        A row a change: its name (`change`), what it `takes_away`, `photos`, `accuracy` with the bounds `low` and
        `high` of Wilson's 95 % interval, the `same_answer` share that is answered as unchanged, and the mean
        `probability` of the actual class.
    """
    rows: list[dict[str, Any]] = []
    first: np.ndarray | None = None
    for name, (takes_away, change) in changes.items():
        told = probabilities(np.stack([change(photo) for photo in pixels]).astype(np.float32))
        answers = told.argmax(axis=1)
        first = answers if first is None else first
        right = int((answers == actual).sum())
        interval = binomtest(right, len(actual)).proportion_ci(method="wilson")
        rows.append(
            {
                "change": name,
                "removed_cue": takes_away,
                "photos": len(actual),
                "accuracy": right / len(actual),
                "low": interval.low,
                "high": interval.high,
                "agreement": (answers == first).mean(),
                "probability": told[np.arange(len(actual)), actual].mean(),
            }
        )
    return pd.DataFrame(rows).round(4)


def plot(table: pd.DataFrame, *, classes: int) -> Figure:
    """Draws what `measure` gave as bars with their intervals, and a line at what guessing would reach."""
    figure = Figure(figsize=(9, 1.2 + 0.36 * len(table)), layout="constrained")
    axes = figure.subplots()
    for kind, rows in table.groupby("removed_cue", sort=False):
        axes.barh(
            rows["change"], rows["accuracy"], color=COLOURS[kind], label=f"takes away {kind}" if kind else "as it is",
            xerr=[rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]], ecolor="0.3", capsize=3,
        )  # fmt: skip
    for place, accuracy in enumerate(table["accuracy"]):
        axes.text(1.01, place, f"{accuracy:.0%}", va="center", fontsize=9)
    axes.axvline(1 / classes, color="0.3", linestyle=":", label="guessing")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.08), xlabel=f"accuracy on the same {table['photos'].iloc[0]} test photos, 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    return figure


def examples(photo: np.ndarray, changes: Mapping[str, tuple[str, Perturbation]]) -> Sequence[tuple[Image.Image, str]]:
    """Returns a photo under each change with the change's name."""
    return [(Image.fromarray(change(photo)), name) for name, (_, change) in changes.items()]
