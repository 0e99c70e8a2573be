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
from gemmodel.train import fit, tensorboard

GEMS = ("Agate", "Beryl", "Ruby")
EPOCHS = 2


@pytest.fixture
def train(tmp_path: Path, settings: Callable[..., Params], draw: Callable[..., Image.Image]) -> Callable[[], Path]:
    """Train a tiny network on photos of three classes, and return the folder of its event files."""
    for part, number in (("train", 4), ("val", 2)):
        for place, gem in enumerate(GEMS):
            (tmp_path / "split" / part / gem).mkdir(parents=True)
            for seed in range(number):
                draw(10 * place + seed, size=(32, 32)).save(tmp_path / "split" / part / gem / f"{seed}.png")
    params = settings(
        {
            "base.image_size": 32,
            "train.epochs": EPOCHS,
            "train.tensorboard": True,
            "model.cnn.filters": [4],
            "model.cnn.pooling": "max",
            "model.cnn.dense": 4,
        }
    )

    def trained() -> Path:
        fit.train_network(
            params.model.cnn, params.train, params.augment, base=params.base, split=tmp_path / "split",
            augmented=tmp_path, backup=tmp_path / "backup", logs=tmp_path / "logs", on_epoch=lambda *_: None,
        )  # fmt: skip
        (folder,) = (tmp_path / "logs").iterdir()
        return folder / "0"

    return trained


def test_scalars_histograms_confusion_and_hyper_parameters(train: Callable[[], Path]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    train()
    folder = train()  # in place of the first, not beside it
    told = {}
    for part in ("train", "validation", "."):
        assert len(list((folder / part).glob("events*"))) == {"train": 1, "validation": 2, ".": 2}[part]
        told[part] = accumulator.EventAccumulator(str(folder / part)).Reload()
    steps = list(range(EPOCHS))
    for part in ("train", "validation"):
        for name in ("epoch_accuracy", "epoch_loss"):
            assert [event.step for event in told[part].Tensors(name)] == steps
    kernels = [tag for tag in told["train"].Tags()["tensors"] if tag.endswith("kernel/histogram")]
    assert len(kernels) == 3
    assert [event.step for event in told["train"].Tensors(kernels[0])] == steps
    images = told["validation"].Tensors("confusion")
    assert [event.step for event in images] == steps
    picture = tf.io.decode_png(images[-1].tensor_proto.string_val[2]).numpy()
    assert picture.shape[2] >= 3
    assert np.ptp(picture) > 200
    table = told["."].summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"model.filters" in table
    assert b"train.learning_rate" in table


def test_the_package_is_asked_for_by_name(train: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"train\.tensorboard .* pip install -e '\.\[tensorboard\]'"):
        train()
