"""Fitting a model to batches, and what every training results in."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from gemmodel.core.params import TrainParams
from gemmodel.embed import samples
from gemmodel.models.conformal import HeldOutPredictions, ReferenceSet
from gemmodel.models.saving import with_embedding
from gemmodel.train import distribution
from gemmodel.train.checkpoint import TrainingCheckpoint
from gemmodel.train.context import OnEpoch

MAX_REFERENCE = 10_000  # photos; 41 MB with 1,024 components
HEADLINE = ("epochs", "best_epoch", "best_val_accuracy", "best_val_loss")  # that `dvc exp show` lists
History = dict[str, list[float]]  # each metric's values by epoch


class TrainingResult(NamedTuple):
    """The result of a training.

    Attributes:
        model: from pixels to probabilities, or to [probabilities, embedding].
        classes: the names of its classes.
        history: each metric's values by epoch.
        held_out: the model's predictions for photos that it was not trained on.
        selection_metric: the metric whose least value selected the epoch.
        penalty_curves: of a fit in closed form, computes the curves by penalty.
        kept: the epoch of the model, where that metric did not select it.
    """

    model: keras.Model
    classes: list[str]
    history: History
    held_out: HeldOutPredictions
    selection_metric: str = "val_loss"
    penalty_curves: Callable[[], pd.DataFrame] | None = None
    kept: int | None = None


def fit(
    model: keras.Model,
    train: tf.data.Dataset,
    val: tf.data.Dataset,
    params: TrainParams,
    *,
    labels: np.ndarray,
    on_epoch: OnEpoch | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint: Path | None = None,
    warm_up: bool = False,
) -> History:
    """Fits a model with early stopping and restores the weights of its best epoch by validation loss.

    Args:
        model: changed in place; its last layer gives probabilities. A model from `distribution.build` is fitted on all
            devices of its strategy.
        train: batches of inputs and one-hot labels.
        val: batches of the validation part.
        params: optimiser, schedule, epochs, patience and class weights.
        labels: class indices of all photos in `train`, shape (photos,).
        on_epoch: called after each epoch with its index, from 0, and its metrics.
        callbacks: further callbacks of Keras, called before those of this fit.
        checkpoint: a file for the state after each epoch; where it exists, the fit resumes from it.
        warm_up: the learning rate of the cosine schedule rises from 0 over the first epoch, and gradients are clipped
            to a norm of 1. Pretrained weights would be lost in the first steps without it.

    Returns:
        Each metric's values by epoch; NaN after the loss has overflowed.
    """
    strategy = model.distribute_strategy
    train = samples.without_autotune(distribution.even_batches(strategy, train, len(labels), params.batch_size))
    with strategy.scope():
        model.compile(
            _optimizer(params, steps_per_epoch=int(train.cardinality()), warm_up=warm_up),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=params.label_smoothing),
            metrics=["accuracy"],
        )
    history = keras.callbacks.History()
    stateful: list[keras.callbacks.Callback] = [
        keras.callbacks.EarlyStopping("val_loss", patience=params.patience, restore_best_weights=True),
        history,
    ]
    if params.schedule == "plateau":
        patience = max(1, params.patience // 3)
        stateful.insert(0, keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=patience))
    is_chief = distribution.is_chief(strategy)
    checkpoints = []
    if checkpoint:
        broadcast = partial(distribution.broadcast, strategy)
        checkpoints = [TrainingCheckpoint(checkpoint, stateful, is_writer=is_chief, broadcast=broadcast)]

    def replay_restored_epochs(_: Any) -> None:
        if on_epoch:
            for epoch in history.epoch:
                on_epoch(epoch, {name: values[epoch] for name, values in history.history.items()})

    report = keras.callbacks.LambdaCallback(on_train_begin=replay_restored_epochs, on_epoch_end=on_epoch)
    model.fit(
        train,
        validation_data=samples.without_autotune(val),
        epochs=params.epochs,
        class_weight=class_weight(params, labels),
        initial_epoch=checkpoints[0].initial_epoch if checkpoints else 0,
        callbacks=[*callbacks, *stateful, *checkpoints, report],
        shuffle=False,  # the batches are shuffled already; Keras cannot shuffle them, and warns
        verbose=0 if not is_chief else 1 if sys.stdout.isatty() else 2,
    )
    return history.history


def _optimizer(params: TrainParams, *, steps_per_epoch: int, warm_up: bool) -> keras.optimizers.Optimizer:
    rate: Any = params.learning_rate
    if params.schedule == "cosine":
        steps: dict[str, Any] = {
            "initial_learning_rate": rate,
            "decay_steps": steps_per_epoch * max(1, params.epochs - warm_up),
        }
        if warm_up:
            steps |= {"initial_learning_rate": 0.0, "warmup_target": rate, "warmup_steps": steps_per_epoch}
        rate = keras.optimizers.schedules.CosineDecay(**steps)
    clip = {"clipnorm": 1.0} if warm_up else {}
    if params.optimizer == "adam":
        return keras.optimizers.Adam(rate, **clip)
    return keras.optimizers.AdamW(rate, weight_decay=params.weight_decay, **clip)


def class_weight(params: TrainParams, labels: np.ndarray) -> dict[int, float] | None:
    """Returns the weight of a photo of each class in the training loss, 1 on average; None where all weigh the same."""
    if params.class_weight == "none":
        return None
    present = np.unique(labels)
    weights = compute_class_weight("balanced", classes=present, y=labels)
    return dict(zip(present.tolist(), weights.tolist(), strict=True))


def reference_sample(photos: int, max_reference: int = MAX_REFERENCE) -> np.ndarray:
    """Returns the indices of the photos of a reference set: a random sample of at most `max_reference`, sorted."""
    if photos > max_reference:
        print(f"train: {max_reference} random ones of {photos} photos are the reference set")
    return np.sort(np.random.default_rng(0).permutation(photos)[:max_reference])


def held_out_predictions(
    model: keras.Model,
    *,
    train_inputs: np.ndarray | tf.data.Dataset,
    train_labels: np.ndarray,
    train_files: np.ndarray,
    val_inputs: np.ndarray | tf.data.Dataset,
    val_labels: np.ndarray,
    max_reference: int = MAX_REFERENCE,
) -> HeldOutPredictions:
    """Returns a model's predictions for the validation photos, and a reference set of its training photos.

    Args:
        model: from inputs to probabilities, or to [probabilities, embedding].
        train_inputs: features (photos, features), or batches, of the training photos in the order of their files.
        train_labels: class indices, shape (photos,).
        train_files: paths, shape (photos,).
        val_inputs: features or batches of the validation photos.
        val_labels: class indices, shape (photos,).
        max_reference: the largest number of training photos in the reference set, drawn at random: the size of the
            model's folder and the time of a prediction grow with it.
    """
    embedder = with_embedding(model)
    sample = reference_sample(len(train_labels), max_reference)
    if isinstance(train_inputs, np.ndarray):
        reference_embedding = embedder.predict(train_inputs[sample], verbose=0)[1]
    else:
        reference_embedding = embedder.predict(train_inputs, verbose=0)[1][sample]
    reference = ReferenceSet(reference_embedding, train_labels[sample], train_files[sample])
    probs, embedding = embedder.predict(val_inputs, verbose=0)
    return HeldOutPredictions(probs, val_labels, reference, embedding)


def summary(history: History, selection_metric: str = "val_loss", kept: int | None = None) -> dict[str, float | int]:
    """Returns the metrics of the epoch whose weights are kept: of `kept`, or of the least selection metric."""
    best = int(np.nanargmin(history[selection_metric])) if kept is None else kept
    return {"epochs": len(history["loss"]), "best_epoch": best} | {
        f"best_{name}": round(values[best], 6) for name, values in history.items()
    }
