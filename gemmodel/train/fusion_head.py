"""Training of `fusion`: a head is fitted to cached features, then attached to the extractor that computed them."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from sklearn.metrics import log_loss

from gemmodel.core.params import FusionParams, TrainParams
from gemmodel.embed import extractor, feature_set
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.models import fusion
from gemmodel.models.conformal import HeldOutPredictions, ReferenceSet
from gemmodel.models.joint_probability import JointProbability
from gemmodel.models.metadata import mineral_class_indices
from gemmodel.train.context import OnEpoch, TrainingContext
from gemmodel.train.fit import History, TrainingResult, class_weight, reference_sample
from gemmodel.train.penalty_curves import penalty_curves
from gemmodel.train.ridge.calibration import KernelRidgeFit
from gemmodel.train.ridge.kernel_ridge import KernelRidge

PREDICT_BATCH = 1_024  # photos whose features are in memory; a multiple of Keras' batch


def train_fusion(context: TrainingContext) -> TrainingResult:
    """Fits the head to cached features and attaches it to the extractor that computed them.

    Args:
        context: parameters, features and hierarchy. Each penalty of the head counts as an epoch.

    Returns:
        The model from pixels to [probabilities, embedding]. The held-out predictions of a head that is fitted to
        validation photos, too, are the leave-one-out ones of all photos; those of another are for the validation
        photos.

    Raises:
        DataError: the features are missing, damaged or of other parameters.
    """
    params = context.params
    model = params.model.fusion
    train, val = (feature_set.read(context.features / part) for part in ("train", "val"))
    expected = extractor.settings(params.base, params.embed)
    for part, photos in (("train", train), ("val", val)):
        photos.check_settings(expected, context.features / part)
    parents = mineral_class_indices(train.classes, context.hierarchy)[1].tolist() if model.labels == "separate" else []
    pixels_to_features = extractor.extractor(params.embed, image_size=params.base.image_size)
    ridge, history = fit_kernel(
        model, train, val, params=params.train, seed=params.base.seed, parents=parents, on_epoch=context.on_epoch,
        client=context.client, scratch=context.checkpoints,
    )  # fmt: skip
    head = to_keras(ridge)
    both, selection_metric, curves = train.concat(val), "val_loss" if model.refit_on_validation else "loss", None
    if model.refit_on_validation:
        held_out = HeldOutPredictions(ridge.loo_probs_, both.labels, _reference(head, both))
    else:
        probs, embedding = _predict(head, val, np.arange(len(val.labels)))
        held_out = HeldOutPredictions(probs, val.labels, _reference(head, train), embedding)
    if model.labels == "all":
        fitted = both if model.refit_on_validation else train
        kept = model.penalties[int(np.argmin(history[selection_metric]))]
        curves = partial(penalty_curves, ridge, fitted.labels, history, model.penalties, kept)
    network = fusion.attach(pixels_to_features, head)
    return TrainingResult(network, train.classes, history, held_out, selection_metric, curves)


def fit_kernel(
    model: FusionParams,
    train: FeatureSet,
    val: FeatureSet,
    *,
    params: TrainParams,
    seed: int = 0,
    parents: Sequence[int] = (),
    on_epoch: OnEpoch | None = None,
    client: Any = None,
    scratch: Path = Path(".train-backup"),
) -> tuple[KernelRidge, History]:
    """Fits the head to training and validation photos with the penalty of the least loss on validation photos.

    Each validation photo is left out in turn, so one fit per penalty gives both. Without `refit_on_validation` the head
    is fitted to the training photos only, and their leave-one-out loss selects the penalty. So the validation photos
    remain as new to it as any other photo.

    Args:
        model: the head, and the penalties to select from.
        train: the training photos.
        val: the validation photos.
        params: `class_weight`; nothing else concerns this head.
        seed: of the landmarks.
        parents: for `labels: separate`, the index of the mineral class of each class.
        on_epoch: called after each penalty.
        client: of Dask, and the folder for what its workers read; see `KernelRidge`.
        scratch: that folder.

    Returns:
        The fitted estimator, and its metrics by penalty: those of the training and of the validation photos, of photos
        that the head is fitted to when they are left out.
    """
    history, classes, best = History(), len(train.classes), None
    selection_metric = "val_loss" if model.refit_on_validation else "loss"
    photos = train.concat(val) if model.refit_on_validation else train
    weights = _sample_weight(params, photos.labels)
    for i, penalty in enumerate(model.penalties):
        ridge = KernelRidge(
            model, classes=classes, blocks=list(photos.blocks.values()), penalty=penalty / weights, parents=parents,
            seed=seed, client=client, scratch=scratch,
        ).fit(photos.features, photos.labels)  # fmt: skip
        train_probs, val_probs = np.split(ridge.loo_probs_, [len(train.labels)])
        if not model.refit_on_validation:
            val_probs = ridge.predict_proba(val.features)
        metrics: dict[str, float] = {}
        for prefix, probs, labels in (("", train_probs, train.labels), ("val_", val_probs, val.labels)):
            metrics[f"{prefix}loss"] = float(log_loss(labels, probs, labels=range(classes)))
            metrics[f"{prefix}accuracy"] = float((probs.argmax(axis=1) == labels).mean())
        if best is None or metrics[selection_metric] < min(history[selection_metric]):
            best = ridge
        history = {name: [*history.get(name, []), value] for name, value in metrics.items()}
        if on_epoch:
            on_epoch(i, metrics)
    assert best  # params.yaml has one penalty at least
    return best, history


def to_keras(ridge: KernelRidge) -> keras.Model:
    """Returns a fitted kernel head as a model.

    Returns:
        A model from features (batch, features) to [probabilities, embedding], of shape (batch, classes) and (batch, D).
        The embedding has the principal components of the training photos: its inner products are those of the
        normalised features.
    """
    params = ridge.params
    kernel = ridge.kernel_
    inputs, x = fusion.standardise(kernel.mean, kernel.variance, clip=kernel.clip)
    bounds = pairwise(np.cumsum([0, *kernel.blocks]).tolist())
    blocks = [layers.UnitNormalization()(x[:, start:end]) for start, end in bounds]
    x = ops.concatenate(blocks, axis=-1) / len(blocks) ** 0.5
    weights = {"embedding": kernel.components, "photos": kernel.support.T}
    embedding = layers.Dense(kernel.components.shape[1], use_bias=False, name="embedding")(x)
    x = layers.Dense(len(kernel.support), use_bias=False, name="photos")(embedding)
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


def _reference(head: keras.Model, photos: FeatureSet) -> ReferenceSet:
    """Returns the reference set of some photos that a head is fitted to."""
    sample = reference_sample(len(photos.labels))
    return ReferenceSet(_predict(head, photos, sample)[1], photos.labels[sample], photos.files[sample])


def _predict(head: keras.Model, photos: FeatureSet, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probabilities and the embedding of some photos, whose features are read some at a time."""
    batches = np.split(indices, range(PREDICT_BATCH, len(indices), PREDICT_BATCH))
    outputs = [head.predict(photos.features[batch], verbose=0) for batch in batches]
    probs, embedding = (np.concatenate(values) for values in zip(*outputs, strict=True))
    return probs, embedding


def _sample_weight(params: TrainParams, labels: np.ndarray) -> np.ndarray:
    """Returns the weight of each photo, shape (photos,)."""
    by_class = class_weight(params, labels)
    return np.array([by_class[label] for label in labels.tolist()]) if by_class else np.ones(len(labels))
