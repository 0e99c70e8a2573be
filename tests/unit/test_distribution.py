"""Networks fitted on several devices and hosts learn what one device does, and a lost host ends the others."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EPOCHS, PHOTOS, BATCH = 4, 30, 8  # the last batch has 6 photos: 3 for each of two devices
SETTINGS: dict[str, Any] = {
    "base.image_size": 32,
    "base.threads": 1,
    "train.epochs": EPOCHS,
    "train.batch_size": BATCH,
    "train.precision": "float32",
    "train.class_weight": "balanced",
    "train.label_smoothing": 0.1,
    "model.name": "cnn",
    "model.cnn.filters": [4, 8],
    "model.cnn.pooling": "max",
    "model.cnn.dense": 8,
    "model.cnn.dropout": 0.0,  # of which each device draws its own mask
    "model.residual.filters": [4, 8],
    "model.residual.dense": 8,
}
# Sums in float32 in another order differ by some 1e-7 of a loss, and Adam divides small gradients by their own size.
TOLERANCE = 2e-4
TRAIN = """
import dataclasses, json, os, pathlib, signal, sys
from gemmodel import devices, params
settings = params.load(pathlib.Path("params.yaml"))
strategy, kill_at, *trainings = sys.argv[1:]
devices.prepare(settings.base, device="cpu")
import keras
import numpy as np
import tensorflow as tf
if strategy == "mirrored":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
from gemmodel.models import backup, distribution, training

def on_train_batch_end(self, batch, logs=None):
    batches.append(batch)
    if len(batches) == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)

backup.Backup.on_train_batch_end = on_train_batch_end
spread, told = distribution.strategy(strategy, of="cnn"), {}
for name in trainings:
    kind = name.split("-")[0]
    keras.backend.clear_session()
    keras.utils.set_random_seed(settings.base.seed)
    batches = []
    model = getattr(settings.model, kind)
    if name.endswith("dropout"):
        model = dataclasses.replace(model, dropout=0.5)
    fitted = training.train_network(
        model, settings.train, settings.augment, base=settings.base, split=pathlib.Path("split"),
        augmented=pathlib.Path("augmented"), backup=pathlib.Path(name), on_epoch=lambda *_: None, spread=spread,
    )
    weights = b"".join(value.tobytes() for value in fitted.model.get_weights()).hex()
    told[name] = {"devices": spread.num_replicas_in_sync, "batches": len(batches), "weights": weights}
    told[name]["history"] = fitted.history
print("told", json.dumps(told))
"""
STAGE = [
    *("-m", "stages.train", "--split", "split", "--augmented", "augmented", "--features", "features"),
    *("--hierarchy", "hierarchy.json", "--out", "models", "--curves", "curves.csv", "--report", "training.json"),
]
DIES = """
import os, signal
from gemmodel.models import backup
from stages import command, train

batches = []

def on_train_batch_end(self, batch, logs=None):
    batches.append(batch)
    if len(batches) == 6:
        os.kill(os.getpid(), signal.SIGKILL)

backup.Backup.on_train_batch_end = on_train_batch_end
command(train.main)
"""
ALONE = """
import sys
from gemmodel import devices, errors
from gemmodel.models import distribution

distribution.START_WITHIN = 3
with errors.told_in_one_line("train"):
    distribution.strategy("auto", of=sys.argv[1])
"""
LONGEST = 300  # seconds that a process may take, on a busy machine


class Hosts:
    """Two hosts of one training: a folder each, and addresses on loopback."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders, self.processes = folders, list[subprocess.Popen[str]]()
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
            self.addresses = [f"127.0.0.1:{held.getsockname()[1]}" for held in (one, other)]

    def start(self, place: int, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `python <arguments>` as a worker."""
        config = {"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": place}}
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_")) and "proxy" not in k.lower()
        }
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folders[place],
            env=kept | {"PYTHONPATH": str(ROOT), "no_proxy": "*", "TF_CONFIG": json.dumps(config)} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image], write_params: Any) -> Path:
    """Photos of three classes, 15, 10 and 5 of them to train on, 7 to validate with."""
    folder = tmp_path_factory.mktemp("project")
    gems = ("Agate", "Beryl", "Ruby")
    for part, numbers in (("train", (15, 10, 5)), ("val", (3, 2, 2))):
        for place, (gem, number) in enumerate(zip(gems, numbers, strict=True)):
            (folder / "split" / part / gem).mkdir(parents=True)
            for seed in range(number):
                picture = draw(100 * place + 10 * number + seed, size=(32, 32), tint=(1 - place / 3, place / 3, 0.5))
                picture.save(folder / "split" / part / gem / f"{seed}.png")
    for name in ("augmented", "features"):
        (folder / name).mkdir()
    (folder / "hierarchy.json").write_text(json.dumps({gem: gem for gem in gems}))
    write_params(folder, SETTINGS)
    return folder


def told(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return what a training process says of each training."""
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.split("told ")[-1])
    return found


def same(history: dict[str, list[float]], other: dict[str, list[float]], tolerance: float = TOLERANCE) -> None:
    """Compare each figure of each epoch; of so few photos an accuracy says little, but is to be the same."""
    assert history.keys() == other.keys()
    for name, values in history.items():
        assert len(values) == EPOCHS
        np.testing.assert_allclose(values, other[name], atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def one(project: Path, run: Any) -> dict[str, Any]:
    """Return what one device comes to, with photos augmented anew each epoch and classes balanced."""
    return told(run("-c", TRAIN, "one", "-1", "cnn", "residual", cwd=project))


@pytest.fixture(scope="module")
def two(project: Path, run: Any) -> dict[str, Any]:
    """Return what two logical devices come to, after a training that was killed in its second epoch."""
    killed = run("-c", TRAIN, "mirrored", "6", "cnn-killed-dropout", cwd=project)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    names = ("cnn", "residual", "cnn-killed-dropout", "cnn-whole-dropout")
    return told(run("-c", TRAIN, "mirrored", "-1", *names, cwd=project))


def test_two_devices_learn_what_one_does(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (one["cnn"]["devices"], two["cnn"]["devices"]) == (1, 2)
    assert one["cnn"]["batches"] == two["cnn"]["batches"] == EPOCHS * -(-PHOTOS // BATCH)
    same(one["cnn"]["history"], two["cnn"]["history"])
    assert one["cnn"]["history"]["loss"][-1] < one["cnn"]["history"]["loss"][0]


def test_batch_norm_over_two_devices_is_of_the_whole_batch(one: dict[str, Any], two: dict[str, Any]) -> None:
    histories = one["residual"]["history"], two["residual"]["history"]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], atol=TOLERANCE)
    # A bias before batch norm has no gradient but rounding, which Adam makes steps of: the moving averages, by which
    # validation goes, come after them.
    np.testing.assert_allclose(histories[0]["val_loss"], histories[1]["val_loss"], atol=5e-3)


def test_a_killed_training_on_two_devices_ends_with_the_same_bits(two: dict[str, Any]) -> None:
    resumed, whole = two["cnn-killed-dropout"], two["cnn-whole-dropout"]
    assert (whole.pop("batches"), resumed.pop("batches")) == (16, 12)
    assert resumed == whole


@pytest.fixture
def hosts(project: Path, tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts with the same photos and settings, and nothing that an earlier training left."""
    folders = [tmp_path / "host0", tmp_path / "host1"]
    for folder in folders:
        folder.mkdir()
        for name in ("split", "augmented", "features", "hierarchy.json", "params.yaml"):
            (shutil.copytree if (project / name).is_dir() else shutil.copy)(project / name, folder / name)
    with Hosts(folders) as both:
        yield both


def files(folder: Path) -> dict[Path, bytes]:
    """Return what a folder holds."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_hosts_of_which_one_is_lost_go_on_and_learn_what_one_device_does(
    hosts: Hosts, one: dict[str, Any], refused: Any
) -> None:
    chief, other = hosts.folders
    (other / "dvc.yaml").write_text(f"stages: {{train: {{cmd: python {' '.join(STAGE)}}}}}\n")
    before = files(other)
    processes = hosts.start(0, *STAGE), hosts.start(1, "-c", DIES, *STAGE[2:])
    ended = [process.communicate(timeout=LONGEST) for process in processes]
    assert processes[1].returncode == -signal.SIGKILL, ended[1]
    told_of = subprocess.CompletedProcess([], processes[0].returncode, *ended[0])
    refused(told_of, "train", f"worker 1 ({hosts.addresses[1]})", "was lost", "start all workers again")
    assert not (chief / "models").exists()
    assert len(list((chief / ".train-backup").rglob("*.pickle"))) == 1

    processes = hosts.start(0, *STAGE), hosts.start(1, "-m", "gemmodel.cli", "worker")
    ended = [process.communicate(timeout=LONGEST) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert "worker 0 of 2, 2 devices together" in ended[0][0]
    assert "Epoch 1/" not in ended[0][0]  # but went on
    assert files(other) == before
    assert (chief / "models" / "model.keras").exists()
    assert (chief / "mlflow.db").exists()
    assert not list((chief / ".train-backup").rglob("*.pickle"))
    with (chief / "curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    same({name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}, one["cnn"]["history"])


def test_hosts_of_unlike_settings_do_not_train(hosts: Hosts, write_params: Any) -> None:
    write_params(hosts.folders[1], SETTINGS | {"train.label_smoothing": 0.2})
    processes = [hosts.start(place, "-c", TRAIN, "multiworker", "-1", "cnn") for place in (0, 1)]
    for process in processes:
        _, error = process.communicate(timeout=LONGEST)
        assert process.returncode == 1
        assert f"DataError: worker 1 ({hosts.addresses[1]}): other settings" in error


def test_a_worker_that_does_not_start_is_named(hosts: Hosts, refused: Any) -> None:
    alone = hosts.start(0, "-c", ALONE, "cnn")
    ended = alone.communicate(timeout=LONGEST)
    told_of = subprocess.CompletedProcess([], alone.returncode, *ended)
    refused(told_of, "train", f"worker 1 ({hosts.addresses[1]}) did not start within 3 seconds")


@pytest.mark.parametrize(
    ("config", "wanted", "of", "named"),
    [
        ("{", "auto", "cnn", "it must be as"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "auto", "cnn", "it must be as"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}', "multiworker", "cnn", "no two"),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}',
            "auto",
            "fusion",
            "one device",
        ),
        (
            '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}',
            "auto",
            "cnn",
            "gemmodel worker",
        ),
        ("", "multiworker", "cnn", "no two"),
        ("", "mirrored", "fusion", "one device"),
        ("", "mirrored", "cnn", "one device"),
    ],
)
def test_what_cannot_be_spread_is_refused(
    monkeypatch: pytest.MonkeyPatch, config: str, wanted: str, of: str, named: str
) -> None:
    from gemmodel.core import errors
    from gemmodel.train import distribution

    monkeypatch.setenv("TF_CONFIG", config)
    monkeypatch.setenv("DVC_STAGE", "train")
    with pytest.raises(errors.GemmodelError, match=named):
        distribution.make_strategy(wanted, of=of)
