"""Fitting a classifier."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from gemmodel.data import augmentation, dataset, folders
from gemmodel.devices import precision
from gemmodel.models import cnn, features, fusion
from gemmodel.params import AugmentParams, BaseParams, CnnParams, EmbedParams, FusionParams, TrainParams

OnEpoch = Callable[[int, Mapping[str, float]], None]
History = dict[str, list[float]]


def fit(
    model: keras.Model,
    train: tf.data.Dataset,
    val: tf.data.Dataset,
    params: TrainParams,
    *,
    labels: np.ndarray,
    on_epoch: OnEpoch,
) -> History:
    """Fits a model, stops early, and leaves it with the weights of its best epoch by validation loss.

    Args:
        model: changed in place; its last layer gives probabilities.
        train: batches of input and one-hot labels.
        val: the same of the validation part.
        params: optimiser, schedule, epochs, patience and whether classes are balanced.
        labels: class indices of all that `train` holds, shape (photos,).
        on_epoch: called after each epoch with its number, from 0, and its figures.

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
    log = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch)
    verbose = 1 if sys.stdout.isatty() else 2
    # The batches are shuffled already; Keras could not, and would say so.
    fitted = model.fit(
        train,
        validation_data=val,
        epochs=params.epochs,
        class_weight=class_weight(params, labels),
        callbacks=[stop, log],
        shuffle=False,
        verbose=verbose,
    )
    return fitted.history


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
    """Fits the softmax head on cached features and attaches it to the extractor that made them.

    Args:
        model: the head.
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
    one_hot = np.eye(len(classes), dtype=np.float32)
    head = fusion.head(model, known, classes=len(classes))
    data = tf.data.Dataset.from_tensor_slices((known, one_hot[labels]))
    data = data.shuffle(len(known), seed=base.seed).batch(params.batch_size).prefetch(tf.data.AUTOTUNE)
    val_data = tf.data.Dataset.from_tensor_slices((val, one_hot[val_labels])).batch(params.batch_size)
    history = fit(head, data, val_data, params, labels=labels, on_epoch=on_epoch)
    return fusion.attach(features.extractor(embed, image_size=base.image_size), head), classes, history


def train_cnn(
    model: CnnParams,
    params: TrainParams,
    augment: AugmentParams,
    *,
    base: BaseParams,
    split: Path,
    augmented: Path,
    on_epoch: OnEpoch,
) -> tuple[keras.Model, list[str], History]:
    """Fits a plain convolutional network on pixels.

    Args:
        model: the network, and where its augmented photos come from.
        params: how it is fitted.
        augment: the augmentation on the fly.
        base: seed and image size.
        split: holds `train` and `val`, a folder a class each.
        augmented: holds the copies on disk, a folder a class.
        on_epoch: called after each epoch.

    Returns:
        The float32 model from pixels to probabilities, its class names and the figures by epoch.
    """
    classes = list(folders.photos(split / "train"))
    paths, labels = dataset.labelled(split / "train", classes)
    if model.augmentation == "disk" and any(augmented.iterdir()):  # augment.up_to may add none
        more, more_labels = dataset.labelled(augmented, classes)
        paths, labels = paths + more, np.concatenate([labels, more_labels])
    augmenter = augmentation.augmenter(augment, seed=base.seed) if model.augmentation == "fly" else None
    sizes: dict[str, Any] = {
        "classes": len(classes),
        "image_size": base.image_size,
        "batch_size": params.batch_size,
        "keep": True,
    }
    data = dataset.batches(paths, labels, **sizes, augmenter=augmenter, shuffle_seed=base.seed)
    val_data = dataset.batches(*dataset.labelled(split / "val", classes), **sizes)
    keras.config.set_dtype_policy(precision(params.precision))
    fitted = cnn.cnn(model, image_size=base.image_size, classes=len(classes))
    history = fit(fitted, data, val_data, params, labels=labels, on_epoch=on_epoch)
    keras.config.set_dtype_policy("float32")  # mixed precision is for training: the kept model runs anywhere
    kept = cnn.cnn(model, image_size=base.image_size, classes=len(classes))
    kept.set_weights(fitted.get_weights())
    return kept, classes, history


def summary(history: History) -> dict[str, float | int]:
    """Returns the figures of the epoch whose weights were kept."""
    best = int(np.argmin(history["val_loss"]))
    return {"epochs": len(history["loss"]), "best_epoch": best} | {
        f"best_{name}": round(values[best], 6) for name, values in history.items()
    }
