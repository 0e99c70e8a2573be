"""Fitting a classifier."""

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
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from gemmodel.data import hierarchy as primary_labels
from gemmodel.devices import precision
from gemmodel.models import archive, boards, cnn, features, fusion, pixels, residual, transfer
from gemmodel.models import backup as backups
from gemmodel.models.confidence import Evidence, Reference
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

REMEMBERED = 10_000  # photos; with a softmax head of all features 0.46 GB
OnEpoch = Callable[[int, Mapping[str, float]], None]
History = dict[str, list[float]]
NetworkParams = CnnParams | ResidualParams | TransferParams
NETWORKS: dict[type, Callable[..., keras.Model]] = {
    CnnParams: cnn.cnn,
    ResidualParams: residual.residual,
    TransferParams: transfer.transfer,
}


class Fitted(NamedTuple):
    """What a training comes to.

    Attributes:
        model: from pixels to probabilities.
        classes: the names of its classes.
        history: figures by epoch.
        evidence: what photos tell of the model that it has not learnt from.
        chosen_by: the figure that was least in the epoch that was kept.
    """

    model: keras.Model
    classes: list[str]
    history: History
    evidence: Evidence
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
    hierarchy: Mapping[str, str] | None = None,
) -> Fitted:
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
    known, labels, classes = features.read(folder / "train.npz")
    val, val_labels, _ = features.read(folder / "val.npz")
    files = features.read_files(folder / "train.npz")
    extractor = features.extractor(embed, image_size=base.image_size)
    parents = primary_labels.parents(classes, hierarchy or {gem: gem for gem in classes})[1].tolist()
    data = (known, labels, val, val_labels, len(classes))
    if model.head == "kernel":
        sizes = features.blocks(extractor)
        head, history, left_out = fit_kernel(model, *data, sizes, train=params, on_epoch=on_epoch, parents=parents)
        whole = fusion.attach(extractor, head)
        if not model.learn_validation:
            found = evidence(head, (known, labels, files), (val, val_labels))
            return Fitted(whole, classes, history, found, chosen_by="loss")
        both, both_labels = np.concatenate([known, val]), np.concatenate([labels, val_labels])
        files = np.concatenate([files, features.read_files(folder / "val.npz")])
        embedding = archive.embedder(head).predict(both, verbose=0)[1]
        return Fitted(
            whole, classes, history, Evidence(left_out, both_labels, Reference(embedding, both_labels, files))
        )
    head, history = fit_softmax(model, *data, seed=base.seed, train=params, on_epoch=on_epoch, parents=parents)
    found = evidence(head, (known, labels, files), (val, val_labels))
    return Fitted(fusion.attach(extractor, head), classes, history, found)


def evidence(model: keras.Model, known: tuple[Any, np.ndarray, np.ndarray], val: tuple[Any, np.ndarray]) -> Evidence:
    """Returns what the validation photos tell of a model that has learnt from other photos alone.

    Of many photos learnt from REMEMBERED are drawn: a model's folder, and each answer's time, would grow with all.

    Args:
        model: from what both begin with to probabilities.
        known: features or batches, labels and files of the photos learnt from.
        val: features or batches and labels.
    """
    embedder = archive.embedder(model)
    drawn = np.sort(np.random.default_rng(0).permutation(len(known[1]))[:REMEMBERED])
    if isinstance(known[0], np.ndarray):
        embedding = embedder.predict(known[0][drawn], verbose=0)[1]
    else:
        embedding = embedder.predict(known[0], verbose=0)[1][drawn]
    reference = Reference(embedding, known[1][drawn], known[2][drawn])
    told, embedding = embedder.predict(val[0], verbose=0)
    return Evidence(told, val[1], reference, embedding)


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
    parents: Sequence[int] = (),
) -> tuple[keras.Model, History]:
    """Fits the softmax head on features; the arguments are those of `fit_kernel`, and the seed of the batches."""
    one_hot = np.eye(classes, dtype=np.float32)
    head = fusion.head(model, known, classes=classes, parents=parents)
    rows = tf.constant(known), tf.constant(one_hot[labels])
    data = tf.data.Dataset.range(len(known)).shuffle(len(known), seed=seed).batch(train.batch_size)  # of places only
    data = data.map(lambda places: tuple(tf.gather(row, places) for row in rows)).prefetch(tf.data.AUTOTUNE)
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
    parents: Sequence[int] = (),
    tuned: bool = False,
) -> tuple[keras.Model, History, np.ndarray]:
    """Chooses the penalty by validation loss, then fits the kernel head on training and validation photos together.

    Without `learn_validation` it is chosen by leave-one-out on the training photos, which alone are learnt from: so the
    validation photos stay as unknown to the head as any new photo.

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
        parents: of `labels: separate`, the mineral class's index of each class.
        tuned: whether the extractor has learnt from the training photos. Leave-one-out scores flatter it then, so the
            validation photos calibrate, and are not learnt from.

    Returns:
        The head; its figures by penalty, leave-one-out on the training photos and on the validation photos; and the
        leave-one-out probabilities of the photos that it learnt from.
    """
    history, heads = History(), []
    sizes: dict[str, Any] = {"classes": classes, "blocks": blocks, "parents": parents}
    for number, penalty in enumerate(model.penalties):
        sizes["penalty"] = penalty / _weights(train, labels)
        head, values, left_out = fusion.kernel_head(model, known, labels, **sizes)
        if tuned:
            scores = keras.Model(head.inputs, head.get_layer("gem").output).predict(val, verbose=0)
            calibration = fusion.calibrate(scores, val_labels, [np.arange(classes)])
            head, values, left_out = fusion.kernel_head(model, known, labels, **sizes, calibration=calibration)
        told = np.asarray(head(val))
        values |= {
            "val_loss": float(log_loss(val_labels, told, labels=range(classes))),
            "val_accuracy": float((told.argmax(axis=1) == val_labels).mean()),
        }
        history = {name: [*history.get(name, []), value] for name, value in values.items()}
        on_epoch(number, values)
        heads.append((head, left_out))
    if tuned or not model.learn_validation:
        head, left_out = heads[int(np.argmin(history["val_loss" if tuned else "loss"]))]
        return head, history, left_out
    both, both_labels = np.concatenate([known, val]), np.concatenate([labels, val_labels])
    sizes["penalty"] = model.penalties[int(np.argmin(history["val_loss"]))] / _weights(train, both_labels)
    head, _, left_out = fusion.kernel_head(model, both, both_labels, **sizes)
    return head, history, left_out


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
    logs: Path = Path("logs"),
) -> Fitted:
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

    Returns:
        The float32 model from pixels to probabilities, and what there is to tell of it.
    """
    if params.tensorboard:
        boards.check()
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
        state_file = state / f"{number}.pickle" if params.resume else None
        watching = [photos.reseed]
        if params.tensorboard:
            sections = {"base": base, "model": model, "train": phase, "augment": augment}
            anew = not (state_file and state_file.exists())
            watching += boards.callbacks(
                logs / state.name / str(number), sections, photos.val, photos.classes, anew=anew
            )
        found = fit(
            fitted, photos.train, photos.val, phase,
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
    shutil.rmtree(state, ignore_errors=True)
    known = photos.known, photos.known_labels, photos.files
    return Fitted(kept, photos.classes, history, evidence(kept, known, (photos.val, photos.val_labels)))


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
