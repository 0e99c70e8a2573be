"""Kernel ridge regression with calibrated probabilities, fitted in closed form."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

from gemmodel.core.errors import ModelError
from gemmodel.core.params import FusionParams
from gemmodel.models.fusion import standardised
from gemmodel.models.joint_probability import JointProbability

FOLDS = 5  # of the photos; each is told by the confusions that the others taught
MAX_PHOTOS = 12_000  # a kernel matrix of them takes 1.2 GB, and four are alive at once


class KernelRidgeFit(NamedTuple):
    """Kernel ridge regressions of several degrees, calibrated and joined to one score a class.

    Attributes:
        coefficients: (photos, classes) a degree.
        scales: a and b of `probabilities` a degree.
        stacker: what the score of each degree and class tells of each class, (degrees * classes, classes).
    """

    coefficients: list[np.ndarray]
    scales: list[tuple[float, float]]
    stacker: np.ndarray


def kernel_head(
    params: FusionParams,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    blocks: Sequence[int],
    penalty: float | np.ndarray,
    parents: Sequence[int] = (),
) -> tuple[keras.Model, dict[str, float], np.ndarray]:
    """Fits kernel ridge regression to one-hot labels, in closed form, with calibrated probabilities.

    The kernel is ((1 + s) / 2) ** degree, s the mean over the blocks of the cosine between two photos' standardised
    features. Scores become a * arcsinh(b * score), whose softmax is the probabilities; a and b minimise the log loss of
    the leave-one-out scores, which ridge regression gives in closed form too, so calibration costs no photo. From the
    same scores, of all degrees, softmax regression then learns which gems are mistaken for which.

    With `labels: separate` there is one such regression of the mineral classes on all photos, and one of the gems of
    each on its own photos, without the last step; the probabilities are the products of both.

    Args:
        params: `degree` (one regression each), `stacking_penalty`, `components` (principal components that stand for
            the features) and `clip`.
        features: the training features, shape (photos, features).
        labels: class indices, shape (photos,).
        classes: the number of classes.
        blocks: the number of features in each block; every block weighs the same.
        penalty: added to the kernel's diagonal, which is 1; one for all photos, or one each, shape (photos,): a photo
            of half the penalty weighs twice.
        parents: of `labels: separate`, the mineral class's index of each class.

    Returns:
        A model from features of shape (batch, features) to probabilities of shape (batch, classes), its leave-one-out
        `loss` and `accuracy`, and the leave-one-out probabilities themselves, shape (photos, classes).

    Raises:
        ModelError: more photos than a kernel matrix is made for.
    """
    if len(features) > MAX_PHOTOS:
        raise ModelError(
            f"{len(features)} photos are too many for model.fusion.head: kernel, whose time grows with their cube; "
            f"from {MAX_PHOTOS} on set it to softmax"
        )
    known, x = standardised(params, features)
    starts = np.cumsum([0, *blocks]).tolist()
    parts = [x[:, start:end] for start, end in pairwise(starts)]
    x = ops.concatenate([layers.UnitNormalization()(part) for part in parts], axis=-1) / len(blocks) ** 0.5
    describe = keras.Model(known, x)
    described = np.asarray(describe(features))
    photos = len(described)
    first = max(0, photos - params.components)
    values, vectors = eigh(described @ described.T, subset_by_index=[first, photos - 1])
    kept = values > 1e-5 * values[-1]
    lengths, vectors = np.sqrt(values[kept]), vectors[:, kept]
    components, support = described.T @ (vectors / lengths), vectors * lengths

    alike = (1 + (support @ support.T).astype(np.float64)) / 2
    penalties = np.broadcast_to(penalty, photos)
    if params.labels == "all":
        found, left_out = _regression(params, alike, penalties, labels, [np.arange(classes)])
    else:
        primary, mineral_classes = np.asarray(parents)[labels], np.arange(max(parents) + 1)
        groups = [np.flatnonzero(np.equal(parents, group)) for group in mineral_classes]
        of_classes, class_left_out = _regression(params, alike, penalties, primary, [mineral_classes])
        found, left_out = _regression(params, alike, penalties, labels, groups)
        left_out = left_out * class_left_out[:, parents]

    # Names that a reader of the summary understands: the projection, similarity to each training photo, score a gem.
    x = layers.Dense(components.shape[1], use_bias=False, name="components")(x)
    x = layers.Dense(photos, use_bias=False, name="photos")(x)
    similar = [ops.power((1 + x) / 2, degree) for degree in params.degree]
    fitted = {"components": components, "photos": support.T}
    x = _scored(similar, found, "gem", fitted)
    if params.labels == "all":
        x = layers.Softmax(name="calibrated")(x)
    else:
        told = layers.Softmax()(_scored(similar, of_classes, "mineral_class", fitted))
        x = JointProbability(parents=parents, name="calibrated")([told, x])
    model = keras.Model(known, x, name="head")
    for name, weights in fitted.items():
        model.get_layer(name).set_weights([weights])
    figures = {
        "loss": float(log_loss(labels, left_out, labels=range(classes))),
        "accuracy": float((left_out.argmax(axis=1) == labels).mean()),
    }
    return model, figures, left_out


def _regression(
    params: FusionParams,
    alike: np.ndarray,
    penalties: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[np.ndarray],
) -> tuple[KernelRidgeFit, np.ndarray]:
    """Returns what is fitted to each group's photos, and its probabilities of each photo, left out in turn."""
    coefficients, scales, scaled = [], [], []
    for degree in params.degree:
        found, scores = _ridges(alike**degree, penalties, labels, groups)
        outer, inner = fit_arcsinh_scale(scores, labels, groups)
        coefficients.append(found)
        scales.append((outer, inner))
        scaled.append(outer * np.arcsinh(inner * scores))
    known = np.concatenate(scaled, axis=1)
    classes, photos = scaled[0].shape[1], np.arange(len(labels))
    mean = np.tile(np.eye(classes) / len(scaled), (len(scaled), 1))
    if len(groups) > 1 or not params.stacking_penalty:
        return KernelRidgeFit(coefficients, scales, mean), _shares(known @ mean, groups)
    learnt, left_out = fit_stacker(known, labels, mean, params.stacking_penalty), np.zeros((len(labels), classes))
    for fold in range(FOLDS):  # photos lie class by class: each fifth one makes folds that are alike
        part = photos % FOLDS == fold
        of_rest = fit_stacker(known[~part], labels[~part], mean, params.stacking_penalty)
        left_out[part] = softmax(known[part] @ of_rest, axis=1)
    return KernelRidgeFit(coefficients, scales, learnt), left_out


def fit_stacker(scores: np.ndarray, labels: np.ndarray, mean: np.ndarray, penalty: float) -> np.ndarray:
    """Returns the weights W of softmax regression, softmax(scores @ W), drawn to those of no confusion.

    Stacked generalisation (Wolpert, Neural Networks 5, 1992) of the leave-one-out scores.

    Args:
        scores: of photos that they do not know, shape (photos, scores).
        labels: class indices, shape (photos,).
        mean: the weights that it is drawn to, shape (scores, classes).
        penalty: W minimises the photos' summed log loss + penalty / 2 * the summed squares of W - mean.
    """
    one_hot = np.eye(mean.shape[1])[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        away = flat.reshape(mean.shape) - mean
        logs = log_softmax(scores @ flat.reshape(mean.shape), axis=1)
        slope = scores.T @ (np.exp(logs) - one_hot) + penalty * away
        return float(penalty / 2 * (away**2).sum() - (one_hot * logs).sum()), slope.ravel()

    with threadpool_limits(1):  # on a busy machine the threads of so small products wait for each other: 8 s, not 0.4
        best = minimize(loss, mean.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return best.x.reshape(mean.shape)


def _ridge(
    kernel: np.ndarray, penalties: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coefficients of kernel ridge regression and its leave-one-out scores, both (photos, classes)."""
    factor = cho_factor(kernel + np.diag(penalties))
    targets = np.eye(classes)[labels] - 1 / classes
    coefficients = cho_solve(factor, targets)
    inverse, _ = dpotri(*factor)  # one triangle of it
    return coefficients, targets - coefficients / np.diag(inverse)[:, None]


def _ridges(
    kernel: np.ndarray, penalties: np.ndarray, labels: np.ndarray, groups: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same of one regression a group of classes, each on the photos of its own classes alone."""
    coefficients = np.zeros((len(labels), sum(map(len, groups))))
    parts = []
    for group in groups:
        rows = np.flatnonzero(np.isin(labels, group))
        some = np.ix_(rows, group)
        found = _ridge(kernel[np.ix_(rows, rows)], penalties[rows], np.searchsorted(group, labels[rows]), len(group))
        coefficients[some] = found[0]
        parts.append((some, found[1]))
    scores = kernel @ coefficients  # a photo of another group was not learnt from: leaving it out changes nothing
    for some, left_out in parts:
        scores[some] = left_out
    return coefficients, scores


def fit_arcsinh_scale(scores: np.ndarray, labels: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """Returns the a and b of `probabilities` that minimise the log loss of photos whose labels the scores do not know.

    Args:
        scores: of kernel ridge regression, shape (photos, classes).
        labels: class indices, shape (photos,).
        groups: indices of the classes among which the probabilities sum to 1.
    """

    def loss(logs: np.ndarray) -> float:
        right = probabilities(scores, np.exp(logs[0]), np.exp(logs[1]), groups)[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(right, 1e-15)).mean())

    best = minimize(loss, [1.0, 2.5], method="Nelder-Mead", bounds=[(-5, 5)] * 2, options={"maxiter": 60})
    outer, inner = np.exp(best.x).tolist()
    return outer, inner


def probabilities(scores: np.ndarray, outer: float, inner: float, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Returns softmax(a * arcsinh(b * score)) over each group of classes, shape (photos, classes)."""
    return _shares(outer * np.arcsinh(inner * scores), groups)


def _shares(scaled: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    for group in groups:
        scaled[:, group] = softmax(scaled[:, group], axis=1)
    return scaled


def _scored(
    similar: Sequence[keras.KerasTensor], found: KernelRidgeFit, name: str, fitted: dict[str, np.ndarray]
) -> keras.KerasTensor:
    """Adds the layers from similarity of each degree to a score a class, and their weights to `fitted`."""
    classes, parts = found.stacker.shape[1], []
    for number, (x, coefficients, (outer, inner)) in enumerate(
        zip(similar, found.coefficients, found.scales, strict=True)
    ):
        layer = layers.Dense(classes, use_bias=False, name=f"{name}_{number}")
        parts.append(_scaled(layer(x), outer, inner))
        fitted[layer.name] = coefficients
    fitted[name] = found.stacker
    return layers.Dense(classes, use_bias=False, name=name)(layers.Concatenate()(parts))


def _scaled(x: keras.KerasTensor, outer: float, inner: float) -> keras.KerasTensor:
    x = layers.Rescaling(inner)(x)
    x = ops.sign(x) * ops.log(ops.abs(x) + ops.sqrt(ops.square(x) + 1))  # arcsinh, which LiteRT lacks
    return layers.Rescaling(outer)(x)
