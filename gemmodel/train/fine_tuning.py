"""Fine-tuning beside fusion: backbones learn the gems from the photos, and their answers are joined with fusion's."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import log_loss

from gemmodel import devices
from gemmodel.core import hashing
from gemmodel.core.errors import DataError, ParameterError
from gemmodel.core.params import AugmentParams, BaseParams, EmbedParams, FusionParams, TrainParams
from gemmodel.embed import backbones, extractor, feature_set, litert
from gemmodel.models import fusion
from gemmodel.train import batches, fit, fusion_head, transfer

DROPOUT = 0.3  # of the pooled map
FEATURES = ("train.npz", "val.npz")
MIN_GAIN = 1  # of the logarithm of the validation photos' likelihood: a little comes by chance


def fine_tune(
    model: FusionParams,
    params: TrainParams,
    augment: AugmentParams,
    embed: EmbedParams,
    *,
    base: BaseParams,
    folder: Path,
    split: Path,
    backup: Path,
    on_epoch: fit.OnEpoch,
) -> fit.TrainingResult:
    """Fits `fusion`, lets more backbones learn from the photos themselves, and joins what all tell.

    Each of these networks is the backbone with a softmax layer on its last map's mean, which is fitted to cached
    features first; then both learn together from augmented photos, batch norm keeping its statistics. The networks
    differ in chance alone. The joined probabilities are softmax(a * log p + b * log q), p fusion's and q the networks'
    geometric mean, over the views of `embed`. `ensemble_weight` is b / (a + b); the validation photos, from which none
    learns for that, choose a + b. Where the networks add too little, fusion stays alone.

    Args:
        model: the head; of the tuning how many networks, their share, epochs and learning rate, and the layer from
            which on the backbone learns.
        params: how networks are fitted.
        augment: the augmentation of the photos that the backbone learns from.
        embed: the extractor.
        base: seed and image size.
        folder: holds `train.npz` and `val.npz`, features of the photos in `split`.
        split: holds `train` and `val`, a folder a class each.
        backup: a folder for the state of an unfinished tuning, which the next one goes on with (`train.resume`).
        on_epoch: called after each epoch of fusion's head and once for the joined model; the epochs of the tuning
            itself are told by Keras alone.

    Returns:
        The joined model, or fusion where `shares` finds too little in the networks, and what there is to tell of it:
        figures of fusion's head by epoch and then of the joined model, whose loss and accuracy are the networks' mean
        at their best epochs. Evidence of the joined model is the validation photos'.

    Raises:
        DataError: the features are of other photos, or in another order.
        ParameterError: the backbone cannot learn from the layer on that `unfreeze` names, the labels are separate, or
            validation photos, which choose a + b, are to set the prediction sets alone.
    """
    if not model.refit_on_validation:
        raise ParameterError(
            "model.fusion.fine_tune_epochs: it learns from validation photos; set refit_on_validation to true"
        )
    if model.labels == "separate":
        raise ParameterError("model.fusion.fine_tune_epochs: labels: separate has no fine-tuning; set labels to all")
    before = fusion_head.train_fusion(model, params, embed, base=base, folder=folder, on_epoch=on_epoch)
    known, val = (feature_set.read(folder / name) for name in FEATURES)
    photos = batches.batches(params, augment, base=base, split=split, augmentation_from="on_the_fly")
    if not np.array_equal(photos.val_labels, val.labels):  # what all tell is joined photo by photo
        raise DataError(f"{folder}: its photos are not those of {split}; `dvc repro embed` makes it anew")
    networks = [
        network(params, embed, base=replace(base, seed=base.seed + number), known=known, val=val)
        for number in range(model.ensemble_size)
    ]
    learnt_from = [*photos.paths, *(folder / name for name in FEATURES)]
    state = backup / hashing.run_key([base, model, params, augment, embed], learnt_from)
    own = replace(params, epochs=model.fine_tune_epochs, learning_rate=model.learning_rate)
    with split_at_frozen(networks, photos, unfreeze=model.unfreeze) as (parts, train, val_batches):
        best = [
            fit_tail(
                part, train, val_batches, own, photos=photos, number=number, backup=state if params.resume else None
            )
            for number, part in enumerate(parts)
        ]
    tuned = with_tta(networks, embed.views)
    head = before.model.get_layer("head")
    if model.head == "kernel":  # which has learnt from the validation photos as well
        alone = replace(model, refit_on_validation=False)
        head, *_ = fusion_head.fit_kernel(alone, known, val, train=params, on_epoch=lambda *_: None)
    told = [head.predict(val.features, verbose=0), tuned.predict(photos.val, verbose=0)]
    shutil.rmtree(state, ignore_errors=True)
    values = {name: float(np.mean([figures[name] for figures in best])) for name in best[0]}
    found = ensemble_weights(*told, share=model.ensemble_weight, labels=val.labels)
    if found is None:
        print(f"fine-tuning: networks of validation accuracy {values['val_accuracy']:.3f} add nothing to fusion")
        return before
    weights, joined = found
    values |= {
        "val_loss": float(log_loss(val.labels, joined, labels=range(len(known.classes)))),
        "val_accuracy": float((joined.argmax(axis=1) == val.labels).mean()),
    }
    on_epoch(len(before.history["loss"]), values)
    return before._replace(
        model=fusion.ensemble(before.model, tuned, weights=weights),
        history={name: [*before.history[name], value] for name, value in values.items()},
        held_out=replace(before.held_out, probabilities=joined, labels=val.labels),
        chosen_by="val_loss",
    )


def network(
    params: TrainParams,
    embed: EmbedParams,
    *,
    base: BaseParams,
    known: feature_set.FeatureSet,
    val: feature_set.FeatureSet,
) -> keras.Model:
    """Returns a backbone and a softmax layer on the mean of its last map, which is fitted to cached features.

    Args:
        params: how the layer is fitted.
        embed: the backbone.
        base: image size, and the seed of the batches and of the network's name.
        known: features of the training photos.
        val: the same of the validation photos.
    """
    backbone = backbones.backbone(embed.backbone, weights=embed.weights, image_size=base.image_size)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(backbone.outputs[-1])
    end = known.blocks[0] - pooled.shape[-1]  # the first block ends with the last map's mean and deviation
    part = slice(end - pooled.shape[-1], end)
    cached = (photos._replace(features=photos.features[:, part]) for photos in (known, val))
    # Not of standardised features, as fusion's: what hardly varies would weigh most, and be lost first of all.
    mean = keras.Input((pooled.shape[-1],), name="features")
    gem = keras.layers.Dense(len(known.classes), activation="softmax", name="gem")
    head = keras.Model(mean, gem(keras.layers.Dropout(DROPOUT)(mean)), name="head")
    fusion_head.fit_softmax(head, *cached, seed=base.seed, train=params, on_epoch=lambda *_: None)
    return keras.Model(backbone.inputs[0], head(pooled), name=f"network_{base.seed}")


@contextmanager
def split_at_frozen(
    networks: list[keras.Model], photos: batches.TrainingData, *, unfreeze: str
) -> Iterator[tuple[list[keras.Model], tf.data.Dataset, tf.data.Dataset]]:
    """Yields the parts of networks that learn, and batches of what goes into them, to train and to validate with.

    What lies below stays as it is and is the same in all: LiteRT tells what it makes of each photo, in a quarter of
    Keras' time. Mixup blends these maps (Vikas Verma and others, "Manifold Mixup", arXiv 1806.05236).

    Args:
        networks: backbones with their heads.
        photos: batches of pixels.
        unfreeze: the beginning of the name of the first layer that learns.

    Raises:
        ParameterError: no layer is named so, or later ones need more than what goes into it.
    """
    starts = [transfer.freeze(network, below=unfreeze) for network in networks]
    if starts[0] in networks[0].layers[:2]:  # the pixels and their scaling: nothing lies below
        yield networks, photos.mix(photos.train), photos.val
        return
    try:
        parts = [keras.Model(start.input, network.outputs[0]) for start, network in zip(starts, networks, strict=True)]
    except ValueError:
        raise ParameterError(f"unfreeze: other layers pass {starts[0].name} by; name the first of a block") from None
    with litert.as_litert(keras.Model(networks[0].inputs[0], starts[0].input)) as below:
        train, val = (frozen_outputs(data, below, starts[0].input.shape) for data in (photos.train, photos.val))
        yield parts, photos.mix(train), val


def frozen_outputs(data: tf.data.Dataset, below: litert.Graph, shape: tuple[int | None, ...]) -> tf.data.Dataset:
    """Returns batches of what a graph makes of each photo in batches of pixels, of a shape, with the same labels."""

    def ask(photos: np.ndarray) -> np.ndarray:
        return np.concatenate([below(photo)["told"] for photo in photos])

    def of_batch(photos: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.ensure_shape(tf.numpy_function(ask, [photos], tf.float32, stateful=False), shape), labels

    return data.map(of_batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def fit_tail(
    network: keras.Model,
    train: tf.data.Dataset,
    val: tf.data.Dataset,
    params: TrainParams,
    *,
    photos: batches.TrainingData,
    number: int,
    backup: Path | None,
) -> dict[str, float]:
    """Lets a network learn, with 1x1 convolutions, nearly all of its weights, in bfloat16 where that is fastest.

    Depth-wise filters stay as they are: to learn them takes time and adds nothing (decision 21).

    Args:
        network: changed in place.
        train: batches of what goes into it, and one-hot labels.
        val: the same of the validation part.
        params: how it is fitted.
        photos: what both come from.
        number: of the network, from 0; each sees other augmentations.
        backup: a folder for the state after each epoch; None: none is kept.

    Returns:
        The figures of its best epoch.
    """
    one_by_one, policy = [], devices.precision(params.precision)
    for layer in network.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            layer.trainable = False
        elif isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1) and policy == "mixed_bfloat16":
            one_by_one.append(layer)  # in float16 they would want a scaled loss
            layer.dtype_policy = policy

    def reseed(epoch: int, _: Any) -> None:
        photos.reseed.on_epoch_begin(number * params.epochs + epoch)

    figures = fit.fit(
        network, train, val, params,
        labels=photos.labels,
        on_epoch=lambda *_: None,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=reseed)],
        backup=backup / f"{number}.pickle" if backup else None,
        warm_up=True,
    )  # fmt: skip
    for layer in one_by_one:
        layer.dtype_policy = "float32"  # mixed precision is for training: the kept model runs anywhere
    epoch = int(np.argmin(figures["val_loss"]))
    return {name: figures[name][epoch] for name in ("loss", "accuracy", "val_accuracy")}


def with_tta(networks: list[keras.Model], views: tuple[str, ...]) -> keras.Model:
    """Returns a network whose probabilities are the geometric mean of those that all tell of several views."""
    photo = keras.Input(networks[0].input_shape[1:], name="pixels")
    seen = [extractor.VIEWS[view](photo) for view in views]
    told = [keras.ops.log(keras.ops.maximum(network(view), fusion.EPS)) for network in networks for view in seen]
    mean = keras.layers.Softmax()(sum(told[1:], start=told[0]) / len(told))
    return keras.Model(photo, mean, name="tuned")


def ensemble_weights(
    told: np.ndarray, other: np.ndarray, *, share: float, labels: np.ndarray
) -> tuple[tuple[float, float], np.ndarray] | None:
    """Returns the weights a and b of the logarithms of two probabilities whose joined ones have the least log loss.

    Args:
        told: probabilities, shape (photos, classes).
        other: the same of another model.
        share: b / (a + b), 0 to 1.
        labels: class indices, shape (photos,).

    Returns:
        The weights, and the joined probabilities softmax(a * log told + b * log other); None where the logarithm of the
        likelihood is not more than LEAST_GAIN above that of the first one alone, likewise scaled.
    """
    logs = [np.log(np.maximum(part, fusion.EPS)).astype(np.float64) for part in (told, other)]

    def scaled(scale: float, share: float) -> np.ndarray:
        return np.asarray(log_softmax(scale * ((1 - share) * logs[0] + share * logs[1]), axis=1))

    def loss(scale: float, share: float) -> float:
        return -float(scaled(scale, share)[np.arange(len(labels)), labels].sum())

    best, alone = (minimize_scalar(loss, bounds=(0, 5), args=(part,), method="bounded") for part in (share, 0.0))
    if alone.fun - best.fun <= MIN_GAIN:
        return None
    return (best.x * (1 - share), best.x * share), np.exp(scaled(best.x, share))
