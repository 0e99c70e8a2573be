"""Calibration of ridge scores, and stacking: from leave-one-out scores of several degrees to probabilities."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from gemmodel.core.dask_client import ordered_map
from gemmodel.core.params import FusionParams

MAX_CALIBRATED = 20_000  # photos, every n-th one: two numbers are fitted to them
FITS_AT_ONCE = 2  # in threads: LAPACK keeps Python's lock for a third of the time, and a fit may take a GB
STACKING_FOLDS = 5  # the leave-one-out probabilities of each fold come from a stacker fitted to the other folds

Ridge = tuple[np.ndarray, np.ndarray]  # dual coefficients and leave-one-out scores


@dataclass(frozen=True)
class KernelRidgeFit:
    """Kernel ridge regressions of several degrees, calibrated and combined to one score per class.

    Attributes:
        dual_coef: the coefficients of each degree, each of shape (landmarks, classes).
        arcsinh_scales: a and b of each degree: a score becomes a * arcsinh(b * score).
        stacker: the weights from the scores of all degrees to the classes, shape (degrees * classes, classes).
        loo_probs: the probabilities of each training photo when it is left out, shape (photos, classes).
    """

    dual_coef: list[np.ndarray]
    arcsinh_scales: list[tuple[float, float]]
    stacker: np.ndarray
    loo_probs: np.ndarray

    def scores(self, kernels: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the logits of photos, shape (photos, classes).

        Args:
            kernels: the kernel matrix of each degree, shape (photos, landmarks).
        """
        scaled = [
            a * np.arcsinh(b * (kernel @ dual_coef))
            for kernel, dual_coef, (a, b) in zip(kernels, self.dual_coef, self.arcsinh_scales, strict=True)
        ]
        return np.concatenate(scaled, axis=1) @ self.stacker


def fit_ridges(
    params: FusionParams,
    ridges: Iterable[Ridge],
    labels: np.ndarray,
    groups: Sequence[np.ndarray],
    *,
    loo: bool = True,
) -> KernelRidgeFit:
    """Fits one calibrated regression per degree, and the stacker of their scores.

    Args:
        params: `stacking_penalty`.
        ridges: of each degree the dual coefficients (landmarks, classes) and the leave-one-out scores (photos,
            classes).
        labels: class indices, shape (photos,).
        groups: indices of the classes among which the probabilities sum to 1. Each group is fitted to its own photos.
            Only a single group is stacked.
        loo: whether `loo_probs` are computed, which takes five more stackers; without them they are empty.
    """
    dual_coefs, arcsinh_scales, scaled = [], [], []
    for dual_coef, loo_scores in ridges:
        a, b = fit_arcsinh_scale(loo_scores, labels, groups)
        dual_coefs.append(dual_coef)
        arcsinh_scales.append((a, b))
        scaled.append(a * np.arcsinh(b * loo_scores))
    scores = np.concatenate(scaled, axis=1)
    classes = scaled[0].shape[1]
    mean = np.tile(np.eye(classes) / len(scaled), (len(scaled), 1))
    if len(groups) > 1 or not params.stacking_penalty:
        return KernelRidgeFit(dual_coefs, arcsinh_scales, mean, grouped_softmax(scores @ mean, groups))
    folds = np.arange(len(labels)) % STACKING_FOLDS  # photos are sorted by class, so every fold has all classes
    fitted = [*(folds != fold for fold in range(STACKING_FOLDS if loo else 0)), np.full(len(labels), True)]
    # On a busy machine the threads of BLAS would wait for each other in such small products: 8 s, not 0.4.
    *fold_stackers, stacker = ordered_map(
        None, fit_stacker, ((scores[rows], labels[rows], mean, params.stacking_penalty) for rows in fitted),
        threads=FITS_AT_ONCE,
    )  # fmt: skip
    loo_probs = np.zeros((len(labels) if loo else 0, classes))
    for rows, fold_stacker in zip(fitted[:-1], fold_stackers, strict=True):
        loo_probs[~rows] = softmax(scores[~rows] @ fold_stacker, axis=1)
    return KernelRidgeFit(dual_coefs, arcsinh_scales, stacker, loo_probs)


def fit_stacker(scores: np.ndarray, labels: np.ndarray, mean: np.ndarray, penalty: float) -> np.ndarray:
    """Returns the weights W of softmax regression, softmax(scores @ W), regularised towards given weights.

    It is stacked generalisation (Wolpert, Neural Networks 5, 1992) of leave-one-out scores.

    Args:
        scores: of photos that were left out, shape (photos, scores).
        labels: class indices, shape (photos,).
        mean: the weights towards which W is regularised, shape (scores, classes).
        penalty: W minimises the summed log loss of the photos + penalty / 2 * the summed squares of W - mean.
    """
    one_hot = np.eye(mean.shape[1])[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        difference = flat.reshape(mean.shape) - mean
        log_probs = log_softmax(scores @ flat.reshape(mean.shape), axis=1)
        gradient = scores.T @ (np.exp(log_probs) - one_hot) + penalty * difference
        return float(penalty / 2 * (difference**2).sum() - (one_hot * log_probs).sum()), gradient.ravel()

    best = minimize(loss, mean.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return best.x.reshape(mean.shape)


def fit_arcsinh_scale(scores: np.ndarray, labels: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """Returns the a and b for which softmax(a * arcsinh(b * score)) has the least log loss.

    Args:
        scores: leave-one-out scores of kernel ridge regression, shape (photos, classes).
        labels: class indices, shape (photos,).
        groups: indices of the classes among which the probabilities sum to 1.
    """
    step = -(-len(labels) // MAX_CALIBRATED)
    scores, labels = scores[::step], labels[::step]

    def loss(logs: np.ndarray) -> float:
        a, b = np.exp(logs)
        probs = grouped_softmax(a * np.arcsinh(b * scores), groups)[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(probs, 1e-15)).mean())

    best = minimize(loss, [1.0, 2.5], method="Nelder-Mead", bounds=[(-5, 5)] * 2, options={"maxiter": 60})
    a, b = np.exp(best.x).tolist()
    return a, b


def grouped_softmax(scores: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the softmax over each group of classes, shape (photos, classes)."""
    probs = np.empty_like(scores)
    for group in groups:
        probs[:, group] = softmax(scores[:, group], axis=1)
    return probs
