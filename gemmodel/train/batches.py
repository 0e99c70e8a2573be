"""Batches of photos that a network learns from, the same in each training and in one that goes on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gemmodel.core import image_folder
from gemmodel.core.params import AugmentParams, BaseParams, TrainParams
from gemmodel.embed import samples
from gemmodel.images import augment as augmentation

MAX_CACHED_BYTES = (
    8 * 2**30
)  # bytes of pixels in memory, 57,000 photos at 224 pixels; more are decoded anew in each epoch


@dataclass(frozen=True)
class TrainingData:
    """Batches of photos that a network learns from: augmented ones, anew each epoch, and those of validation."""

    train: tf.data.Dataset
    val: tf.data.Dataset
    known: tf.data.Dataset  # the training photos as they are, without copies, in the order of their files
    labels: np.ndarray  # of all in train, shape (photos,)
    val_labels: np.ndarray
    known_labels: np.ndarray
    files: np.ndarray  # of known, relative to the training part
    classes: list[str]
    paths: list[Path]  # of both
    mix: Callable[[tf.data.Dataset], tf.data.Dataset]  # blends the photos of each batch, or maps of them, and labels
    reseed: keras.callbacks.Callback  # lets order, augmentation and blending of an epoch depend on its number alone


def batches(
    params: TrainParams,
    augment: AugmentParams,
    *,
    base: BaseParams,
    split: Path,
    augmentation_from: str,
    augmented: Path | None = None,
) -> TrainingData:
    """Returns the batches of pixels and one-hot labels that a network is fitted on.

    Args:
        params: the batch size, and how much photos are mixed up.
        augment: the augmentation on the fly.
        base: seed and image size.
        split: holds `train` and `val`, a folder a class each.
        augmentation_from: none, disk or fly.
        augmented: holds the copies on disk, a folder a class.
    """
    classes = list(image_folder.list_images(split / "train"))
    known, known_labels = samples.list_samples(split / "train", classes)
    paths, labels = known, known_labels
    if augmented and augmentation_from == "disk" and any(augmented.iterdir()):  # augment.target_per_class may add none
        more, more_labels = samples.list_samples(augmented, classes)
        paths, labels = paths + more, np.concatenate([labels, more_labels])
    val_paths, val_labels = samples.list_samples(split / "val", classes)

    augmenter = augmentation.augmenter(augment, seed=base.seed)
    mixup = keras.layers.MixUp(params.mixup, seed=base.seed, dtype="float32") if params.mixup else None
    with tf.device("CPU:0"):  # where the batches are made
        order = tf.Variable(base.seed, dtype=tf.int64)

    def reseed(epoch: int, _: Any = None) -> None:
        order.assign(base.seed + epoch)
        augmentation.reseed_layers(augmenter.layers + ([mixup] if mixup else []), f"{base.seed}/{epoch}")

    def mix(data: tf.data.Dataset) -> tf.data.Dataset:
        if mixup is None:
            return data
        data = data.map(lambda x, y: mixup({"images": x, "labels": y}), num_parallel_calls=tf.data.AUTOTUNE)
        return data.map(lambda both: (both["images"], both["labels"])).prefetch(tf.data.AUTOTUNE)

    sizes: dict[str, Any] = {
        "classes": len(classes),
        "image_size": base.image_size,
        "batch_size": params.batch_size,
        "keep": 3 * base.image_size**2 * len(paths) <= MAX_CACHED_BYTES,
    }
    fly = augmenter if augmentation_from == "on_the_fly" else None
    return TrainingData(
        train=samples.batches(paths, labels, **sizes, augmenter=fly, shuffle_seed=order),
        val=samples.batches(val_paths, val_labels, **sizes),
        known=samples.batches(known, known_labels, **sizes | {"keep": False}),  # are read but once
        labels=labels,
        val_labels=val_labels,
        known_labels=known_labels,
        files=np.array([path.relative_to(split / "train").as_posix() for path in known]),
        classes=classes,
        paths=[*paths, *val_paths],
        mix=mix,
        reseed=keras.callbacks.LambdaCallback(on_epoch_begin=reseed),
    )
