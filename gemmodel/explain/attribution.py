"""Attribution methods, which show the parts of a photo that support a class; each is from a paper.

No library fits. saliency 0.2.1 gives the ends of a path full weight, occludes 44,000 windows one by one and has no
VarGrad. tf-keras-vis 0.8.7 has neither integrated gradients nor VarGrad. xplique 2.0.2 refuses TensorFlow 2.21.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from scipy.stats import spearmanr

from gemmodel.core.params import ExplainParams
from gemmodel.explain import occlusion
from gemmodel.explain.explainer import Explainer

OCCLUSION = "occlusion"  # the name of the method without gradients
GRAD_CAM = "Grad-CAM"
Baseline = Literal["black", "noise"]
Method = Callable[[Explainer, np.ndarray, int], np.ndarray]  # of a model, a photo and a class, to a map (h, w)


def integrated_gradients(
    explainer: Explainer, photo: np.ndarray, target: int, *, steps: int, baseline: Baseline, seed: int,
    histogram_photo: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Integrates the gradient along a straight line from a baseline (Mukund Sundararajan and others, 1703.01365).

    Args:
        explainer: of the model.
        photo: pixels in [0, 255], shape (side, side, 3).
        target: the class index.
        steps: intervals of the trapezoidal rule; it takes one gradient more.
        baseline: a black picture, or one of uniform noise.
        seed: of that noise.
        histogram_photo: the photo whose colour histograms are used; None: this one.

    Returns:
        Signed, of shape (side, side, 3). It sums to the difference of the scores of photo and baseline.
    """
    start = _baseline_pixels(photo, baseline, seed)
    weights = np.full(steps + 1, 1 / steps, np.float32)
    weights[[0, -1]] /= 2
    path = start + np.linspace(0, 1, steps + 1, dtype=np.float32)[:, None, None, None] * (photo - start)
    gradients = explainer.gradients(path, target, histogram_photo=photo if histogram_photo is None else histogram_photo)
    return (photo - start) * np.tensordot(weights, gradients, axes=1)


def completeness_error(
    explainer: Explainer, photo: np.ndarray, target: int, attribution: np.ndarray, *, baseline: Baseline, seed: int
) -> float:
    """Returns the error of the sum of integrated gradients, relative to the difference of scores that it approximates.

    Completeness is an axiom of the paper: the sum is the difference of the scores of photo and baseline.
    """
    ends = np.stack([photo, _baseline_pixels(photo, baseline, seed)])
    photo_score, baseline_score = explainer.score(ends, target, histogram_photo=photo).astype(np.float64)
    expected = photo_score - baseline_score
    return float(abs(attribution.sum(dtype=np.float64) - expected) / max(abs(expected), 1e-6))


def _baseline_pixels(photo: np.ndarray, baseline: Baseline, seed: int) -> np.ndarray:
    if baseline == "black":
        return np.zeros_like(photo)
    return np.random.default_rng(seed).uniform(0, 255, photo.shape).astype(np.float32)


def smoothgrad(
    explainer: Explainer, photo: np.ndarray, target: int, *, copies: int, std: float, seed: int
) -> np.ndarray:
    """Averages the gradient's absolute value over noisy copies (Daniel Smilkov and others, 1706.03825).

    Args:
        explainer: of the model.
        photo: pixels in [0, 255], shape (side, side, 3).
        target: the class index.
        copies: number of copies.
        std: of the normal noise, in grey levels.
        seed: of the noise.

    Returns:
        Not negative, of shape (side, side).
    """
    gradients = explainer.gradients(_noisy(photo, copies, std, seed), target, histogram_photo=photo)
    return np.abs(gradients).mean(axis=0).sum(axis=-1)


def vargrad(
    explainer: Explainer, photo: np.ndarray, target: int, *, copies: int, steps: int, std: float,
    baseline: Baseline, seed: int,
) -> np.ndarray:  # fmt: skip
    """Returns the std of integrated gradients over noisy copies (Julius Adebayo and others, 1810.03307).

    The arguments are those of `integrated_gradients` and `smoothgrad`.

    Returns:
        Not negative, of shape (side, side): the sum over the three channels.
    """
    maps = [
        integrated_gradients(explainer, copy, target, steps=steps, baseline=baseline, seed=seed, histogram_photo=photo)
        for copy in _noisy(photo, copies, std, seed)
    ]
    return np.std(maps, axis=0).sum(axis=-1)


def _noisy(photo: np.ndarray, copies: int, std: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, std, (copies, *photo.shape))
    return (photo + noise).astype(np.float32)


def grad_cam(explainer: Explainer, photo: np.ndarray, target: int) -> np.ndarray:
    """Weights the channels of the last map by their mean gradients (Ramprasaath Selvaraju and others, 1610.02391).

    Returns:
        Not negative, of the map's height and width. All 0 where every part opposes the class.
    """
    values, gradients = explainer.last_conv_map(photo, target)
    return np.maximum(values @ gradients.mean(axis=(0, 1)), 0)


def methods(params: ExplainParams, *, seed: int) -> dict[str, Method]:
    """Returns the methods by name, with these parameters."""

    def integrated(explainer: Explainer, photo: np.ndarray, target: int) -> np.ndarray:
        return integrated_gradients(
            explainer, photo, target, steps=params.steps, baseline=params.baseline, seed=seed
        ).sum(axis=-1)

    def occluded(explainer: Explainer, photo: np.ndarray, target: int) -> np.ndarray:
        def log_probability(photos: Iterator[np.ndarray]) -> np.ndarray:
            return np.log(np.maximum(probabilities(explainer)(photos)[:, target], occlusion.EPS))

        return np.maximum(occlusion.occlusion(log_probability, photo.astype(np.uint8), cells=params.occlusion), 0)

    def smooth(explainer: Explainer, photo: np.ndarray, target: int) -> np.ndarray:
        return smoothgrad(explainer, photo, target, copies=params.smoothgrad_copies, std=params.noise, seed=seed)

    def var(explainer: Explainer, photo: np.ndarray, target: int) -> np.ndarray:
        return vargrad(
            explainer, photo, target, copies=params.vargrad_copies, steps=params.vargrad_steps, std=params.noise,
            baseline=params.baseline, seed=seed,
        )  # fmt: skip

    return {
        "VarGrad": var,
        "integrated gradients": integrated,
        "SmoothGrad": smooth,
        GRAD_CAM: grad_cam,
        OCCLUSION: occluded,
    }


def probabilities(explainer: Explainer) -> occlusion.Probabilities:
    """Returns the function of photos to probabilities by which a model is explained by occlusion."""
    return lambda photos: explainer.probabilities(np.stack(list(photos)).astype(np.float32))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Spearman's rank correlation of two maps, in [-1, 1]; 0 where one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b, axis=None).statistic)
