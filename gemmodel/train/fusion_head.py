"""Training of `fusion`: a head is fitted to cached features, then attached to the extractor that computed them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from gemmodel.core.params import FusionParams, TrainParams
from gemmodel.embed import extractor, feature_set
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.models import fusion
from gemmodel.models.conformal import HeldOutPredictions, ReferenceSet
from gemmodel.models.joint_probability import JointProbability
from gemmodel.models.metadata import mineral_class_indices
from gemmodel.train.context import OnEpoch, TrainingContext
from gemmodel.train.fit import (
    History,
    TrainingResult,
    class_weight,
    fit,
    held_out_predictions,
    reference_sample,
)
from gemmodel.train.kernel_ridge import KernelRidge, KernelRidgeFit
from gemmodel.train.penalty_curves import penalty_curves

MAX_LOGIT_SCALE = 4.0  # and its inverse bound the scale: it would grow without end where all photos are correct


def train_fusion(context: TrainingContext) -> TrainingResult:
    """Fits the head to cached features and attaches it to the extractor that computed them.

    Args:
        context: parameters, features and hierarchy. Each penalty of the kernel head counts as an epoch.

    Returns:
        The model from pixels to [probabilities, embedding]. The held-out predictions of a kernel head that is refitted
        on validation photos are the leave-one-out ones of all photos; those of other heads are for the validation
        photos.
    """
    params = context.params
    model = params.model.fusion
    train, val = (feature_set.read(context.features / f"{part}.npz") for part in ("train", "val"))
    parents = mineral_class_indices(train.classes, context.hierarchy)[1].tolist() if model.labels == "separate" else []
    pixels_to_features = extractor.extractor(params.embed, image_size=params.base.image_size)
    selection_metric, curves = "val_loss", None
    if model.head == "softmax":
        head = fusion.softmax_head(model, train.features, classes=len(train.classes), parents=parents)
        history = fit_softmax(head, train, val, seed=params.base.seed, params=params.train, on_epoch=context.on_epoch)
        held_out = _predict_held_out(head, train, val)
        if model.labels == "all":
            held_out = temperature_scale(head, held_out)
    else:
        ridge, history = fit_kernel(
            model, train, val, params=params.train, seed=params.base.seed, parents=parents, on_epoch=context.on_epoch
        )
        head = to_keras(ridge)
        if model.refit_on_validation:
            both = train.concat(val)
            sample = reference_sample(len(both.labels))
            embedding = head.predict(both.features[sample], verbose=0)[1]
            held_out = HeldOutPredictions(
                ridge.loo_probs_, both.labels, ReferenceSet(embedding, both.labels[sample], both.files[sample])
            )
        else:
            held_out, selection_metric = _predict_held_out(head, train, val), "loss"
        if model.labels == "all":
            labels = np.concatenate([train.labels, val.labels]) if model.refit_on_validation else train.labels
            kept = model.penalties[int(np.argmin(history[selection_metric]))]
            curves = penalty_curves(ridge, labels, history, model.penalties, kept)
    network = fusion.attach(pixels_to_features, head)
    return TrainingResult(network, train.classes, history, held_out, selection_metric, curves)


def fit_softmax(
    head: keras.Model,
    train: FeatureSet,
    val: FeatureSet,
    *,
    seed: int,
    params: TrainParams,
    on_epoch: OnEpoch | None = None,
) -> History:
    """Fits a softmax head by epochs.

    Args:
        head: from features to probabilities, changed in place.
        train: the training photos.
        val: the validation photos, which select the epoch.
        seed: of the batches.
        params: optimiser, schedule, epochs and batches.
        on_epoch: called after each epoch.

    Returns:
        Each metric's values by epoch.
    """
    one_hot = np.eye(len(train.classes), dtype=np.float32)
    arrays, photos = (tf.constant(train.features), tf.constant(one_hot[train.labels])), len(train.labels)
    indices = tf.data.Dataset.range(photos).shuffle(photos, seed=seed).batch(params.batch_size)
    data = indices.map(lambda batch: tuple(tf.gather(array, batch) for array in arrays)).prefetch(1)
    val_data = tf.data.Dataset.from_tensor_slices((val.features, one_hot[val.labels])).batch(params.batch_size)
    return fit(head, data, val_data, params, labels=train.labels, on_epoch=on_epoch)


def temperature_scale(head: keras.Model, held_out: HeldOutPredictions) -> HeldOutPredictions:
    """Divides the logits of a softmax head by the temperature of the least log loss on validation photos.

    (Chuan Guo and others, "On Calibration of Modern Neural Networks", ICML 2017.)

    Args:
        head: its last layer has the softmax; changed in place.
        held_out: its predictions for these photos.

    Returns:
        Its predictions for them now.
    """
    log_probs = np.log(np.maximum(held_out.probabilities, np.finfo(np.float32).tiny))

    def loss(log_scale: float) -> float:
        probs = softmax(np.exp(log_scale) * log_probs, axis=1)
        return float(log_loss(held_out.labels, probs, labels=range(log_probs.shape[1])))

    bound = float(np.log(MAX_LOGIT_SCALE))
    scale = float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))
    head.layers[-1].set_weights([scale * weights for weights in head.layers[-1].get_weights()])
    return replace(held_out, probabilities=softmax(scale * log_probs, axis=1))


def fit_kernel(
    model: FusionParams,
    train: FeatureSet,
    val: FeatureSet,
    *,
    params: TrainParams,
    seed: int = 0,
    parents: Sequence[int] = (),
    on_epoch: OnEpoch | None = None,
) -> tuple[KernelRidge, History]:
    """Selects the penalty by validation loss, then refits the kernel head on training and validation photos.

    Without `refit_on_validation` the leave-one-out loss on the training photos selects it. The head is fitted to these
    photos only, so the validation photos remain as new to it as any other photo.

    Args:
        model: the head, and the penalties to select from.
        train: the training photos.
        val: the validation photos.
        params: `class_weight`; nothing else concerns this head.
        seed: of the landmarks.
        parents: for `labels: separate`, the index of the mineral class of each class.
        on_epoch: called after each penalty.

    Returns:
        The fitted estimator, and its metrics by penalty: the leave-one-out ones of the training photos, and those of
        the validation photos.
    """
    history, fits, classes = History(), [], len(train.classes)

    def fit_penalty(photos: FeatureSet, penalty: float) -> KernelRidge:
        penalties = penalty / _sample_weight(params, photos.labels)
        ridge = KernelRidge(
            model,
            classes=classes,
            blocks=list(photos.blocks.values()),
            penalty=penalties,
            parents=parents,
            seed=seed,
        )
        return ridge.fit(photos.features, photos.labels)

    for i, penalty in enumerate(model.penalties):
        ridge = fit_penalty(train, penalty)
        metrics: dict[str, float] = {}
        for prefix, probs, labels in (
            ("", ridge.loo_probs_, train.labels),
            ("val_", ridge.predict_proba(val.features), val.labels),
        ):
            metrics[f"{prefix}loss"] = float(log_loss(labels, probs, labels=range(classes)))
            metrics[f"{prefix}accuracy"] = float((probs.argmax(axis=1) == labels).mean())
        history = {name: [*history.get(name, []), value] for name, value in metrics.items()}
        if on_epoch:
            on_epoch(i, metrics)
        fits.append(ridge)
    if not model.refit_on_validation:
        return fits[int(np.argmin(history["loss"]))], history
    return fit_penalty(train.concat(val), model.penalties[int(np.argmin(history["val_loss"]))]), history


def to_keras(ridge: KernelRidge) -> keras.Model:
    """Returns a fitted kernel head as a model.

    Returns:
        A model from features (batch, features) to [probabilities, embedding], of shape (batch, classes) and (batch, D).
        The embedding has the principal components of the training photos: its inner products are those of the
        normalised features.
    """
    params = ridge.params
    inputs, x = fusion.standardise(ridge.mean_, ridge.variance_, clip=params.clip)
    bounds = pairwise(np.cumsum([0, *ridge.blocks]).tolist())
    blocks = [layers.UnitNormalization()(x[:, start:end]) for start, end in bounds]
    x = ops.concatenate(blocks, axis=-1) / len(blocks) ** 0.5
    weights = {"embedding": ridge.components_, "photos": ridge.support_.T}
    embedding = layers.Dense(ridge.components_.shape[1], use_bias=False, name="embedding")(x)
    x = layers.Dense(len(ridge.support_), use_bias=False, name="photos")(embedding)
    kernels = [ops.power((1 + x) / 2, degree) for degree in params.degree]
    scores = _score_layers(kernels, ridge.gems_, "gem", weights)
    if ridge.mineral_classes_ is None:
        probs = layers.Softmax(name="calibrated")(scores)
    else:
        parent_scores = _score_layers(kernels, ridge.mineral_classes_, "mineral_class", weights)
        joint = JointProbability(parents=ridge.parents.tolist(), name="calibrated")
        probs = joint([layers.Softmax()(parent_scores), scores])
    model = keras.Model(inputs, [probs, embedding], name="head")
    for name, values in weights.items():
        model.get_layer(name).set_weights([values])
    return model


def _score_layers(
    kernels: Sequence[keras.KerasTensor], ridges: KernelRidgeFit, name: str, weights: dict[str, np.ndarray]
) -> keras.KerasTensor:
    """Adds the layers from the kernel of each degree to one score per class, and their weights to `weights`."""
    classes, scores = ridges.stacker.shape[1], []
    for i, (kernel, dual_coef, (a, b)) in enumerate(zip(kernels, ridges.dual_coef, ridges.arcsinh_scales, strict=True)):
        layer = layers.Dense(classes, use_bias=False, name=f"{name}_{i}")
        weights[layer.name] = dual_coef
        x = layers.Rescaling(b)(layer(kernel))
        x = ops.sign(x) * ops.log(ops.abs(x) + ops.sqrt(ops.square(x) + 1))  # arcsinh, which LiteRT lacks
        scores.append(layers.Rescaling(a)(x))
    weights[name] = ridges.stacker
    return layers.Dense(classes, use_bias=False, name=name)(layers.Concatenate()(scores))


def _predict_held_out(head: keras.Model, train: FeatureSet, val: FeatureSet) -> HeldOutPredictions:
    return held_out_predictions(
        head,
        train_inputs=train.features,
        train_labels=train.labels,
        train_files=train.files,
        val_inputs=val.features,
        val_labels=val.labels,
    )


def _sample_weight(params: TrainParams, labels: np.ndarray) -> np.ndarray:
    """Returns the weight of each photo, shape (photos,)."""
    by_class = class_weight(params, labels)
    return np.array([by_class[label] for label in labels.tolist()]) if by_class else np.ones(len(labels))
