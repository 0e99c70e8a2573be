"""Fitting a network to batches; of `fusion`, whose features are cached, see `fusion_training`."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from gemmodel.core import hashing
from gemmodel.core.errors import ParameterError
from gemmodel.core.params import AugmentParams, BaseParams, CnnParams, ResidualParams, TrainParams, TransferParams
from gemmodel.devices import precision
from gemmodel.embed import samples
from gemmodel.models import saving
from gemmodel.models.conformal import HeldOutPredictions, ReferenceSet
from gemmodel.train import batches, checkpoint, cnn, distribution, residual, tensorboard, transfer

MAX_REFERENCE = 10_000  # photos; with a softmax head of all features 0.46 GB
OnEpoch = Callable[[int, Mapping[str, float]], None]
History = dict[str, list[float]]
NetworkParams = CnnParams | ResidualParams | TransferParams
NETWORKS: dict[type, Callable[..., keras.Model]] = {
    CnnParams: cnn.cnn,
    ResidualParams: residual.residual,
    TransferParams: transfer.transfer,
}


class TrainingResult(NamedTuple):
    """What a training comes to.

    Attributes:
        model: from pixels to probabilities.
        classes: the names of its classes.
        history: figures by epoch.
        held_out: what photos tell of the model that it has not learnt from.
        chosen_by: the figure that was least in the epoch that was kept.
    """

    model: keras.Model
    classes: list[str]
    history: History
    held_out: HeldOutPredictions
    chosen_by: str = "val_loss"


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
    warm_up: bool = False,
) -> History:
    """Fits a model, stops early, and leaves it with the weights of its best epoch by validation loss.

    Args:
        model: changed in place; its last layer gives probabilities. Built by `distribution.build` it is fitted on all
            those devices.
        train: batches of input and one-hot labels.
        val: the same of the validation part.
        params: optimiser, schedule, epochs, patience and whether classes are balanced.
        labels: class indices of all that `train` holds, shape (photos,).
        on_epoch: called after each epoch with its number, from 0, and its figures.
        callbacks: more of Keras', called before those of this fit.
        backup: a file of the state after each epoch; where it exists, the fit goes on from there.
        warm_up: whether the rate of the cosine schedule rises from 0 over the first epoch, and a batch's gradient is
            at most 1 long: what has learnt already would be spoilt by the first steps.

    Returns:
        Each figure's values by epoch.
    """
    spread = model.distribute_strategy
    train = samples.without_autotune(distribution.even_batches(spread, train, len(labels), params.batch_size))
    rate: Any = params.learning_rate
    if params.schedule == "cosine":
        epoch = int(train.cardinality())
        first = {"initial_learning_rate": 0.0, "warmup_target": rate, "warmup_steps": epoch} if warm_up else {}
        steps = {"initial_learning_rate": rate, "decay_steps": epoch * max(1, params.epochs - warm_up)}
        rate = keras.optimizers.schedules.CosineDecay(**steps | first)
    clip = {"clipnorm": 1.0} if warm_up else {}
    optimizers = {
        "adam": lambda: keras.optimizers.Adam(rate, **clip),
        "adamw": lambda: keras.optimizers.AdamW(rate, weight_decay=params.weight_decay, **clip),
    }
    with spread.scope():
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
    keep = []
    if backup:
        agreed = partial(distribution.broadcast, spread)
        keep = [checkpoint.TrainingCheckpoint(backup, remembering, keeps=distribution.is_chief(spread), agreed=agreed)]

    def past(_: Any) -> None:
        for epoch in history.epoch:
            on_epoch(epoch, {name: values[epoch] for name, values in history.history.items()})

    log = keras.callbacks.LambdaCallback(on_train_begin=past, on_epoch_end=on_epoch)
    verbose = 0 if not distribution.is_chief(spread) else 1 if sys.stdout.isatty() else 2
    # The batches are shuffled already; Keras could not, and would say so.
    model.fit(
        train,
        validation_data=samples.without_autotune(val),
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


def held_out_predictions(
    model: keras.Model, known: tuple[Any, np.ndarray, np.ndarray], val: tuple[Any, np.ndarray]
) -> HeldOutPredictions:
    """Returns what the validation photos tell of a model that has learnt from other photos alone.

    Of many photos learnt from REMEMBERED are drawn: a model's folder, and each answer's time, would grow with all.

    Args:
        model: from what both begin with to probabilities.
        known: features or batches, labels and files of the photos learnt from.
        val: features or batches and labels.
    """
    embedder = saving.with_embedding(model)
    drawn = np.sort(np.random.default_rng(0).permutation(len(known[1]))[:MAX_REFERENCE])
    if isinstance(known[0], np.ndarray):
        embedding = embedder.predict(known[0][drawn], verbose=0)[1]
    else:
        embedding = embedder.predict(known[0], verbose=0)[1][drawn]
    reference = ReferenceSet(embedding, known[1][drawn], known[2][drawn])
    told, embedding = embedder.predict(val[0], verbose=0)
    return HeldOutPredictions(told, val[1], reference, embedding)


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
    logs: Path = Path("logs"),
    spread: tf.distribute.Strategy | None = None,
) -> TrainingResult:
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
        logs: a folder for what TensorBoard shows; a training's own has its settings' key for a name.
        spread: over which devices; None: one. Of several hosts each calls this, and the chief alone writes.

    Returns:
        The float32 model from pixels to probabilities, and what there is to tell of it.
    """
    spread = spread or tf.distribute.get_strategy()
    if params.tensorboard:
        tensorboard.check()
        if distribution.hosts(spread) > 1:
            raise ParameterError("train.tensorboard is of one host; set it to false, MLflow shows the same figures")
    photos = batches.batches(
        params, augment, base=base, split=split, augmentation_from=model.augmentation, augmented=augmented
    )
    state = backup / hashing.run_key([base, model, params, augment], photos.paths)
    distribution.check_same_key(spread, state.name)

    build = partial(NETWORKS[type(model)], model, image_size=base.image_size, classes=len(photos.classes))
    keras.config.set_dtype_policy(_policy(model, params))
    fitted = distribution.build(spread, build)
    best, history = np.inf, History()
    for number, (phase, learns_from) in enumerate(_phases(model, params)):
        if learns_from:
            transfer.freeze(fitted, below=learns_from)
        before = fitted.get_weights()
        state_file = state / f"{number}.pickle" if params.resume else None
        watching = [photos.reseed]
        if params.tensorboard:
            sections = {"base": base, "model": model, "train": phase, "augment": augment}
            anew = not (state_file and state_file.exists())
            watching += tensorboard.callbacks(
                logs / state.name / str(number), sections, photos.val, photos.classes, anew=anew
            )
        found = fit(
            fitted, photos.mix(photos.train), photos.val, phase,
            labels=photos.labels,
            on_epoch=partial(_counted_on, on_epoch, len(history.get("loss", []))),
            callbacks=watching,
            backup=state_file,
        )  # fmt: skip
        history = {name: history.get(name, []) + values for name, values in found.items()}
        if min(found["val_loss"]) < best:
            best = min(found["val_loss"])
        else:
            fitted.set_weights(before)
    keras.config.set_dtype_policy("float32")  # mixed precision is for training: the kept model runs anywhere
    kept = build()
    kept.set_weights(fitted.get_weights())
    if distribution.is_chief(spread):
        shutil.rmtree(state, ignore_errors=True)
    known = photos.known, photos.known_labels, photos.files
    return TrainingResult(
        kept, photos.classes, history, held_out_predictions(kept, known, (photos.val, photos.val_labels))
    )


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


def summary(history: History, chosen_by: str = "val_loss") -> dict[str, float | int]:
    """Returns the figures of the epoch whose weights were kept: where the figure that it was chosen by is least."""
    best = int(np.argmin(history[chosen_by]))
    return {"epochs": len(history["loss"]), "best_epoch": best} | {
        f"best_{name}": round(values[best], 6) for name, values in history.items()
    }
