"""Fusion of a backbone's features with colour: a head on features, and the whole as one graph from pixels on."""

from collections.abc import Sequence
from itertools import pairwise

import keras
import numpy as np
from keras import layers, ops
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.metrics import log_loss

from gemmodel.errors import ModelError
from gemmodel.params import FusionParams

MOST_PHOTOS = 12_000  # a kernel matrix of them takes 1.2 GB, and three are alive at once


def head(params: FusionParams, features: np.ndarray, *, classes: int) -> keras.Model:
    """Returns an untrained softmax head that standardises its input by the training features.

    Args:
        params: `clip` bounds the standardised features, `dropout` their share left out in training.
        features: the training features, shape (photos, features).
        classes: the number of classes.

    Returns:
        A model from features of shape (batch, features) to probabilities of shape (batch, classes).
    """
    known, x = _standardised(params, features)
    x = layers.Dropout(params.dropout)(x)
    return keras.Model(known, layers.Dense(classes, activation="softmax", name="gem")(x), name="head")


def kernel_head(
    params: FusionParams,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    blocks: Sequence[int],
    penalty: float | np.ndarray,
    calibration: tuple[float, float] | None = None,
) -> tuple[keras.Model, dict[str, float]]:
    """Fits kernel ridge regression to one-hot labels, in closed form, with calibrated probabilities.

    The kernel is ((1 + s) / 2) ** degree, s the mean over the blocks of the cosine between two photos' standardised
    features. Scores become probabilities by softmax(a * arcsinh(b * score)); a and b minimise the log loss of the
    leave-one-out scores, which ridge regression gives in closed form too, so calibration costs no photo.

    Args:
        params: `degree`, `components` (principal components that stand for the features) and `clip`.
        features: the training features, shape (photos, features).
        labels: class indices, shape (photos,).
        classes: the number of classes.
        blocks: the number of features in each block; every block weighs the same.
        penalty: added to the kernel's diagonal, which is 1; one for all photos, or one each, shape (photos,): a photo
            of half the penalty weighs twice.
        calibration: a and b, where known.

    Returns:
        A model from features of shape (batch, features) to probabilities of shape (batch, classes), and its
        leave-one-out `loss` and `accuracy`.

    Raises:
        ModelError: more photos than a kernel matrix is made for.
    """
    if len(features) > MOST_PHOTOS:
        raise ModelError(
            f"{len(features)} photos are too many for model.fusion.head: kernel, whose time grows with their cube; "
            f"from {MOST_PHOTOS} on set it to softmax"
        )
    known, x = _standardised(params, features)
    starts = np.cumsum([0, *blocks]).tolist()
    parts = [x[:, start:end] for start, end in pairwise(starts)]
    x = ops.concatenate([layers.UnitNormalization()(part) for part in parts], axis=-1) / len(blocks) ** 0.5
    described = np.asarray(keras.Model(known, x)(features))
    photos = len(described)
    first = max(0, photos - params.components)
    values, vectors = eigh(described @ described.T, subset_by_index=[first, photos - 1])
    kept = values > 1e-5 * values[-1]
    lengths, vectors = np.sqrt(values[kept]), vectors[:, kept]
    components, support = described.T @ (vectors / lengths), vectors * lengths

    kernel = ((1 + (support @ support.T).astype(np.float64)) / 2) ** params.degree
    factor = cho_factor(kernel + np.diag(np.broadcast_to(penalty, photos)))
    targets = np.eye(classes)[labels] - 1 / classes
    coefficients = cho_solve(factor, targets)
    inverse, _ = dpotri(*factor)  # one triangle of it
    left_out = targets - coefficients / np.diag(inverse)[:, None]

    outer, inner = calibration or calibrate(left_out, labels)
    told = probabilities(left_out, (outer, inner))
    loss = float(log_loss(labels, told, labels=range(classes)))

    # Names that a reader of the summary understands: the projection, similarity to each training photo, score a gem.
    x = layers.Dense(components.shape[1], use_bias=False, name="components")(x)
    x = layers.Dense(photos, use_bias=False, name="photos")(x)
    x = layers.Dense(classes, use_bias=False, name="gem")(ops.power((1 + x) / 2, params.degree))
    x = layers.Rescaling(inner)(x)
    x = ops.sign(x) * ops.log(ops.abs(x) + ops.sqrt(ops.square(x) + 1))  # arcsinh, which LiteRT lacks
    fitted = keras.Model(known, layers.Softmax(name="calibrated")(layers.Rescaling(outer)(x)), name="head")
    for name, weights in (("components", components), ("photos", support.T), ("gem", coefficients)):
        fitted.get_layer(name).set_weights([weights])
    accuracy = (left_out.argmax(axis=1) == labels).mean()
    return fitted, {"loss": loss, "accuracy": float(accuracy)}


def calibrate(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the a and b of `probabilities` that minimise the log loss of photos whose labels the scores do not know.

    Args:
        scores: of kernel ridge regression, shape (photos, classes).
        labels: class indices, shape (photos,).
    """

    def loss(logs: np.ndarray) -> float:
        return float(log_loss(labels, probabilities(scores, np.exp(logs)), labels=range(scores.shape[1])))

    best = minimize(loss, [1.0, 2.5], method="Nelder-Mead", bounds=[(-5, 5)] * 2, options={"maxiter": 60})
    outer, inner = np.exp(best.x).tolist()
    return outer, inner


def probabilities(scores: np.ndarray, calibration: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns softmax(a * arcsinh(b * score)), shape (photos, classes)."""
    outer, inner = calibration
    return softmax(outer * np.arcsinh(inner * scores), axis=1)


def _standardised(params: FusionParams, features: np.ndarray) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    known = keras.Input((features.shape[1],), name="features")
    standardise = layers.Normalization(name="standardise")
    standardise.adapt(features)
    return known, ops.clip(standardise(known), -params.clip, params.clip)


def attach(extractor: keras.Model, head: keras.Model) -> keras.Model:
    """Joins a feature extractor and a trained head to one model from pixels in [0, 255] to probabilities."""
    return keras.Model(extractor.inputs, head(extractor.outputs[0]), name="fusion")
