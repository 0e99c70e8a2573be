"""A training that is killed goes on from its last whole epoch and ends with the bits of one that was not."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from gemmodel.core import hashing
from gemmodel.core.params import Params
from gemmodel.train import checkpoint, fit

Settings = Callable[..., Params]
EPOCHS, BATCHES = 3, 6
TINY = {
    "base.image_size": 32,
    "base.threads": 1,
    "train.epochs": EPOCHS,
    "train.batch_size": 4,
    "train.precision": "float32",
    "train.mixup": 0.3,
    "model.cnn.filters": [4, 8],
    "model.cnn.pooling": "max",
    "model.cnn.dense": 8,
    "model.residual.filters": [4, 8],
    "model.residual.dense": 8,
    "model.transfer.weights": "none",
    "model.transfer.unfreeze": "blocks.15",
    "embed.views": "photo",
    "embed.weights": "none",
    "model.fusion.fine_tune_epochs": EPOCHS,
    "model.fusion.ensemble_size": 2,
    "model.fusion.unfreeze": "blocks.15",
}
TRAIN = """
import json, os, pathlib, signal, sys
from gemmodel import devices, params
settings = params.load(pathlib.Path("params.yaml"))
devices.prepare(settings.base, device="cpu")
import keras
import numpy as np
from gemmodel.models import backup, features, fine_tuning, training

name, kill_at, *folders = sys.argv[1:]
for folder in folders:
    keras.backend.clear_session()
    keras.utils.set_random_seed(settings.base.seed)
    batches, seen = [], []

    def on_train_batch_end(self, batch, logs=None):
        batches.append(batch)
        if len(batches) == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    backup.Backup.on_train_batch_end = on_train_batch_end
    features.features_on_cpu = features.features_on_gpu  # an export would take longer than all the rest
    split, known = pathlib.Path("split"), pathlib.Path(folder + "-features")
    given = {"base": settings.base, "split": split, "backup": pathlib.Path(folder)}
    given["on_epoch"] = lambda epoch, values: seen.append([epoch, dict(values)])
    model = getattr(settings.model, name)
    if name == "fusion":
        extractor = features.extractor(settings.embed, image_size=settings.base.image_size)
        parts = {split / part: known / f"{part}.npz" for part in ("train", "val")}
        features.embed(parts, extractor, classes=["Agate", "Beryl", "Ruby"])
        fitted = fine_tuning.fine_tune(model, settings.train, settings.augment, settings.embed, folder=known, **given)
    else:
        fitted = training.train_network(model, settings.train, settings.augment, augmented=split, **given)
    model, classes, history, *_ = fitted
    np.savez(folder + ".npz", *model.get_weights())
    told = {"batches": len(batches), "history": history, "seen": seen, "left": os.listdir(folder)}
    pathlib.Path(folder + ".json").write_text(json.dumps(told))
"""


@pytest.fixture
def project(tmp_path: Path, draw: Callable[..., Image.Image]) -> Path:
    """Photos of three classes: 24 to train on, 6 to validate with."""
    for part, number in (("train", 8), ("val", 2)):
        for place, gem in enumerate(("Agate", "Beryl", "Ruby")):
            (tmp_path / "split" / part / gem).mkdir(parents=True)
            for seed in range(number):
                picture = draw(100 * place + 10 * number + seed, size=(32, 32), tint=(1 - place / 3, place / 3, 0.5))
                picture.save(tmp_path / "split" / part / gem / f"{seed}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "schedule", "precision", "kill_at"),
    [
        ("residual", "cosine", "mixed_bfloat16", BATCHES + 3),  # after one epoch
        # In the second phase, after one epoch of it.
        ("transfer", "plateau", "float32", (EPOCHS + 1) * BATCHES + 3),
        # In the second network, after one epoch of it.
        ("fusion", "cosine", "float32", (EPOCHS + 1) * BATCHES + 3),
    ],
    ids=["residual", "transfer", "fusion"],
)
def test_a_killed_training_ends_with_the_same_bits(
    project: Path, run: Any, write_params: Any, name: str, schedule: str, precision: str, kill_at: int
) -> None:
    changes = {"train.schedule": schedule, "train.patience": 3, "train.learning_rate": 0.01}
    write_params(project, TINY | changes | {"train.precision": precision})
    trainings = 1 if name == "residual" else 2
    killed: subprocess.CompletedProcess[str] = run("-c", TRAIN, name, str(kill_at), "resumed", cwd=project)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (project / "resumed.json").exists()
    assert len(list((project / "resumed").rglob("*.pickle"))) == trainings
    ended = run("-c", TRAIN, name, "-1", "resumed", "whole", cwd=project)
    assert ended.returncode == 0, ended.stderr
    resumed, whole = (json.loads((project / f"{folder}.json").read_text()) for folder in ("resumed", "whole"))
    assert (whole["batches"], resumed["batches"]) == (trainings * EPOCHS * BATCHES, 2 * BATCHES)
    assert resumed["left"] == whole["left"] == []
    assert resumed["history"] == whole["history"]
    assert resumed["seen"] == whole["seen"]
    with np.load(project / "resumed.npz") as one, np.load(project / "whole.npz") as other:
        assert [one[key].tobytes() for key in one.files] == [other[key].tobytes() for key in other.files]


@pytest.mark.parametrize("seed", [0, 1337])  # TensorFlow's own choice of seeds breaks where the global one is 0
def test_an_epochs_photos_depend_on_its_number_alone(
    project: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    keras.utils.set_random_seed(seed)
    orders: list[list[int]] = []

    def fit(_: Any, train: tf.data.Dataset, *__: Any, callbacks: Any, **___: Any) -> fit.History:
        assert int(train.cardinality()) == BATCHES
        for epoch in (0, 1, 2, 1):
            for callback in callbacks:
                callback.on_epoch_begin(epoch)
            pixels = np.concatenate([x for x, _ in train.as_numpy_iterator()])
            orders.append(np.rint(pixels.sum(axis=(1, 2, 3))).astype(int).tolist())
        return {"loss": [0.0], "val_loss": [0.0]}

    monkeypatch.setattr(fit, "fit", fit)
    params = settings(TINY | {"model.cnn.augmentation": "none", "train.mixup": 0.0})
    fit.train_network(
        params.model.cnn, params.train, params.augment, base=params.base, split=project / "split",
        augmented=project, backup=project / "backup", on_epoch=lambda *_: None,
    )  # fmt: skip
    zero, one, two, again = orders
    assert sorted(zero) == sorted(one) == sorted(two)
    assert len(set(zero)) > 20
    assert again == one
    assert zero != one != two != zero


def test_a_key_is_of_one_setting_and_these_photos(project: Path, settings: Settings) -> None:
    base, photos = settings(TINY), sorted((project / "split" / "train").rglob("*.png"))
    key = hashing.run_key([base.model.cnn, base.train], photos)
    assert key == hashing.run_key([base.model.cnn, base.train], photos)
    other = settings(TINY | {"train.learning_rate": 0.5})
    assert hashing.run_key([other.model.cnn, other.train], photos) != key
    assert hashing.run_key([base.model.cnn, base.train], photos[1:]) != key
    Image.new("RGB", (32, 32)).save(photos[0])
    assert hashing.run_key([base.model.cnn, base.train], photos) != key


@pytest.mark.parametrize("content", [b"", b"no pickle"])
def test_a_damaged_backup_is_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.pickle").write_bytes(content)
    assert checkpoint.TrainingCheckpoint(tmp_path / "0.pickle", []).initial_epoch == 0
