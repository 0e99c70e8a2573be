"""TensorBoard's event files: scalars, weight histograms, one confusion matrix per epoch, hyperparameters."""

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix

from gemmodel.core.errors import ParameterError
from gemmodel.figures import plots

DPI = 80  # of the confusion image: 87 classes are 2,000 pixels wide


def check() -> None:
    """Checks that the package is installed.

    Raises:
        ParameterError: it is not.
    """
    if not find_spec("tensorboard"):
        raise ParameterError(
            "train.tensorboard is true, but the package tensorboard is not installed: pip install -e '.[tensorboard]'"
        )


def callbacks(
    folder: Path, sections: Mapping[str, Any], val: tf.data.Dataset, classes: Sequence[str], *, overwrite: bool
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that write the event files of a training.

    Args:
        folder: of this training.
        sections: of the parameters, by name; they are this training's row in the table of hyperparameters.
        val: batches of the validation part, for the confusion matrix.
        classes: the class names in the order of their indices.
        overwrite: removes the event files of an earlier training.
    """
    from tensorboard.plugins.hparams import api

    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    hyper = {f"{name}.{key}": value for name, section in sections.items() for key, value in asdict(section).items()}
    plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in hyper.items()}
    metrics = [api.Metric(f"epoch_{name}", group="validation", display_name=name) for name in ("accuracy", "loss")]
    with tf.summary.create_file_writer(str(folder)).as_default():
        api.hparams_config([api.HParam(name) for name in plain], metrics)
    return [
        keras.callbacks.TensorBoard(folder, histogram_freq=1, write_graph=False),
        api.KerasCallback(str(folder), plain),
        ConfusionImage(folder, val, classes),
    ]


class ConfusionImage(keras.callbacks.Callback):
    """Draws the confusion matrix of the validation part after each epoch."""

    def __init__(self, folder: Path, val: tf.data.Dataset, classes: Sequence[str]) -> None:
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder / "validation"))
        self.val, self.classes = val, classes

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Predicts and draws."""
        actual = np.concatenate([labels.argmax(axis=1) for _, labels in self.val.as_numpy_iterator()])
        predicted = self.model.predict(self.val, verbose=0).argmax(axis=1)
        matrix = confusion_matrix(actual, predicted, labels=range(len(self.classes)))
        figure = plots.confusion_heatmap(matrix, self.classes, photos="validation")
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=DPI)
        with self.writer.as_default():
            tf.summary.image("confusion", tf.image.decode_png(png.getvalue())[tf.newaxis], step=epoch)
        self.writer.flush()
