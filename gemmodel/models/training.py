"""Fitting a classifier."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from gemmodel.devices import precision
from gemmodel.models import backup as backups
from gemmodel.models import cnn, features, fusion, pixels, residual, transfer
from gemmodel.params import (
    AugmentParams,
    BaseParams,
    CnnParams,
    EmbedParams,
    FusionParams,
    ResidualParams,
    TrainParams,
    TransferParams,
)

OnEpoch = Callable[[int, Mapping[str, float]], None]
History = dict[str, list[float]]
NetworkParams = CnnParams | ResidualParams | TransferParams
NETWORKS: dict[type, Callable[..., keras.Model]] = {
    CnnParams: cnn.cnn,
    ResidualParams: residual.residual,
    TransferParams: transfer.transfer,
}


def fit(
    model: keras.Model,
    train: tf.data.Dataset,
    val: tf.data.Dataset,
    params: TrainParams,
    *,
    labels: np.ndarray,
    on_epoch: OnEpoch,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    backup: Path | None = None,
) -> History:
    """Fits a model, stops early, and leaves it with the weights of its best epoch by validation loss.

    Args:
        model: changed in place; its last layer gives probabilities.
        train: batches of input and one-hot labels.
        val: the same of the validation part.
        params: optimiser, schedule, epochs, patience and whether classes are balanced.
        labels: class indices of all that `train` holds, shape (photos,).
        on_epoch: called after each epoch with its number, from 0, and its figures.
        callbacks: more of Keras', called before those of this fit.
        backup: a file of the state after each epoch; where it exists, the fit goes on from there.

    Returns:
        Each figure's values by epoch.
    """
    rate: Any = params.learning_rate
    if params.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, params.epochs * int(train.cardinality()))
    optimizers = {
        "adam": lambda: keras.optimizers.Adam(rate),
        "adamw": lambda: keras.optimizers.AdamW(rate, weight_decay=params.weight_decay),
    }
    model.compile(
        optimizers[params.optimizer](),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=params.label_smoothing),
        metrics=["accuracy"],
    )
    stop = keras.callbacks.EarlyStopping("val_loss", patience=params.patience, restore_best_weights=True)
    history = keras.callbacks.History()
    remembering: list[keras.callbacks.Callback] = [stop, history]
    if params.schedule == "plateau":
        patience = max(1, params.patience // 3)
        remembering.insert(0, keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=patience))
    keep = [backups.Backup(backup, remembering)] if backup else []

    def past(_: Any) -> None:
        for epoch in history.epoch:
            on_epoch(epoch, {name: values[epoch] for name, values in history.history.items()})

    log = keras.callbacks.LambdaCallback(on_train_begin=past, on_epoch_end=on_epoch)
    verbose = 1 if sys.stdout.isatty() else 2
    # The batches are shuffled already; Keras could not, and would say so.
    model.fit(
        train,
        validation_data=val,
        epochs=params.epochs,
        class_weight=class_weight(params, labels),
        initial_epoch=keep[0].initial_epoch if keep else 0,
        callbacks=[*callbacks, *remembering, *keep, log],
        shuffle=False,
        verbose=verbose,
    )
    return history.history


def class_weight(params: TrainParams, labels: np.ndarray) -> dict[int, float] | None:
    """Returns what a photo of each class counts in the training loss, on average 1, or None where all count alike."""
    if params.class_weight == "none":
        return None
    present = np.unique(labels)
    weights = compute_class_weight("balanced", classes=present, y=labels)
    return dict(zip(present.tolist(), weights.tolist(), strict=True))


def train_fusion(
    model: FusionParams,
    params: TrainParams,
    embed: EmbedParams,
    *,
    base: BaseParams,
    folder: Path,
    on_epoch: OnEpoch,
) -> tuple[keras.Model, list[str], History]:
    """Fits the head on cached features and attaches it to the extractor that made them.

    Args:
        model: the head; of the kernel head each penalty counts as an epoch.
        params: how it is fitted.
        embed: the extractor.
        base: seed and image size.
        folder: holds `train.npz` and `val.npz`.
        on_epoch: called after each epoch.

    Returns:
        The model from pixels to probabilities, its class names and the figures by epoch.
    """
    known, labels, classes = features.read(folder / "train.npz")
    val, val_labels, _ = features.read(folder / "val.npz")
    extractor = features.extractor(embed, image_size=base.image_size)
    data = (known, labels, val, val_labels, len(classes))
    if model.head == "kernel":
        head, history = fit_kernel(model, *data, features.blocks(extractor), train=params, on_epoch=on_epoch)
    else:
        head, history = fit_softmax(model, *data, seed=base.seed, train=params, on_epoch=on_epoch)
    return fusion.attach(extractor, head), classes, history


def fit_softmax(
    model: FusionParams,
    known: np.ndarray,
    labels: np.ndarray,
    val: np.ndarray,
    val_labels: np.ndarray,
    classes: int,
    *,
    seed: int,
    train: TrainParams,
    on_epoch: OnEpoch,
) -> tuple[keras.Model, History]:
    """Fits the softmax head on features; the arguments are those of `fit_kernel`, and the seed of the batches."""
    one_hot = np.eye(classes, dtype=np.float32)
    head = fusion.head(model, known, classes=classes)
    data = tf.data.Dataset.from_tensor_slices((known, one_hot[labels]))
    data = data.shuffle(len(known), seed=seed).batch(train.batch_size).prefetch(tf.data.AUTOTUNE)
    val_data = tf.data.Dataset.from_tensor_slices((val, one_hot[val_labels])).batch(train.batch_size)
    return head, fit(head, data, val_data, train, labels=labels, on_epoch=on_epoch)


def fit_kernel(
    model: FusionParams,
    known: np.ndarray,
    labels: np.ndarray,
    val: np.ndarray,
    val_labels: np.ndarray,
    classes: int,
    blocks: Sequence[int],
    *,
    train: TrainParams,
    on_epoch: OnEpoch,
    tuned: bool = False,
) -> tuple[keras.Model, History]:
    """Chooses the penalty by validation loss, then fits the kernel head on training and validation photos together.

    Args:
        model: the head, and the penalties to choose from.
        known: training features, shape (photos, features).
        labels: their class indices.
        val: validation features.
        val_labels: their class indices.
        classes: the number of classes.
        blocks: the number of features in each block.
        train: whether classes are balanced; nothing else of it concerns this head.
        on_epoch: called after each penalty.
        tuned: whether the extractor has learnt from the training photos. Leave-one-out scores flatter it then, so the
            validation photos calibrate.

    Returns:
        The head, and its figures by penalty: leave-one-out on the training photos, and on the validation photos.
    """
    history = History()
    calibrations: list[tuple[float, float] | None] = []
    sizes: dict[str, Any] = {"classes": classes, "blocks": blocks}
    for number, penalty in enumerate(model.penalties):
        head, values = fusion.kernel_head(model, known, labels, **sizes, penalty=penalty / _weights(train, labels))
        calibration, told = None, np.asarray(head(val))
        if tuned:
            scores = np.asarray(keras.Model(head.inputs, head.get_layer("gem").output)(val))
            calibration = fusion.calibrate(scores, val_labels)
            told = fusion.probabilities(scores, calibration)
        calibrations.append(calibration)
        values |= {
            "val_loss": float(log_loss(val_labels, told, labels=range(classes))),
            "val_accuracy": float((told.argmax(axis=1) == val_labels).mean()),
        }
        history = {name: [*history.get(name, []), value] for name, value in values.items()}
        on_epoch(number, values)
    best = int(np.argmin(history["val_loss"]))
    both, both_labels = np.concatenate([known, val]), np.concatenate([labels, val_labels])
    sizes |= {"penalty": model.penalties[best] / _weights(train, both_labels), "calibration": calibrations[best]}
    return fusion.kernel_head(model, both, both_labels, **sizes)[0], history


def _weights(train: TrainParams, labels: np.ndarray) -> np.ndarray:
    """Returns what each photo weighs."""
    by_class = class_weight(train, labels)
    return np.array([by_class[label] for label in labels.tolist()]) if by_class else np.ones(len(labels))


def train_network(
    model: NetworkParams,
    params: TrainParams,
    augment: AugmentParams,
    *,
    base: BaseParams,
    split: Path,
    augmented: Path,
    backup: Path,
    on_epoch: OnEpoch,
) -> tuple[keras.Model, list[str], History]:
    """Fits a network on pixels; with `resume` it goes on where a killed training of the same settings and photos ended.

    Transfer learning has two phases, the head alone and then with the backbone's last layers; the better one is kept.

    Args:
        model: the network, and where its augmented photos come from.
        params: how it is fitted.
        augment: the augmentation on the fly.
        base: seed and image size.
        split: holds `train` and `val`, a folder a class each.
        augmented: holds the copies on disk, a folder a class.
        backup: a folder for the state of unfinished trainings.
        on_epoch: called after each epoch, and for each one that a killed training had done.

    Returns:
        The float32 model from pixels to probabilities, its class names and the figures by epoch.
    """
    photos = pixels.batches(
        params, augment, base=base, split=split, augmentation_from=model.augmentation, augmented=augmented
    )
    state = backup / backups.key([base, model, params, augment], photos.paths)

    build = partial(NETWORKS[type(model)], model, image_size=base.image_size, classes=len(photos.classes))
    keras.config.set_dtype_policy(_policy(model, params))
    fitted = build()
    best, history = np.inf, History()
    for number, (phase, learns_from) in enumerate(_phases(model, params)):
        if learns_from:
            transfer.freeze(fitted, below=learns_from)
        before = fitted.get_weights()
        found = fit(
            fitted, photos.train, photos.val, phase,
            labels=photos.labels,
            on_epoch=partial(_counted_on, on_epoch, len(history.get("loss", []))),
            callbacks=[photos.reseed],
            backup=state / f"{number}.pickle" if params.resume else None,
        )  # fmt: skip
        history = {name: history.get(name, []) + values for name, values in found.items()}
        if min(found["val_loss"]) < best:
            best = min(found["val_loss"])
        else:
            fitted.set_weights(before)
    keras.config.set_dtype_policy("float32")  # mixed precision is for training: the kept model runs anywhere
    kept = build()
    kept.set_weights(fitted.get_weights())
    shutil.rmtree(state, ignore_errors=True)
    return kept, photos.classes, history


def _counted_on(on_epoch: OnEpoch, done: int, epoch: int, values: Mapping[str, float]) -> None:
    on_epoch(done + epoch, values)


def _phases(model: NetworkParams, params: TrainParams) -> Iterator[tuple[TrainParams, str | None]]:
    """Yields how each phase is fitted, and from which layer on the network learns in it; None: all of it."""
    if not isinstance(model, TransferParams):
        yield params, None
        return
    yield params, "pooled"
    if model.unfreeze != "none":
        yield replace(params, learning_rate=model.learning_rate), model.unfreeze


def _policy(model: NetworkParams, params: TrainParams) -> str:
    """Returns the dtype policy; most backbones have depth-wise convolutions, which mixed precision slows down."""
    return (
        "float32" if isinstance(model, TransferParams) and params.precision == "auto" else precision(params.precision)
    )


def summary(history: History) -> dict[str, float | int]:
    """Returns the figures of the epoch whose weights were kept."""
    best = int(np.argmin(history["val_loss"]))
    return {"epochs": len(history["loss"]), "best_epoch": best} | {
        f"best_{name}": round(values[best], 6) for name, values in history.items()
    }
