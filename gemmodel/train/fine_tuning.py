"""Fine-tuning beside fusion: backbones are trained on the photos, and their predictions are combined with fusion's."""

import shutil
from collections.abc import Iterator, Sequence
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
from gemmodel.core import hashing, image_folder
from gemmodel.core.errors import DataError, ParameterError
from gemmodel.core.params import Params, TrainParams
from gemmodel.embed import extractor, feature_set, litert, samples
from gemmodel.embed.backbones.backbone import backbone, last_map, parse
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.models import fusion, saving
from gemmodel.train import fusion_head, transfer
from gemmodel.train.batches import TrainingData, load_training_data
from gemmodel.train.context import TrainingContext
from gemmodel.train.fit import TrainingResult, fit

DROPOUT = 0.3  # of the pooled map
MIN_GAIN = 1  # of the log likelihood of the validation photos; a smaller one may be chance


def fine_tune(context: TrainingContext) -> TrainingResult:
    """Trains `fusion` and an ensemble of fine-tuned backbones, and combines their predictions.

    Each of these networks is the first of `embed`'s backbones with a softmax layer on the mean of its last map. The
    layer is fitted to cached features first. Then both are trained together on augmented photos, with the statistics of
    batch norm frozen.
    What they are fitted to is the mean of a photo's label and of fusion's leave-one-out probabilities for it, weighted
    by `distillation` (Geoffrey Hinton and others, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531).
    The networks differ in their seeds only. The combined probabilities are softmax(a * log p + b * log q), where p is
    fusion's and q the geometric mean of the networks' over the views of `embed`. `ensemble_weight` is b / (a + b). The
    validation photos, which train none of these models, determine a + b. Where the networks add too little, the
    result is fusion alone.

    Args:
        context: parameters and data. With `train.resume` an interrupted fine-tuning is resumed from `checkpoints`.
            `on_epoch` is called after each epoch of fusion's head and once for the combined model; Keras alone reports
            the epochs of the networks.

    Returns:
        The combined model, or fusion where `ensemble_weights` finds too little gain. The history has the metrics of
        fusion's head by epoch, then those of the combined model: its `loss` and `accuracy` are the networks' mean at
        their best epochs. The held-out predictions of the combined model are for the validation photos.

    Raises:
        DataError: the features are of other photos, or in another order.
        ParameterError: the first backbone has a side of its own, or cannot be trained from the layer that `unfreeze`
            names, the labels are separate, or the validation photos, which determine a + b, are reserved for the
            prediction sets.
    """
    params = context.params
    model = params.model.fusion
    if not model.refit_on_validation:
        raise ParameterError(
            "model.fusion.fine_tune_epochs: it is trained on validation photos; set refit_on_validation to true"
        )
    if model.labels == "separate":
        raise ParameterError("model.fusion.fine_tune_epochs: labels: separate has no fine-tuning; set labels to all")
    first = parse(params.embed.backbone[0])
    if first.side not in (None, params.base.image_size):
        raise ParameterError(
            f"model.fusion.fine_tune_epochs: {first.name} has its own side, {first.side}; name it without one"
        )
    base_result = fusion_head.train_fusion(context)
    train, val = (feature_set.read(context.features / part) for part in ("train", "val"))
    for part, photos in (("train", train), ("val", val)):  # predictions are combined photo by photo
        paths, _ = image_folder.list_samples(context.split / part, photos.classes)
        if [path.relative_to(context.split / part).as_posix() for path in paths] != photos.files.tolist():
            raise DataError(
                f"{context.features}: its photos are not those of {context.split}; `dvc repro embed` makes it again"
            )
    base, _ = fusion_head.fit_kernel(  # validation photos did not train it
        replace(model, refit_on_validation=False), train, val, params=params.train, seed=params.base.seed
    )
    targets = (1 - model.distillation) * samples.one_hot(train.labels, len(train.classes))
    data = load_training_data(
        params.train, params.augment, base=params.base, split=context.split, augmentation_source="on_the_fly",
        targets=targets + model.distillation * base.loo_probs_, scratch=context.checkpoints,
    )  # fmt: skip
    inputs = [*data.paths, *(context.features / part / feature_set.TABLE for part in ("train", "val"))]
    key = hashing.run_key([params.base, model, params.train, params.augment, params.embed], inputs)
    checkpoints = context.checkpoints / key
    networks, metrics = fit_networks(params, data, train, val, checkpoints=checkpoints)
    tuned = with_tta(networks, params.embed.views)
    combined = ensemble_weights(
        base.predict_proba(val.features),
        tuned.predict(data.val, verbose=0),
        weight=model.ensemble_weight,
        labels=val.labels,
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    if combined is None:
        print(f"fine-tuning: networks of validation accuracy {metrics['val_accuracy']:.3f} add nothing to fusion")
        return base_result
    weights, probs = combined
    metrics |= {
        "val_loss": float(log_loss(val.labels, probs, labels=range(len(train.classes)))),
        "val_accuracy": float((probs.argmax(axis=1) == val.labels).mean()),
    }
    if context.on_epoch:
        context.on_epoch(len(base_result.history["loss"]), metrics)
    return base_result._replace(
        model=fusion.ensemble(base_result.model, tuned, weights=weights),
        history={name: [*base_result.history[name], value] for name, value in metrics.items()},
        penalty_curves=None,  # of fusion alone
        held_out=replace(base_result.held_out, probabilities=probs, labels=val.labels),
        selection_metric="val_loss",
        kept=len(base_result.history["loss"]),  # the losses before it are of leave-one-out predictions
    )


def fit_networks(
    params: Params, data: TrainingData, train: FeatureSet, val: FeatureSet, *, checkpoints: Path
) -> tuple[list[keras.Model], dict[str, float]]:
    """Fine-tunes `ensemble_size` networks, and resumes an interrupted fine-tuning.

    Args:
        params: the networks, and how they are fitted.
        data: batches of the photos.
        train: features of the training photos.
        val: features of the validation photos.
        checkpoints: a folder for their state.

    Returns:
        The networks, and the mean over them of the metrics at their best epochs.
    """
    model = params.model.fusion
    networks = [
        build_network(params, seed=params.base.seed + i, train=train, val=val) for i in range(model.ensemble_size)
    ]
    tail_params = replace(params.train, epochs=model.fine_tune_epochs, learning_rate=model.learning_rate)
    if model.distillation:  # which smooths the labels better: similar gems share more
        tail_params = replace(tail_params, label_smoothing=0.0)
    with split_at_frozen(networks, data, unfreeze=model.unfreeze) as (tails, train_batches, val_batches):
        best = [
            fit_tail(
                tail,
                train_batches,
                val_batches,
                tail_params,
                data=data,
                index=i,
                checkpoint=checkpoints / f"{i}.pickle" if params.train.resume else None,
            )
            for i, tail in enumerate(tails)
        ]
    return networks, {name: float(np.mean([metrics[name] for metrics in best])) for name in best[0]}


def build_network(params: Params, *, seed: int, train: FeatureSet, val: FeatureSet) -> keras.Model:
    """Returns a backbone with a softmax layer on the mean of its last map, which is fitted to cached features.

    Args:
        params: image size, backbone, and how the layer is fitted.
        seed: of the batches; the network is named by it.
        train: features of the training photos.
        val: features of the validation photos.
    """
    network = backbone(params.embed.backbone[0], weights=params.embed.weights, image_size=params.base.image_size)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(last_map(network))
    means = [photos._replace(features=extractor.last_map_mean(photos, pooled.shape[-1])) for photos in (train, val)]
    # Not standardised, unlike fusion's features: channels that hardly vary would get the largest weights, which
    # fine-tuning would destroy first.
    inputs = keras.Input((pooled.shape[-1],), name="features")
    gem = keras.layers.Dense(len(train.classes), activation="softmax", name="gem")
    head = keras.Model(inputs, gem(keras.layers.Dropout(DROPOUT)(inputs)), name="head")
    fit_layer(head, *means, seed=seed, params=params.train)
    return keras.Model(network.inputs[0], head(pooled), name=f"network_{seed}")


def fit_layer(head: keras.Model, train: FeatureSet, val: FeatureSet, *, seed: int, params: TrainParams) -> None:
    """Fits a softmax layer to features, by epochs.

    Args:
        head: from features to probabilities, changed in place.
        train: the training photos.
        val: the validation photos, which select the epoch.
        seed: of the batches.
        params: optimiser, schedule, epochs and batches.
    """
    one_hot = np.eye(len(train.classes), dtype=np.float32)
    arrays, photos = (tf.constant(train.features), tf.constant(one_hot[train.labels])), len(train.labels)
    indices = tf.data.Dataset.range(photos).shuffle(photos, seed=seed).batch(params.batch_size)
    data = indices.map(lambda batch: tuple(tf.gather(array, batch) for array in arrays)).prefetch(1)
    val_data = tf.data.Dataset.from_tensor_slices((val.features, one_hot[val.labels])).batch(params.batch_size)
    fit(head, data, val_data, params, labels=train.labels)


@contextmanager
def split_at_frozen(
    networks: list[keras.Model], data: TrainingData, *, unfreeze: str
) -> Iterator[tuple[list[keras.Model], tf.data.Dataset, tf.data.Dataset]]:
    """Yields the trainable tails of networks, and batches of their inputs for training and validation.

    The frozen layers below are the same in all networks. LiteRT computes their outputs, in a quarter of Keras' time.
    Mixup blends these outputs (Vikas Verma and others, "Manifold Mixup", arXiv 1806.05236).

    Args:
        networks: backbones with their heads.
        data: batches of pixels.
        unfreeze: the beginning of the name of the first trainable layer.

    Raises:
        ParameterError: no layer has such a name, or later layers need more than its input.
    """
    starts = [transfer.freeze(network, below=unfreeze) for network in networks]
    if starts[0] in networks[0].layers[:2]:  # the pixels and their scaling: nothing is frozen
        yield networks, data.mixup(data.train), data.val
        return
    try:
        if isinstance(starts[0].input, list):  # of a layer that joins others
            raise ValueError
        tails = [keras.Model(start.input, network.outputs[0]) for start, network in zip(starts, networks, strict=True)]
    except ValueError:
        raise ParameterError(
            f"unfreeze: other layers bypass {starts[0].name}; name the first layer of a block"
        ) from None
    with litert.as_litert(keras.Model(networks[0].inputs[0], starts[0].input)) as frozen:
        train, val = (frozen_outputs(part, frozen, starts[0].input.shape) for part in (data.train, data.val))
        yield tails, data.mixup(train), val


def frozen_outputs(data: tf.data.Dataset, frozen: litert.Graph, shape: tuple[int | None, ...]) -> tf.data.Dataset:
    """Returns batches of a graph's outputs for batches of pixels, with the same labels.

    Args:
        data: batches of pixels and labels.
        frozen: the graph.
        shape: of its output, with None for the batch.
    """

    def compute(photos: np.ndarray) -> np.ndarray:
        return np.concatenate([frozen(photo)["output"] for photo in photos])

    def map_batch(photos: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.ensure_shape(tf.numpy_function(compute, [photos], tf.float32, stateful=False), shape), labels

    return data.map(map_batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def fit_tail(
    tail: keras.Model,
    train: tf.data.Dataset,
    val: tf.data.Dataset,
    params: TrainParams,
    *,
    data: TrainingData,
    index: int,
    checkpoint: Path | None,
) -> dict[str, float]:
    """Fits the trainable layers of a network.

    Its 1x1 convolutions, which hold nearly all of its weights, use bfloat16 where that is fastest. Depth-wise filters
    stay frozen: to train them costs time and adds no accuracy (decision 21).

    Args:
        tail: changed in place.
        train: batches of its inputs and one-hot labels.
        val: batches of the validation part.
        params: how it is fitted.
        data: the source of both.
        index: of the network, from 0; each sees other augmentations.
        checkpoint: a file for the state after each epoch; None: no state is saved.

    Returns:
        The metrics of its best epoch.

    Raises:
        ParameterError: the validation loss of each epoch is NaN.
    """
    bfloat16_layers, policy = [], devices.precision(params.precision)
    for layer in tail.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            layer.trainable = False
        elif isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1) and policy == "mixed_bfloat16":
            bfloat16_layers.append(layer)  # float16 would need a scaled loss
            layer.dtype_policy = policy

    def reseed(epoch: int, _: Any) -> None:
        data.reseed.on_epoch_begin(index * params.epochs + epoch)

    history = fit(
        tail,
        train,
        val,
        params,
        labels=data.labels,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=reseed)],
        checkpoint=checkpoint,
        warm_up=True,
    )
    for layer in bfloat16_layers:
        layer.dtype_policy = "float32"  # mixed precision is for training: the saved model runs anywhere
    if np.isnan(history["val_loss"]).all():
        rate = params.learning_rate
        raise ParameterError(f"model.fusion.learning_rate is {rate:g}; the loss is no number in any epoch: lower it")
    best = int(np.nanargmin(history["val_loss"]))
    return {name: history[name][best] for name in ("loss", "accuracy", "val_accuracy")}


def with_tta(networks: list[keras.Model], views: Sequence[str]) -> keras.Model:
    """Returns the geometric mean of the networks' probabilities over views of a photo (test-time augmentation)."""
    photo = keras.Input(networks[0].input_shape[1:], name="pixels")
    inputs = [extractor.VIEWS[view](photo) for view in views]
    log_probs = [keras.ops.log(keras.ops.maximum(network(x), fusion.EPS)) for network in networks for x in inputs]
    mean = sum(log_probs[1:], start=log_probs[0]) / len(log_probs)
    return keras.Model(photo, keras.layers.Softmax()(mean), name=saving.NETWORK)


def ensemble_weights(
    probs: np.ndarray, other_probs: np.ndarray, *, weight: float, labels: np.ndarray
) -> tuple[tuple[float, float], np.ndarray] | None:
    """Returns the weights a and b of two models' log probabilities for which the combination has the least log loss.

    Args:
        probs: of the first model, shape (photos, classes).
        other_probs: of the second model, the same shape.
        weight: b / (a + b), 0 to 1.
        labels: class indices, shape (photos,).

    Returns:
        The weights, and the combined probabilities softmax(a * log probs + b * log other_probs). None where the log
        likelihood is at most MIN_GAIN above that of the first model alone, scaled in the same way.
    """
    log_probs, other_log_probs = (np.log(np.maximum(p, fusion.EPS)).astype(np.float64) for p in (probs, other_probs))

    def combine(scale: float, weight: float) -> np.ndarray:
        return np.asarray(log_softmax(scale * ((1 - weight) * log_probs + weight * other_log_probs), axis=1))

    def loss(scale: float, weight: float) -> float:
        return -float(combine(scale, weight)[np.arange(len(labels)), labels].sum())

    best, alone = (minimize_scalar(loss, bounds=(0, 5), args=(w,), method="bounded") for w in (weight, 0.0))
    if alone.fun - best.fun <= MIN_GAIN:
        return None
    return (best.x * (1 - weight), best.x * weight), np.exp(combine(best.x, weight))
