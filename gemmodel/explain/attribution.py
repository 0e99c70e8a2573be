"""Which parts of a photo speak for a class: the methods, each from its paper.

No library fits: saliency 0.2.1 counts a path's ends in full, hides 44,000 windows one by one and has no VarGrad;
tf-keras-vis 0.8.7 has neither integrated gradients nor VarGrad; xplique 2.0.2 refuses TensorFlow 2.21.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from scipy.stats import spearmanr

from gemmodel.core.params import ExplainParams
from gemmodel.explain import occlusion
from gemmodel.explain.explainer import Explainer

Baseline = Literal["black", "noise"]


def integrated_gradients(
    opened: Explainer, photo: np.ndarray, target: int, *, steps: int, baseline: Baseline, seed: int,
    held: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Integrates the gradient along the straight line from a baseline (Mukund Sundararajan and others, 1703.01365).

    Args:
        opened: the model.
        photo: pixels in [0, 255], shape (side, side, 3).
        target: the class.
        steps: intervals of the trapezoidal rule; one more gradient is taken.
        baseline: a black picture, or one of uniform noise.
        seed: of that noise.
        held: the photo whose colours the histograms tell; None: this one.

    Returns:
        Signed, of shape (side, side, 3). Its sum is the score's difference between photo and baseline.
    """
    start = _start(photo, baseline, seed)
    weights = np.full(steps + 1, 1 / steps, np.float32)
    weights[[0, -1]] /= 2
    path = start + np.linspace(0, 1, steps + 1, dtype=np.float32)[:, None, None, None] * (photo - start)
    gradients = opened.gradients(path, target, held=photo if held is None else held)
    return (photo - start) * np.tensordot(weights, gradients, axes=1)


def completeness_error(
    opened: Explainer, photo: np.ndarray, target: int, attribution: np.ndarray, *, baseline: Baseline, seed: int
) -> float:
    """Returns how far integrated gradients are from summing up to the score's difference, as a share of it."""
    ends = np.stack([photo, _start(photo, baseline, seed)])
    score, least = opened.score(ends, target, held=photo).astype(np.float64)
    return float(abs(attribution.sum(dtype=np.float64) - (score - least)) / max(abs(score - least), 1e-6))


def _start(photo: np.ndarray, baseline: Baseline, seed: int) -> np.ndarray:
    if baseline == "black":
        return np.zeros_like(photo)
    return np.random.default_rng(seed).uniform(0, 255, photo.shape).astype(np.float32)


def smoothgrad(
    opened: Explainer, photo: np.ndarray, target: int, *, copies: int, deviation: float, seed: int
) -> np.ndarray:
    """Averages the gradient's absolute value over noisy copies (Daniel Smilkov and others, 1706.03825).

    Args:
        opened: the model.
        photo: pixels in [0, 255], shape (side, side, 3).
        target: the class.
        copies: number of copies.
        deviation: of the normal noise, in grey levels.
        seed: of the noise.

    Returns:
        Not negative, of shape (side, side).
    """
    gradients = opened.gradients(_noisy(photo, copies, deviation, seed), target, held=photo)
    return np.abs(gradients).mean(axis=0).sum(axis=-1)


def vargrad(
    opened: Explainer, photo: np.ndarray, target: int, *, copies: int, steps: int, deviation: float,
    baseline: Baseline, seed: int,
) -> np.ndarray:  # fmt: skip
    """Returns the deviation of integrated gradients over noisy copies (Julius Adebayo and others, 1810.03307).

    The arguments are those of `integrated_gradients` and `smoothgrad`.

    Returns:
        Not negative, of shape (side, side): of the three channels' deviations the sum.
    """
    maps = [
        integrated_gradients(opened, copy, target, steps=steps, baseline=baseline, seed=seed, held=photo)
        for copy in _noisy(photo, copies, deviation, seed)
    ]
    return np.std(maps, axis=0).sum(axis=-1)


def _noisy(photo: np.ndarray, copies: int, deviation: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, deviation, (copies, *photo.shape))
    return (photo + noise).astype(np.float32)


def grad_cam(opened: Explainer, photo: np.ndarray, target: int) -> np.ndarray:
    """Weighs the coarsest map's channels by their mean gradients (Ramprasaath Selvaraju and others, 1610.02391).

    Returns:
        Not negative, of that map's height and width. All 0 where everything speaks against the class.
    """
    values, gradients = opened.last_map(photo, target)
    return np.maximum(values @ gradients.mean(axis=(0, 1)), 0)


def methods(params: ExplainParams, *, seed: int) -> dict[str, Callable[[Explainer, np.ndarray, int], np.ndarray]]:
    """Returns each method by its name as parameters want it: of a model, a photo and a class, its map (h, w)."""

    def integrated(opened: Explainer, photo: np.ndarray, target: int) -> np.ndarray:
        return integrated_gradients(opened, photo, target, steps=params.steps, baseline=params.baseline, seed=seed).sum(
            axis=-1
        )

    def occluded(opened: Explainer, photo: np.ndarray, target: int) -> np.ndarray:
        def score(photos: Iterator[np.ndarray]) -> np.ndarray:
            return opened.score(np.stack(list(photos)).astype(np.float32), target)

        return occlusion.occlusion(score, photo.astype(np.uint8), cells=params.occlusion, reach=0)

    def smooth(opened: Explainer, photo: np.ndarray, target: int) -> np.ndarray:
        return smoothgrad(opened, photo, target, copies=params.smoothgrad_copies, deviation=params.noise, seed=seed)

    def var(opened: Explainer, photo: np.ndarray, target: int) -> np.ndarray:
        return vargrad(
            opened, photo, target, copies=params.vargrad_copies, steps=params.vargrad_steps, deviation=params.noise,
            baseline=params.baseline, seed=seed,
        )  # fmt: skip

    return {
        "VarGrad": var,
        "integrated gradients": integrated,
        "SmoothGrad": smooth,
        "Grad-CAM": grad_cam,
        "occlusion": occluded,
    }


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Returns Spearman's correlation of two maps; 0 where one of them is the same everywhere."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other, axis=None).statistic)
