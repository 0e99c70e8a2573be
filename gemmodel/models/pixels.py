"""Batches of photos that a network learns from, the same in each training and in one that goes on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gemmodel.data import augmentation, dataset, folders
from gemmodel.params import AugmentParams, BaseParams, TrainParams


@dataclass(frozen=True)
class Pixels:
    """Batches of photos that a network learns from: augmented ones, anew each epoch, and those of validation."""

    train: tf.data.Dataset
    val: tf.data.Dataset
    labels: np.ndarray  # of all in train, shape (photos,)
    classes: list[str]
    paths: list[Path]  # of both
    reseed: keras.callbacks.Callback  # lets order and augmentation of an epoch depend on its number alone


def batches(
    params: TrainParams,
    augment: AugmentParams,
    *,
    base: BaseParams,
    split: Path,
    augmentation_from: str,
    augmented: Path | None = None,
) -> Pixels:
    """Returns the batches of pixels and one-hot labels that a network is fitted on.

    Args:
        params: the batch size.
        augment: the augmentation on the fly.
        base: seed and image size.
        split: holds `train` and `val`, a folder a class each.
        augmentation_from: none, disk or fly.
        augmented: holds the copies on disk, a folder a class.
    """
    classes = list(folders.photos(split / "train"))
    paths, labels = dataset.labelled(split / "train", classes)
    if augmented and augmentation_from == "disk" and any(augmented.iterdir()):  # augment.up_to may add none
        more, more_labels = dataset.labelled(augmented, classes)
        paths, labels = paths + more, np.concatenate([labels, more_labels])
    val_paths, val_labels = dataset.labelled(split / "val", classes)

    augmenter = augmentation.augmenter(augment, seed=base.seed)
    with tf.device("CPU:0"):  # where the batches are made
        order = tf.Variable(base.seed, dtype=tf.int64)

    def reseed(epoch: int, _: Any = None) -> None:
        order.assign(base.seed + epoch)
        augmentation.reseed(augmenter, f"{base.seed}/{epoch}")

    sizes: dict[str, Any] = {
        "classes": len(classes),
        "image_size": base.image_size,
        "batch_size": params.batch_size,
        "keep": True,
    }
    fly = augmenter if augmentation_from == "fly" else None
    return Pixels(
        dataset.batches(paths, labels, **sizes, augmenter=fly, shuffle_seed=order),
        dataset.batches(val_paths, val_labels, **sizes),
        labels,
        classes,
        [*paths, *val_paths],
        keras.callbacks.LambdaCallback(on_epoch_begin=reseed),
    )
