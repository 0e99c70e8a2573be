"""Training of networks on pixels: `cnn`, `residual` and `transfer`."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from gemmodel.core import hashing
from gemmodel.core.errors import ParameterError
from gemmodel.core.params import CnnParams, ResidualParams, TrainParams, TransferParams
from gemmodel.devices import precision
from gemmodel.embed.backbones.backbone import input_files
from gemmodel.train import cnn, distribution, residual, tensorboard, transfer
from gemmodel.train.batches import TrainingData, load_training_data
from gemmodel.train.context import OnEpoch, TrainingContext
from gemmodel.train.fit import History, TrainingResult, fit, held_out_predictions

NetworkParams = CnnParams | ResidualParams | TransferParams
NETWORKS: dict[str, Callable[..., keras.Model]] = {
    "cnn": cnn.cnn,
    "residual": residual.residual,
    "transfer": transfer.transfer,
}


def train_network(context: TrainingContext) -> TrainingResult:
    """Fits a network to pixels; with `train.resume` a killed training of the same settings and photos is resumed.

    Transfer learning has two phases: first the head only, then also the backbone's last layers. The better one is kept.
    TensorBoard's event files go to a folder of the context's `logs` that is named by the training's key.

    Args:
        context: parameters, data and folders. On several hosts each calls this, and only the chief writes.

    Returns:
        The float32 model from pixels to probabilities, its metrics by epoch, and its predictions for validation photos.

    Raises:
        ParameterError: TensorBoard is requested but not installed, or for several hosts.
        DataError: the hosts have different settings, photos or code.
    """
    params = context.params
    base, train = params.base, params.train
    model: NetworkParams = getattr(params.model, params.model.name)
    strategy = context.strategy or tf.distribute.get_strategy()
    if train.tensorboard:
        tensorboard.check()
        if distribution.hosts(strategy) > 1:
            raise ParameterError("train.tensorboard is for one host; set it to false, MLflow shows the same metrics")
    data = load_training_data(
        train,
        params.augment,
        base=base,
        split=context.split,
        augmentation_source=model.augmentation,
        augmented=context.augmented,
        scratch=context.checkpoints,
    )
    weights = input_files([model.backbone], model.weights) if isinstance(model, TransferParams) else []
    key = hashing.run_key([base, model, train, params.augment], [*data.paths, *weights])
    distribution.check_same_key(strategy, key)

    build = partial(NETWORKS[params.model.name], model, image_size=base.image_size, classes=len(data.classes))
    keras.config.set_dtype_policy(_policy(model, train))
    network = distribution.build(strategy, build)
    history = _fit_phases(network, context, data, key)
    keras.config.set_dtype_policy("float32")  # mixed precision is for training: the saved model runs anywhere
    trained = build()
    trained.set_weights(network.get_weights())
    if distribution.is_chief(strategy):
        shutil.rmtree(context.checkpoints / key, ignore_errors=True)
    held_out = held_out_predictions(
        trained,
        train_inputs=data.train_plain,
        train_labels=data.train_plain_labels,
        train_files=data.files,
        val_inputs=data.val,
        val_labels=data.val_labels,
    )
    return TrainingResult(trained, data.classes, history, held_out)


def _fit_phases(network: keras.Model, context: TrainingContext, data: TrainingData, key: str) -> History:
    """Fits a network phase by phase, keeps the weights of the best one, and returns the metrics of all phases."""
    params = context.params
    model: NetworkParams = getattr(params.model, params.model.name)
    best_loss, history = np.inf, History()
    for i, (phase, trainable_from) in enumerate(_phases(model, params.train)):
        if trainable_from:
            transfer.freeze(network, below=trainable_from)
        initial_weights = network.get_weights()
        checkpoint = context.checkpoints / key / f"{i}.pickle" if phase.resume else None
        callbacks = [data.reseed]
        if phase.tensorboard:
            callbacks += tensorboard.callbacks(
                context.logs / key / str(i),
                {"base": params.base, "model": model, "train": phase, "augment": params.augment},
                data.val,
                data.classes,
                overwrite=not (checkpoint and checkpoint.exists()),
            )
        metrics = fit(
            network,
            data.mixup(data.train),
            data.val,
            phase,
            labels=data.labels,
            on_epoch=_offset(context.on_epoch, len(history.get("loss", []))),
            callbacks=callbacks,
            checkpoint=checkpoint,
        )
        history = {name: history.get(name, []) + values for name, values in metrics.items()}
        if (loss := np.nanmin(metrics["val_loss"], initial=np.inf)) < best_loss:
            best_loss = loss
        else:
            network.set_weights(initial_weights)
    if np.isinf(best_loss):
        rate = params.train.learning_rate
        raise ParameterError(f"train.learning_rate is {rate:g}; the loss is no number in any epoch: lower it")
    return history


def _offset(on_epoch: OnEpoch | None, epochs: int) -> OnEpoch | None:
    """Returns a callback whose epochs count from those of earlier phases."""
    if on_epoch is None:
        return None

    def report(epoch: int, metrics: Mapping[str, float]) -> None:
        on_epoch(epochs + epoch, metrics)

    return report


def _phases(model: NetworkParams, params: TrainParams) -> Iterator[tuple[TrainParams, str | None]]:
    """Yields the parameters of each phase, and the first layer that is trained in it; None: all layers."""
    if not isinstance(model, TransferParams):
        yield params, None
        return
    yield params, "pooled"
    if model.unfreeze != "none":
        yield replace(params, learning_rate=model.learning_rate), model.unfreeze


def _policy(model: NetworkParams, params: TrainParams) -> str:
    """Returns the dtype policy; most backbones have depth-wise convolutions, which mixed precision slows down."""
    automatic = isinstance(model, TransferParams) and params.precision == "auto"
    return "float32" if automatic else precision(params.precision)
