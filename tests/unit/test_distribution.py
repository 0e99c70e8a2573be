"""Networks fitted on several devices and hosts learn what one device does, and the loss of a host stops the others."""

import csv
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image

from gemmodel.core import errors
from gemmodel.train import distribution
from tests.conftest import stage_options, user_environment

ROOT = Path(__file__).parents[2]
EPOCHS, PHOTOS, BATCH = 2, 30, 8  # the last batch has 6 photos: 3 for each of two devices
SETTINGS: dict[str, Any] = {
    "base.image_size": 32,
    "base.threads": 1,
    "train.epochs": EPOCHS,
    "train.batch_size": BATCH,
    "train.precision": "float32",
    "train.class_weight": "balanced",
    "train.label_smoothing": 0.1,
    "model.name": "cnn",
    "model.cnn.filters": [4],
    "model.cnn.pooling": "max",
    "model.cnn.dense": 8,
    "model.cnn.dropout": 0.0,  # of which each device draws its own mask
    "model.residual.filters": [4],
    "model.residual.dense": 8,
}
# Sums in float32 in another order differ by some 1e-7 of a loss, and Adam divides small gradients by their own size.
TOLERANCE = 2e-4
TRAIN = """
import json, os, pathlib, signal, sys
from dataclasses import replace
from gemmodel import devices
from gemmodel.core import params
settings = params.load(pathlib.Path("params.yaml"))
wanted, kill_at, split, augmented, features, *trainings = sys.argv[1:]
devices.prepare(settings.base, device="cpu")
import keras
import tensorflow as tf
if wanted == "mirrored":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
from gemmodel.train import distribution
from gemmodel.train.checkpoint import TrainingCheckpoint
from gemmodel.train.context import TrainingContext
from gemmodel.train.train import train_model

def on_train_batch_end(self, batch, logs=None):
    batches.append(batch)
    if len(batches) == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)

TrainingCheckpoint.on_train_batch_end = on_train_batch_end
strategy, results = distribution.make_strategy(wanted, model="cnn"), {}
for name in trainings:
    keras.backend.clear_session()
    keras.utils.set_random_seed(settings.base.seed)
    batches = []
    cnn = replace(settings.model.cnn, dropout=0.5 if name.endswith("dropout") else 0.0)
    result = train_model(TrainingContext(
        replace(settings, model=replace(settings.model, name=name.split("-")[0], cnn=cnn)),
        *map(pathlib.Path, (split, augmented, features)), {}, checkpoints=pathlib.Path(name), strategy=strategy,
    ))
    weights = b"".join(value.tobytes() for value in result.model.get_weights()).hex()
    results[name] = {"devices": strategy.num_replicas_in_sync, "batches": len(batches), "weights": weights}
    results[name]["history"] = result.history
print("results", json.dumps(results))
"""
STAGE = ["-m", "stages.train", *stage_options("train")]
KILLED_STAGE = """
import os, signal
from gemmodel.train.checkpoint import TrainingCheckpoint
from stages import command, train

batches = []

def on_train_batch_end(self, batch, logs=None):
    batches.append(batch)
    if len(batches) == 6:
        os.kill(os.getpid(), signal.SIGKILL)

TrainingCheckpoint.on_train_batch_end = on_train_batch_end
command(train.main)
"""
WAIT = """
from gemmodel import devices
from gemmodel.core import errors
from gemmodel.train import distribution

with errors.cli_errors("train"):
    distribution.make_strategy("auto", model="cnn", timeout=2)
"""
TIMEOUT_S = 300  # of a process, on a busy machine


def option(name: str) -> str:
    """Return the path that dvc.yaml gives an option of the train stage."""
    return STAGE[STAGE.index(f"--{name}") + 1]


def train(strategy: str, *networks: str, kill_at: int = -1) -> list[str]:
    """Return the arguments of Python that train networks, and kill the process after a number of batches."""
    folders = [option(name) for name in ("split", "augmented", "features")]
    return ["-c", TRAIN, strategy, str(kill_at), *folders, *networks]


class Hosts:
    """Two hosts of one training: a folder each, and addresses on loopback."""

    def __init__(self, python: str, folders: list[Path]) -> None:
        self.python, self.folders, self.processes = python, folders, list[subprocess.Popen[str]]()
        with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
            self.addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in (a, b)]

    def start(self, index: int, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `python <arguments>` as a worker."""
        config = {"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": index}}
        process = subprocess.Popen(
            [self.python, *arguments],
            cwd=self.folders[index],
            env=user_environment(TF_CONFIG=json.dumps(config), **variables),
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
    for part, counts in (("train", (15, 10, 5)), ("val", (3, 2, 2))):
        for i, (gem, count) in enumerate(zip(gems, counts, strict=True)):
            (folder / option("split") / part / gem).mkdir(parents=True)
            for seed in range(count):
                picture = draw(100 * i + 10 * count + seed, size=(32, 32), tint=(1 - i / 3, i / 3, 0.5))
                picture.save(folder / option("split") / part / gem / f"{seed}.png")
    for name in ("augmented", "features"):
        (folder / option(name)).mkdir(parents=True)
    (folder / option("hierarchy")).write_text(json.dumps({gem: gem for gem in gems}))
    write_params(folder, SETTINGS)
    return folder


def results(completed: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return what a process of `TRAIN` reports of each training."""
    assert completed.returncode == 0, completed.stderr
    by_name: dict[str, Any] = json.loads(completed.stdout.split("results ")[-1])
    return by_name


def assert_same_history(history: dict[str, list[float]], other: dict[str, list[float]]) -> None:
    """Compare each metric of each epoch; the accuracies must be the same, as one photo more changes them by 1/30."""
    assert history.keys() == other.keys()
    for name, values in history.items():
        assert len(values) == EPOCHS
        np.testing.assert_allclose(values, other[name], atol=TOLERANCE, err_msg=name)


@pytest.fixture(scope="module")
def one(project: Path, forked: Any) -> dict[str, Any]:
    """Train on one device, with augmentation on the fly and balanced classes."""
    return results(forked(*train("one", "cnn", "residual"), cwd=project))


@pytest.fixture(scope="module")
def two(project: Path, forked: Any) -> dict[str, Any]:
    """Train on two logical devices, once after a training that was killed in its second epoch."""
    killed = forked(*train("mirrored", "cnn-killed-dropout", kill_at=6), cwd=project)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    names = ("cnn", "residual", "cnn-killed-dropout", "cnn-whole-dropout")
    return results(forked(*train("mirrored", *names), cwd=project))


def test_two_devices_learn_what_one_does(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (one["cnn"]["devices"], two["cnn"]["devices"]) == (1, 2)
    assert one["cnn"]["batches"] == two["cnn"]["batches"] == EPOCHS * -(-PHOTOS // BATCH)
    assert_same_history(one["cnn"]["history"], two["cnn"]["history"])
    assert one["cnn"]["history"]["loss"][-1] < one["cnn"]["history"]["loss"][0]


def test_batch_norm_on_two_devices_uses_the_whole_batch(one: dict[str, Any], two: dict[str, Any]) -> None:
    a, b = one["residual"]["history"], two["residual"]["history"]
    np.testing.assert_allclose(a["loss"], b["loss"], atol=TOLERANCE)
    # The gradient of a bias before batch norm is rounding only, of which Adam makes whole steps. They change the moving
    # averages, which validation uses.
    np.testing.assert_allclose(a["val_loss"], b["val_loss"], atol=5e-3)


def test_a_killed_training_on_two_devices_ends_with_the_same_bits(two: dict[str, Any]) -> None:
    resumed, whole = two["cnn-killed-dropout"], two["cnn-whole-dropout"]
    assert (whole.pop("batches"), resumed.pop("batches")) == (8, 4)
    assert resumed == whole


@pytest.fixture
def hosts(project: Path, tmp_path: Path, forked_python: str) -> Iterator[Hosts]:
    """Two hosts with the same photos and settings, and no state of an earlier training."""
    folders = [tmp_path / "host0", tmp_path / "host1"]
    for folder in folders:
        shutil.copytree(project / "data", folder / "data")
        shutil.copy(project / "params.yaml", folder)
    with Hosts(forked_python, folders) as both:
        yield both


def contents(folder: Path) -> dict[Path, bytes]:
    """Return all files of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_hosts_resume_after_the_loss_of_one_and_learn_what_one_device_does(
    hosts: Hosts, one: dict[str, Any], refused: Any
) -> None:
    chief, other = hosts.folders
    (other / "dvc.yaml").write_text(f"stages: {{train: {{cmd: python {' '.join(STAGE)}}}}}\n")
    before = contents(other)
    processes = hosts.start(0, *STAGE), hosts.start(1, "-c", KILLED_STAGE, *STAGE[2:])
    outputs = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    assert processes[1].returncode == -signal.SIGKILL, outputs[1]
    completed = subprocess.CompletedProcess([], processes[0].returncode, *outputs[0])
    refused(completed, "train", f"worker 1 ({hosts.addresses[1]})", "was lost", "start all workers again")
    assert not (chief / option("out")).exists()
    assert len(list((chief / ".train-backup").rglob("*.pickle"))) == 1

    processes = hosts.start(0, *STAGE), hosts.start(1, "-m", "gemmodel.cli", "worker")
    outputs = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "worker 0 of 2, 2 devices together" in outputs[0][0]
    assert "Epoch 1/" not in outputs[0][0]  # it resumes after the first epoch
    assert contents(other) == before
    assert (chief / option("out") / "model.keras").exists()
    assert (chief / "mlflow.db").exists()
    assert not list((chief / ".train-backup").rglob("*.pickle"))
    with (chief / option("curves")).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curves = {
        prefix + name: [float(row[name]) for row in rows if row["curve"] == curve]
        for curve, prefix in (("training", ""), ("validation", "val_"))
        for name in ("loss", "accuracy")
    }
    assert_same_history(curves, one["cnn"]["history"])


def test_hosts_with_other_settings_do_not_train(hosts: Hosts, write_params: Any) -> None:
    write_params(hosts.folders[1], SETTINGS | {"train.label_smoothing": 0.2})
    processes = [hosts.start(i, *train("multiworker", "cnn")) for i in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 1
        assert f"DataError: worker 1 ({hosts.addresses[1]}): other settings" in error


def test_a_worker_that_does_not_start_is_named(hosts: Hosts, refused: Any) -> None:
    alone = hosts.start(0, "-c", WAIT)
    output = alone.communicate(timeout=TIMEOUT_S)
    completed = subprocess.CompletedProcess([], alone.returncode, *output)
    refused(completed, "train", f"worker 1 ({hosts.addresses[1]}) did not start within 2 seconds")


ONE_WORKER = '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": %d}}'
SECOND_OF_TWO = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'


@pytest.mark.parametrize(
    ("config", "wanted", "model", "message"),
    [
        ("{", "auto", "cnn", "it must look like"),
        (ONE_WORKER % 1, "auto", "cnn", "it must look like"),
        (ONE_WORKER % 0, "multiworker", "cnn", "no two"),
        (SECOND_OF_TWO, "auto", "fusion", "one device"),
        (SECOND_OF_TWO, "auto", "cnn", "gemmodel worker"),
        ("", "multiworker", "cnn", "no two"),
        ("", "mirrored", "fusion", "one device"),
        ("", "mirrored", "cnn", "one device"),
    ],
)
def test_a_strategy_that_is_not_possible_is_refused(
    monkeypatch: pytest.MonkeyPatch, config: str, wanted: str, model: str, message: str
) -> None:
    monkeypatch.setenv("TF_CONFIG", config)
    monkeypatch.setenv("DVC_STAGE", "train")
    with pytest.raises(errors.GemmodelError, match=message):
        distribution.make_strategy(wanted, model=model)
