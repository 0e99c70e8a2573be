"""Ablation of cues: the accuracy of a model on photos without their colour, shape or texture."""

from collections.abc import Callable, Iterable, Mapping
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
Perturbations = Mapping[str, tuple[str, Perturbation]]  # by name, the removed cue and the function
UNCHANGED = "unchanged"
COLOURS = {
    "colour": "#d1495b",
    "shape": "#f2b447",
    "texture": "#4c78a8",
    "colour and texture": "#8c6bb1",
    "": "#888888",
}


def perturbations(params: ExplainParams, *, seed: int) -> Perturbations:
    """Returns the perturbations of photos uint8 (side, side, 3), the first of which changes nothing."""
    result: dict[str, tuple[str, Perturbation]] = {UNCHANGED: ("", lambda photo: photo), "grey": ("colour", grey)}
    for angle in params.hue_shifts:
        result[f"hue + {angle:g} degrees"] = ("colour", partial(shift_hue, degrees=angle))
    result["silhouette"] = ("colour and texture", silhouette)
    for percent in params.blurs:
        result[f"blur, {percent:g} % of the side"] = ("texture", partial(blur, percent=percent))
    for grid in params.patches:
        name = f"{grid} x {grid} patches shuffled"
        result[name] = ("shape", partial(shuffle_patches, grid=grid, seed=seed))
    return result


def grey(photo: np.ndarray) -> np.ndarray:
    """Returns the luma (ITU-R BT.601) in all three channels."""
    return np.asarray(Image.fromarray(photo).convert("L").convert("RGB"))


def shift_hue(photo: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates every pixel's hue in HSV; its saturation and its value, and so grey pixels, do not change."""
    import cv2

    hsv = cv2.cvtColor(photo.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + degrees) % 360
    return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


def silhouette(photo: np.ndarray) -> np.ndarray:
    """Returns the stone in black on white, or all black where saturation does not separate it from the background.

    After Robert Geirhos and others, arXiv 1811.12231.
    """
    mask = crop.foreground(Image.fromarray(photo))
    picture = Image.fromarray(~mask if mask.any() else np.zeros_like(mask))
    return np.asarray(picture.convert("L").resize(photo.shape[:2]).convert("RGB"))


def blur(photo: np.ndarray, percent: float) -> np.ndarray:
    """Blurs with a Gaussian whose std is given in per cent of the side."""
    import cv2

    return cv2.GaussianBlur(photo, (0, 0), len(photo) * percent / 100)


def shuffle_patches(photo: np.ndarray, grid: int, seed: int) -> np.ndarray:
    """Permutes the squares of a grid; pixels at the right and bottom that do not fill a square do not move.

    The joint histogram of the colours does not change. A grid as fine as the photo preserves nothing else.
    """
    size = len(photo) // grid
    order = np.random.default_rng(seed).permutation(grid**2)
    squares = photo[: grid * size, : grid * size].reshape(grid, size, grid, size, 3).swapaxes(1, 2)
    permuted = squares.reshape(grid**2, size, size, 3)[order].reshape(grid, grid, size, size, 3)
    result = photo.copy()
    result[: grid * size, : grid * size] = permuted.swapaxes(1, 2).reshape(grid * size, grid * size, 3)
    return result


def measure(
    predict: Callable[[Iterable[np.ndarray]], np.ndarray],
    pixels: np.ndarray,
    unchanged: np.ndarray,
    actual: np.ndarray,
    perturbations: Perturbations,
) -> pd.DataFrame:
    """Scores a model on the same photos under each perturbation.

    Args:
        predict: a function of photos uint8 (side, side, 3) to probabilities (photos, classes).
        pixels: uint8 of shape (photos, side, side, 3).
        unchanged: the photos' own probabilities, shape (photos, classes).
        actual: class indices of shape (photos,).
        perturbations: by name; the first one changes nothing.

    Returns:
        One row per perturbation: its name (`perturbation`), the `removed_cue`, the number of `photos`, `accuracy` with
        the bounds `low` and `high` of Wilson's 95 % interval, `agreement` (the fraction of photos with the same
        prediction as unperturbed), and the mean `probability` of the actual class.
    """
    rows: list[dict[str, Any]] = []
    for name, (removed_cue, perturb) in perturbations.items():
        probs = unchanged if name == UNCHANGED else predict(perturb(photo) for photo in pixels)
        predicted = probs.argmax(axis=1)
        right = int((predicted == actual).sum())
        interval = binomtest(right, len(actual)).proportion_ci(method="wilson")
        rows.append(
            {
                "perturbation": name,
                "removed_cue": removed_cue,
                "photos": len(actual),
                "accuracy": right / len(actual),
                "low": interval.low,
                "high": interval.high,
                "agreement": (predicted == unchanged.argmax(axis=1)).mean(),
                "probability": probs[np.arange(len(actual)), actual].mean(),
            }
        )
    return pd.DataFrame(rows).round(4)


def plot(table: pd.DataFrame, *, classes: int) -> Figure:
    """Draws the accuracies of `measure` as bars with their intervals, and a line at the accuracy of guessing."""
    figure = Figure(figsize=(9, 1.6 + 0.36 * len(table)), layout="constrained")
    axes = figure.subplots()
    for cue, rows in table.groupby("removed_cue", sort=False):
        axes.barh(
            rows["perturbation"], rows["accuracy"], color=COLOURS[cue], label=f"without {cue}" if cue else UNCHANGED,
            xerr=[rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]], ecolor="0.3", capsize=3,
        )  # fmt: skip
    for i, accuracy in enumerate(table["accuracy"]):
        axes.text(1.01, i, f"{100 * accuracy:.0f} %", va="center", fontsize=9)
    axes.axvline(1 / classes, color="0.3", linestyle=":", label="guessing")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), xlabel=f"accuracy on the same {table['photos'].iloc[0]} test photos, 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def examples(photo: np.ndarray, perturbations: Perturbations) -> list[tuple[Image.Image, str]]:
    """Returns a photo under each perturbation, with the name of the perturbation."""
    return [(Image.fromarray(perturb(photo)), name) for name, (_, perturb) in perturbations.items()]
