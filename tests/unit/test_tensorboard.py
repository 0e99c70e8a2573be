"""TensorBoard's event files of a training, read back."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import Params
from gemmodel.train import tensorboard
from gemmodel.train.context import TrainingContext
from gemmodel.train.network import train_network

GEMS = ("Agate", "Beryl", "Ruby")
EPOCHS = 2


@pytest.fixture
def train(tmp_path: Path, settings: Callable[..., Params], draw: Callable[..., Image.Image]) -> Callable[[], Path]:
    """Train a tiny network on photos of three classes, and return the folder of its event files."""
    for part, count in (("train", 4), ("val", 2)):
        for i, gem in enumerate(GEMS):
            (tmp_path / "split" / part / gem).mkdir(parents=True)
            for seed in range(count):
                draw(10 * i + seed, size=(32, 32)).save(tmp_path / "split" / part / gem / f"{seed}.png")
    params = settings(
        {
            "base.image_size": 32,
            "train.epochs": EPOCHS,
            "train.tensorboard": True,
            "model.name": "cnn",
            "model.cnn.filters": [4],
            "model.cnn.pooling": "max",
            "model.cnn.dense": 4,
        }
    )

    def train_once() -> Path:
        folders = {name: tmp_path / name for name in ("split", "augmented", "features", "checkpoints", "logs")}
        train_network(TrainingContext(params, hierarchy={}, **folders))
        (folder,) = (tmp_path / "logs").iterdir()
        return folder / "0"

    return train_once


def test_scalars_histograms_confusion_and_hyperparameters(train: Callable[[], Path]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    train()
    folder = train()  # overwrites the files of the first
    events = {}
    for part, count in (("train", 1), ("validation", 2), (".", 2)):
        assert len(list((folder / part).glob("events*"))) == count
        events[part] = accumulator.EventAccumulator(str(folder / part)).Reload()
    epochs = list(range(EPOCHS))
    for part in ("train", "validation"):
        for name in ("epoch_accuracy", "epoch_loss"):
            assert [event.step for event in events[part].Tensors(name)] == epochs
    kernels = [tag for tag in events["train"].Tags()["tensors"] if tag.endswith("kernel/histogram")]
    assert len(kernels) == 3
    assert [event.step for event in events["train"].Tensors(kernels[0])] == epochs
    images = events["validation"].Tensors("confusion")
    assert [event.step for event in images] == epochs
    picture = tf.io.decode_png(images[-1].tensor_proto.string_val[2]).numpy()
    assert picture.shape[2] >= 3
    assert np.ptp(picture) > 200
    table = events["."].summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"model.filters" in table
    assert b"train.learning_rate" in table


def test_a_missing_package_is_an_error_that_names_it(
    train: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"train\.tensorboard .* pip install -e '\.\[tensorboard\]'"):
        train()
