"""Fitting fusion: the head on cached features, then attached to the extractor that made them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from gemmodel.core.params import BaseParams, EmbedParams, FusionParams, TrainParams
from gemmodel.embed import extractor, feature_set
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.models import fusion, metadata, saving
from gemmodel.models.conformal import HeldOutPredictions, ReferenceSet
from gemmodel.train import kernel_ridge
from gemmodel.train.fit import History, OnEpoch, TrainingResult, class_weight, fit, held_out_predictions

MAX_LOGIT_SCALE = (
    4.0  # times the logits of a softmax head, or a part of them: few photos, all told rightly, would have no end
)


def train_fusion(
    model: FusionParams,
    params: TrainParams,
    embed: EmbedParams,
    *,
    base: BaseParams,
    folder: Path,
    on_epoch: OnEpoch,
    hierarchy: Mapping[str, str] | None = None,
) -> TrainingResult:
    """Fits the head on cached features and attaches it to the extractor that made them.

    Args:
        model: the head; of the kernel head each penalty counts as an epoch.
        params: how it is fitted.
        embed: the extractor.
        base: seed and image size.
        folder: holds `train.npz` and `val.npz`.
        on_epoch: called after each epoch.
        hierarchy: the mineral class of each gem, which `labels: separate` needs.

    Returns:
        The model from pixels to probabilities and what there is to tell of it. Evidence of a kernel head that learns
        from the validation photos too is every photo's, left out in turn; of others the validation photos'.
    """
    known, val = feature_set.read(folder / "train.npz"), feature_set.read(folder / "val.npz")
    classes = known.classes
    extractor = extractor.extractor(embed, image_size=base.image_size)
    given: dict[str, Any] = {"train": params, "on_epoch": on_epoch}
    parents = metadata.mineral_class_indices(classes, hierarchy or {gem: gem for gem in classes})[1].tolist()
    chosen_by = "val_loss"
    if model.head == "softmax":
        head = fusion.softmax_head(model, known.features, classes=len(classes), parents=parents)
        history = fit_softmax(head, known, val, seed=base.seed, **given)
        found = held_out_predictions(head, known[:3], val[:2])
        if model.labels == "all":
            found = temperature_scale(head, found)
    else:
        head, history, left_out = fit_kernel(model, known, val, parents=parents, **given)
        if model.refit_on_validation:
            both = known.concat(val)
            embedding = saving.with_embedding(head).predict(both.features, verbose=0)[1]
            found = HeldOutPredictions(left_out, both.labels, ReferenceSet(embedding, both.labels, both.files))
        else:
            found, chosen_by = held_out_predictions(head, known[:3], val[:2]), "loss"
    return TrainingResult(fusion.attach(extractor, head), classes, history, found, chosen_by)


def fit_softmax(
    head: keras.Model,
    known: FeatureSet,
    val: FeatureSet,
    *,
    seed: int,
    train: TrainParams,
    on_epoch: OnEpoch,
) -> History:
    """Fits a softmax head by epochs.

    Args:
        head: from features to probabilities, changed in place.
        known: the training photos.
        val: the validation photos, which select the epoch.
        seed: of the batches.
        train: how it is fitted.
        on_epoch: called after each epoch.

    Returns:
        Its figures by epoch.
    """
    one_hot = np.eye(len(known.classes), dtype=np.float32)
    rows, number = (tf.constant(known.features), tf.constant(one_hot[known.labels])), len(known.labels)
    data = tf.data.Dataset.range(number).shuffle(number, seed=seed).batch(train.batch_size)  # of places only
    data = data.map(lambda places: tuple(tf.gather(row, places) for row in rows)).prefetch(1)
    val_data = tf.data.Dataset.from_tensor_slices((val.features, one_hot[val.labels])).batch(train.batch_size)
    return fit(head, data, val_data, train, labels=known.labels, on_epoch=on_epoch)


def temperature_scale(head: keras.Model, found: HeldOutPredictions) -> HeldOutPredictions:
    """Divides a softmax head's logits by the temperature of the least log loss on validation photos.

    (Chuan Guo and others, "On Calibration of Modern Neural Networks", ICML 2017.)

    Args:
        head: its last layer has the softmax; changed in place.
        found: what these photos tell of it.

    Returns:
        What they tell of it now.
    """
    logs = np.log(np.maximum(found.probabilities, np.finfo(np.float32).tiny))

    def loss(log_scale: float) -> float:
        told = softmax(np.exp(log_scale) * logs, axis=1)
        return float(log_loss(found.labels, told, labels=range(logs.shape[1])))

    end = float(np.log(MAX_LOGIT_SCALE))
    scale = float(np.exp(minimize_scalar(loss, bounds=(-end, end), method="bounded").x))
    head.layers[-1].set_weights([scale * weights for weights in head.layers[-1].get_weights()])
    return replace(found, probabilities=softmax(scale * logs, axis=1))


def fit_kernel(
    model: FusionParams,
    known: FeatureSet,
    val: FeatureSet,
    *,
    train: TrainParams,
    on_epoch: OnEpoch,
    parents: Sequence[int] = (),
) -> tuple[keras.Model, History, np.ndarray]:
    """Chooses the penalty by validation loss, then fits the kernel head on training and validation photos together.

    Without `refit_on_validation` it is chosen by leave-one-out on the training photos, which alone are learnt from: so the
    validation photos stay as unknown to the head as any new photo.

    Args:
        model: the head, and the penalties to choose from.
        known: the training photos.
        val: the validation photos.
        train: whether classes are balanced; nothing else of it concerns this head.
        on_epoch: called after each penalty.
        parents: of `labels: separate`, the mineral class's index of each class.

    Returns:
        The head; its figures by penalty, leave-one-out on the training photos and on the validation photos; and the
        leave-one-out probabilities of the photos that it learnt from.
    """
    history, heads, classes = History(), [], len(known.classes)
    sizes: dict[str, Any] = {"classes": classes, "blocks": known.blocks, "parents": parents}
    for number, penalty in enumerate(model.penalties):
        sizes["penalty"] = penalty / _weights(train, known.labels)
        head, values, left_out = kernel_ridge.kernel_head(model, known.features, known.labels, **sizes)
        told = np.asarray(head(val.features))
        values |= {
            "val_loss": float(log_loss(val.labels, told, labels=range(classes))),
            "val_accuracy": float((told.argmax(axis=1) == val.labels).mean()),
        }
        history = {name: [*history.get(name, []), value] for name, value in values.items()}
        on_epoch(number, values)
        heads.append((head, left_out))
    if not model.refit_on_validation:
        head, left_out = heads[int(np.argmin(history["loss"]))]
        return head, history, left_out
    both = known.concat(val)
    sizes["penalty"] = model.penalties[int(np.argmin(history["val_loss"]))] / _weights(train, both.labels)
    head, _, left_out = kernel_ridge.kernel_head(model, both.features, both.labels, **sizes)
    return head, history, left_out


def _weights(train: TrainParams, labels: np.ndarray) -> np.ndarray:
    """Returns what each photo weighs."""
    by_class = class_weight(train, labels)
    return np.array([by_class[label] for label in labels.tolist()]) if by_class else np.ones(len(labels))
