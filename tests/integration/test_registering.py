"""The registry over several registrations: champions, former champions, killed and concurrent processes."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache as artifact_places
from PIL import Image

from gemmodel.core import files, hashing
from gemmodel.core.errors import GemmodelError, ModelError, TrackingError
from gemmodel.models import saving
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.metadata import ModelMetadata
from gemmodel.register import promotion, registration, registry_lock, version_files, versions
from gemmodel.tracking import runs
from stages import register

ROOT = Path(__file__).parents[2]
COLOURS = {"Emerald": (0.2, 1, 0.2), "Ruby": (1, 0.2, 0.2), "Sapphire": (0.2, 0.2, 1)}
GEMS = ["Ruby", "Emerald", "Sapphire"]  # in the order of the channels red, green and blue
PARTS = {"train": 4, "val": 2, "test": 8}  # photos per gem
OPTIONS = "--model models --predictions predictions.csv --train train --val val --test test --out decision.json"
STAGE = ["-m", "stages.register", *OPTIONS.split()]
KILLED = f"""
import os, signal
from gemmodel.register import versions
from stages import register
from pathlib import Path
versions.decide_and_promote = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
register.main(*map(Path, {OPTIONS.split()[1::2]}))
"""


@pytest.fixture(scope="module")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Saves a tiny model that classifies by colour, once for each factor of its weights, and returns its folder."""

    @cache
    def save(factor: float) -> Path:
        pixels = keras.Input((32, 32, 3))
        mean = keras.layers.GlobalAveragePooling2D()(pixels)
        network = keras.Model(pixels, keras.layers.Dense(3, "softmax", use_bias=False, name="gem")(mean))
        network.get_layer("gem").set_weights([factor * np.eye(3, dtype=np.float32)])
        reference = ReferenceSet(np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32), np.array(["1.png"] * 3))
        metadata = ModelMetadata(GEMS, {gem: gem for gem in GEMS}, Thresholds(0.9, 0.1, 1, 2.0), reference)
        saving.save(network, GEMS, folder := tmp_path_factory.mktemp("saved") / "models", metadata=metadata)
        return folder

    return save


@pytest.fixture(scope="module")
def write_project(draw: Any, write_params: Any, save_model: Callable[[float], Path]) -> Callable[..., Path]:
    """Makes a folder to register from: photos, a tiny model that classifies by colour, and its test predictions."""

    def write(root: Path, *, wrong: int = 0, model: float = 1.0, seed: int = 0, test: int = 1000, **rule: Any) -> Path:
        """`wrong` is the number of wrong predictions; `seed` and `test` determine which photos there are."""
        root.mkdir()
        write_params(root, {f"register.{key}": value for key, value in rule.items()})
        for part, photos in PARTS.items():
            first = test if part == "test" else seed + 100 * len(part)
            for gem, tint in COLOURS.items():
                (root / part / gem).mkdir(parents=True)
                for i in range(first, first + photos):
                    draw(1 + i + 10_000 * GEMS.index(gem), size=(48, 48), tint=tint).save(
                        root / part / gem / f"{i}.png"
                    )
        shutil.copytree(save_model(model), root / "models")
        write_predictions(root, wrong)
        return root

    return write


@pytest.fixture
def make_project(tmp_path: Path, write_project: Callable[..., Path]) -> Callable[..., Path]:
    """Makes a folder to register from, of a name, as `write_project` does."""
    return lambda name, **options: write_project(tmp_path / name, **options)


def write_predictions(root: Path, wrong: int) -> None:
    rows = [
        (path.relative_to(root / "test").as_posix(), gem) for gem in COLOURS for path in (root / "test" / gem).iterdir()
    ]
    predicted = ["Onyx" if i < wrong else gem for i, (_, gem) in enumerate(sorted(rows))]
    lines = [f"{file},{gem}" for (file, _), gem in zip(sorted(rows), predicted, strict=True)]
    (root / "predictions.csv").write_text("\n".join(["file,predicted", *lines]) + "\n")


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store in a file, shared by all folders of a test."""
    before, uri = mlflow.get_tracking_uri(), f"sqlite:///{(tmp_path / 'runs.db').as_posix()}"
    shutil.copy(empty_store, tmp_path / "runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(registry_lock, "HEARTBEAT_S", 0.4)
    monkeypatch.setattr(registry_lock, "LOCK_TIMEOUT_S", 2.0)
    yield uri
    mlflow.set_tracking_uri(before)


def register_model(root: Path) -> dict[str, Any]:
    """Registers the model of a folder, the working directory, and returns the decision."""
    register.main(*map(Path, OPTIONS.split()[1::2]))
    return files.read_json(root / "decision.json")


@pytest.fixture
def registered(store: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, Any]]:
    """Registers the model of a folder, and returns the decision."""

    def run(root: Path) -> dict[str, Any]:
        monkeypatch.chdir(root)
        return register_model(root)

    return run


@pytest.fixture(scope="module")
def with_first(tmp_path_factory: pytest.TempPathFactory, write_project: Callable[..., Path], empty_store: Path) -> Path:
    """A store, and beside it the folder `first`, whose model, a third of its predictions wrong, is registered there."""
    folder, before = tmp_path_factory.mktemp("registry"), mlflow.get_tracking_uri()
    shutil.copy(empty_store, folder / "runs.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / 'runs.db').as_posix()}")
        patch.chdir(root := write_project(folder / "first", wrong=8))
        register_model(root)
    mlflow.set_tracking_uri(before)
    return folder.rename(folder.with_name("moved"))  # so that no copy uses these artefacts


@pytest.fixture
def first(with_first: Path, store: str, tmp_path: Path) -> Path:
    """The folder of a model that is the only version in a store of the test's own, and champion."""
    shutil.copytree(with_first, tmp_path, dirs_exist_ok=True)
    artifact_places.clear()  # of the runs and models in the former place
    with runs.mlflow_store():  # corrects the locations in the store
        return tmp_path / "first"


def aliases() -> dict[str, str]:
    registered = mlflow.MlflowClient().get_registered_model("gemstones")
    return {name: str(version) for name, version in registered.aliases.items()}


def tags(number: str) -> dict[str, str]:
    return dict(mlflow.MlflowClient().get_model_version("gemstones", number).tags)


def tickets() -> list[Any]:
    return list(mlflow.MlflowClient().search_model_versions("name = 'gemstones-queue'"))


def test_only_a_model_that_is_better_by_the_test_is_champion(first: Path, make_project: Any, registered: Any) -> None:
    former = files.read_json(first / "decision.json")
    assert (former["champion"], former["reason"]) == (True, "first model of this name")
    assert former["accuracy"] == pytest.approx(16 / 24, abs=1e-6)
    luck = registered(make_project("luck", wrong=5, model=2.0))  # three gained: p = 0.25
    assert (luck["champion"], luck["gained"], luck["lost"], luck["p_value"]) == (False, 3, 0, 0.25)
    assert aliases() == {"challenger": "2", "champion": "1"}
    better = registered(make_project("better", wrong=1, model=3.0))  # seven gained: p = 2 / 2^7
    assert (better["champion"], better["gained"], better["p_value"]) == (True, 7, 0.015625)
    assert better["champion_sha256"] == former["model_sha256"]
    assert aliases() == {"challenger": "3", "champion": "3"}
    for number, decision in (("1", former), ("2", luck), ("3", better)):
        stored = tags(number)
        hashes = {f"{table}.sha256" for table in (version_files.TRAINING_SET, version_files.TEST_PREDICTIONS)}
        assert set(stored) == {*decision, "decision", registration.FILES_TAG, *hashes}  # `pending` is gone
        assert json.loads(stored["decision"]) == decision
        assert {key: stored[key] for key in decision} == {key: str(value) for key, value in decision.items()}
    assert tickets() == []
    assert [model.name for model in mlflow.MlflowClient().search_registered_models()] == ["gemstones"]


def test_a_network_is_logged_as_the_checkpoint_of_its_best_epoch(
    make_project: Any, registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_project("network")
    monkeypatch.chdir(root)
    sha256 = hashing.sha256(root / "models" / "model.keras")
    datasets = {part: Path(part) for part in ("train", "val")}
    with runs.training_run("cnn, 3 gems, 18 photos", {"train": {"epochs": 3}}, datasets, device="cpu") as log:
        for epoch, loss in enumerate((0.9, 0.4, 0.6)):
            log.log_epoch(epoch, {"loss": loss / 2, "val_loss": loss})
        log.finish(
            sha256, runs.MODEL_TAG, {"best_epoch": 1, "best_val_loss": 0.4}, root / "test" / GEMS[0] / "1000.png"
        )
    registered(root)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("gemstones")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.{runs.MODEL_TAG} = '{sha256}'")
    (output,) = run.outputs.model_outputs
    (checkpoint,) = client.search_logged_models([experiment.experiment_id], "metrics.`val/loss` < 0.5")
    assert (output.model_id, output.step) == (checkpoint.model_id, 1)
    linked = {metric.key: (metric.step, metric.value, metric.dataset_name) for metric in checkpoint.metrics}
    assert (linked["train/loss"], linked["val/loss"]) == ((1, 0.2, "train"), (1, 0.4, "val"))


def test_a_decision_is_repeated_until_the_rule_or_the_test_part_changes(
    first: Path, make_project: Any, registered: Any, write_params: Any
) -> None:
    root = make_project("luck", wrong=5, model=2.0)
    before = registered(root)
    assert registered(root) == before
    write_params(root, {"register.significance": 1.0})
    assert registered(root)["champion"] is True
    assert aliases() == {"challenger": "2", "champion": "2"}


def test_a_champion_that_was_deleted_by_hand_is_registered_again(
    first: Path, registered: Any, forked: Any, refused: Any, store: str
) -> None:
    client, decision = mlflow.MlflowClient(), files.read_json(first / "decision.json")
    for number, delete in (
        ("1", lambda: client.delete_registered_model_alias("gemstones", "champion")),
        ("2", lambda: client.delete_model_version("gemstones", "1")),
    ):
        delete()
        ended = forked("-m", "gemmodel.cli", "predict", "test", cwd=first, MLFLOW_TRACKING_URI=store)
        refused(ended, "gemmodel", "gemstones has no champion; `gemmodel register` makes one")
        assert registered(first) == decision
        assert aliases() == {"challenger": number, "champion": number}


def test_the_same_network_with_other_thresholds_is_another_version(first: Path, registered: Any) -> None:
    shutil.copytree(first, second := first.parent / "second")
    thresholds = second / "models" / "thresholds.json"
    files.write_json(thresholds, files.read_json(thresholds) | {"set_threshold": 0.2})
    hashing.write_hashes(second / "models")
    decision = registered(second)
    assert (decision["champion"], decision["gained"], decision["lost"]) == (False, 0, 0)
    assert tags("1")["model_sha256"] == tags("2")["model_sha256"]
    assert aliases() == {"challenger": "2", "champion": "1"}
    for root, number in ((first, "1"), (second, "2"), (first, "1")):  # each is found again
        registered(root)
        assert len(mlflow.MlflowClient().search_model_versions("name = 'gemstones'")) == 2
        [version] = registration.find("gemstones", registration.identity(root / "models"))
        assert str(version.version) == number


def test_a_version_without_the_hash_of_all_files_is_found_by_its_network(first: Path, registered: Any) -> None:
    mlflow.MlflowClient().delete_model_version_tag("gemstones", "1", registration.FILES_TAG)
    assert registered(first) == files.read_json(first / "decision.json")
    assert len(mlflow.MlflowClient().search_model_versions("name = 'gemstones'")) == 1


def test_a_champion_predicts_new_test_photos_itself(first: Path, make_project: Any, registered: Any) -> None:
    other = make_project("other", wrong=1, model=2.0, test=2000)
    for gem, wrong in (("Ruby", "Sapphire"), ("Emerald", "Ruby")):  # photos whose colour is another gem's
        for path in sorted((other / "test" / wrong).iterdir())[:4]:
            path.rename(other / "test" / gem / f"really {wrong} {path.name}")
    write_predictions(other, 1)
    decision = registered(other)
    assert decision["champion_accuracy"] == pytest.approx(16 / 24, abs=1e-6)
    assert (decision["gained"], decision["lost"]) in ((8, 1), (7, 0))
    stored = version_files.load_table(versions.get("gemstones", "1"), version_files.TEST_PREDICTIONS)
    assert stored is not None and len(stored) == 48  # so that no later decision has to predict them again


def test_a_champion_trained_on_test_photos_stays_champion(first: Path, make_project: Any, registered: Any) -> None:
    leaky = make_project("leaky", model=2.0, seed=5000)  # other training photos
    (leaky / "test" / "Ruby" / "same.png").write_bytes((first / "val" / "Ruby" / "300.png").read_bytes())
    shrunk = Image.open(first / "train" / "Ruby" / "500.png").resize((40, 40))
    shrunk.save(leaky / "test" / "Ruby" / "smaller.png")
    write_predictions(leaky, 0)
    decision = registered(leaky)
    assert (decision["champion"], decision["leaked_test_photos"]) == (False, 2)
    assert "was trained on 2 of the 26 test photos" in decision["reason"]
    assert aliases() == {"challenger": "2", "champion": "1"}


def test_a_champion_without_recorded_training_photos_stays_champion(
    first: Path, make_project: Any, registered: Any, tmp_path: Path
) -> None:
    (table,) = tmp_path.rglob("mlruns/**/training_fingerprints.csv")
    table.unlink()
    decision = registered(make_project("second", model=2.0))
    assert decision["champion"] is False
    assert "training photos are not recorded" in decision["reason"]


def test_a_champion_that_does_not_load_stays_champion(
    first: Path, make_project: Any, registered: Any, tmp_path: Path
) -> None:
    for path in tmp_path.rglob("mlruns/**/model.tflite"):
        path.write_bytes(b"damaged")
    decision = registered(make_project("second", model=2.0, test=2000))
    assert decision["champion"] is False
    assert "fails to predict" in decision["reason"]


def test_promote_and_rollback_by_hand(
    first: Path, make_project: Any, registered: Any, forked: Any, refused: Any, store: str
) -> None:
    def gemmodel(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forked("-m", "gemmodel.cli", *arguments, cwd=first, MLFLOW_TRACKING_URI=store)

    with pytest.raises(TrackingError, match="no version was champion before 1"):
        versions.rollback("gemstones")
    with pytest.raises(TrackingError, match="no version is champion"):
        versions.rollback("cats")
    with pytest.raises(TrackingError, match="no version 2"):
        versions.promote("gemstones", "2")
    refused(gemmodel("promote", "best"), "gemmodel", "no version best")
    registered(make_project("second", wrong=8, model=2.0))
    registered(make_project("third", wrong=8, model=3.0))
    assert aliases() == {"challenger": "3", "champion": "1"}
    client = mlflow.MlflowClient()
    for number in "123":
        client.update_model_version("gemstones", number, f"card {number}")
    for command, message, card in (
        (("promote", "3"), "version 3 is champion now, in place of 1", "card 3"),
        (("rollback",), "version 1 is champion again, in place of 3", "card 1"),
    ):
        ended = gemmodel(*command)
        assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", f"gemstones: {message}\n")
        assert client.get_registered_model("gemstones").description == card
    assert aliases() == {"challenger": "3", "champion": "1"}
    for number, message in (("2", "now, in place of 1"), ("2", "already"), ("3", "now, in place of 2")):
        assert versions.promote("gemstones", number) == f"gemstones: version {number} is champion {message}"
    assert versions.rollback("gemstones").endswith("version 2 is champion again, in place of 3")
    assert versions.rollback("gemstones").endswith("version 1 is champion again, in place of 2")
    with pytest.raises(TrackingError, match="nothing to roll back to"):
        versions.rollback("gemstones")


def test_the_registry_neither_needs_nor_makes_an_experiment(first: Path, forked: Any, store: str) -> None:
    client = mlflow.MlflowClient()
    client.delete_experiment(client.get_experiment_by_name("gemstones").experiment_id)
    for experiment in ("gemstones", "another"):
        for command in (("promote", "1"), ("predict", "test")):
            variables = {"MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": experiment}
            ended = forked("-m", "gemmodel.cli", *command, cwd=first, **variables)
            assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    found = client.search_experiments(mlflow.entities.ViewType.ALL)
    assert {experiment.name: experiment.lifecycle_stage for experiment in found} == {
        "Default": "active", "gemstones": "deleted"
    }  # fmt: skip


def test_a_process_killed_after_registering_blocks_no_other(
    make_project: Any, registered: Any, forked: Any, store: str
) -> None:
    root = make_project("first")
    ended = forked("-c", KILLED, cwd=root, MLFLOW_TRACKING_URI=store)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    mlflow.set_tracking_uri(store)
    assert aliases() == {}
    assert len(tickets()) == 1
    assert registered(root)["champion"] is True
    assert aliases() == {"challenger": "1", "champion": "1"}
    assert tickets() == []


@pytest.mark.parametrize("last", ["pending", "former_champions", "champion", "reason"])
def test_an_interrupted_decision_is_completed(
    first: Path, make_project: Any, registered: Any, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    root = make_project("better", wrong=1, model=3.0)

    def interrupt(method: str, position: int) -> None:
        done = getattr(mlflow.MlflowClient, method)

        def call(self: Any, *arguments: Any) -> None:
            done(self, *arguments)
            if arguments[position] == last:
                raise KeyboardInterrupt

        patch.setattr(mlflow.MlflowClient, method, call)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt("set_registered_model_alias", 1)
        interrupt("set_registered_model_tag", 1)
        interrupt("set_model_version_tag", 2)
        registered(root)
    decision = registered(root)
    assert (decision["champion"], decision["gained"]) == (True, 7)
    assert json.loads(tags("2")["decision"]) == decision
    assert aliases() == {"challenger": "2", "champion": "2"}
    assert versions.rollback("gemstones") == "gemstones: version 1 is champion again, in place of 2"


def test_a_process_that_lost_the_lock_changes_no_alias(
    first: Path, make_project: Any, registered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = promotion.decide

    def decide_slowly(*arguments: Any, **options: Any) -> Any:
        (ticket,) = tickets()
        mlflow.MlflowClient().delete_model_version("gemstones-queue", ticket.version)
        return decide(*arguments, **options)

    monkeypatch.setattr(promotion, "decide", decide_slowly)
    with pytest.raises(TrackingError, match="lost the registry's lock"):
        registered(make_project("better", wrong=1, model=3.0))
    assert aliases() == {"challenger": "1", "champion": "1"}


@pytest.mark.parametrize("dead", [0, 1])
def test_the_lock_is_held_by_one_process_at_a_time(
    store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dead: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with runs.mlflow_store(), mlflow.start_run() as run:
        client, run_id = mlflow.MlflowClient(), run.info.run_id
        client.create_registered_model("gemstones", tags={"count": "0"})
        client.create_registered_model("gemstones-queue")
        for _ in range(dead):
            client.create_model_version("gemstones-queue", f"runs:/{run_id}/ticket", run_id)

        def count(_: int) -> None:
            with registry_lock.registry_lock("gemstones", run_id) as check_held:
                before = int(client.get_registered_model("gemstones").tags["count"])
                check_held()
                client.set_registered_model_tag("gemstones", "count", str(before + 1))

        with ThreadPoolExecutor(6) as together:
            list(together.map(count, range(12)))
        assert client.get_registered_model("gemstones").tags["count"] == "12"
        assert tickets() == []


@pytest.fixture
def server(tmp_path: Path, empty_store: Path, forked_python: str) -> Iterator[str]:
    """An MLflow server that keeps the artefacts, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "server").mkdir()
    shutil.copy(empty_store, tmp_path / "server" / "s.db")
    options = f"--workers 1 --port {port} --backend-store-uri sqlite:///s.db --artifacts-destination artifacts".split()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    with (tmp_path / "server" / "log").open("w") as log:
        process = subprocess.Popen(
            [forked_python, "-m", "mlflow", "server", *options],
            cwd=tmp_path / "server",
            env=kept | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "no_proxy": "*"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    before, address = mlflow.get_tracking_uri(), f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            try:
                opener.open(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            raise AssertionError((tmp_path / "server" / "log").read_text())
        mlflow.set_tracking_uri(address)
        yield address
    finally:
        mlflow.set_tracking_uri(before)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("where", ["server", "store"])
def test_clones_that_register_at_once_make_a_version_per_model_and_the_better_champion(
    make_project: Any, tmp_path: Path, where: str, request: pytest.FixtureRequest, forked_python: str
) -> None:
    address = request.getfixturevalue(where)
    (tmp_path / "runs.db").unlink(missing_ok=True)  # the three make it
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment = kept | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": address, "no_proxy": "*"}
    roots = [make_project("worse", wrong=9), make_project("better", wrong=1, model=3.0), tmp_path / "clone"]
    shutil.copytree(roots[1], roots[2])
    processes = [
        subprocess.Popen(
            [forked_python, *STAGE],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for root in roots
    ]
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output
        assert "Traceback" not in output
    mlflow.set_tracking_uri(address)
    assert len(mlflow.MlflowClient().search_model_versions("name = 'gemstones'")) == 2
    [experiment] = mlflow.search_experiments(filter_string="name = 'gemstones'")
    assert not mlflow.MlflowClient().search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
    decisions = [files.read_json(root / "decision.json") for root in roots]
    versions_by_model = {tags(number)["model_sha256"]: number for number in ("1", "2")}
    worse, better, clone = (versions_by_model[decision["model_sha256"]] for decision in decisions)
    assert (clone, decisions[2]) == (better, decisions[1])
    assert aliases() == {"challenger": "2", "champion": better}
    for number, decision in ((worse, decisions[0]), (better, decisions[1])):
        assert json.loads(tags(number)["decision"]) == decision
    assert decisions[1]["champion"] is True
    former = mlflow.MlflowClient().get_registered_model("gemstones").tags.get("former_champions", "")
    if worse == "1":  # it was the first, then beaten
        assert (decisions[0]["champion"], decisions[1]["gained"], former) == (True, 8, "1")
    else:
        assert (decisions[0]["champion"], decisions[0]["lost"], former) == (False, 8, "")
    assert tickets() == []


def artifacts() -> Path:
    """Return the folder in which the store keeps the files of its only version."""
    [folder] = Path(mlflow.get_tracking_uri().removeprefix("sqlite:///")).parent.glob("mlruns/models/*/artifacts")
    return folder


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "gone" or not content:
        path.unlink()
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])


def test_files_of_a_version_that_are_gone_or_damaged_are_named_and_uploaded_again(
    first: Path, registered: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, decision = artifacts(), files.read_json(first / "decision.json")
    whole = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hashed = [name for name in whole if not (name.startswith("code/") or name.endswith((".csv", "/sha256.json")))]
    hashed.append("code/gemmodel/serve/predictor.py")
    assert {"MLmodel", "artifacts/models/model.tflite", hashed[-1]} <= set(whole)
    for i, name in enumerate(hashed):  # what `gemmodel serve` asks
        damage(folder / name, ("flipped", "cut", "gone")[i % 3])
        if name != "sha256.json":
            with pytest.raises(ModelError, match=rf"^{re.escape(str(folder / name))}: .*`gemmodel register`"):
                hashing.check(folder)
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(whole[name])
    for name, kind in (
        ("MLmodel", "gone"), ("artifacts/models/model.tflite", "flipped"), ("sha256.json", "cut"),
        ("sha256.json", "gone"), ("artifacts/models/sha256.json", "gone"), ("", "gone"),
    ):  # fmt: skip
        if name:
            damage(folder / name, kind)
        else:
            shutil.rmtree(folder)
        capsys.readouterr()
        assert registered(first) == decision
        line = capsys.readouterr().out.splitlines()[0]
        assert line.startswith(f"register: gemstones version 1: {name or 'its files'}")
        assert line.endswith("; its files were uploaded again")
        hashing.check(folder)
    again = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert again == set(whole)
    assert aliases() == {"challenger": "1", "champion": "1"}


def test_a_version_without_its_logged_model_is_registered_anew(first: Path, store: str, forked: Any) -> None:
    shutil.rmtree(artifacts())
    with sqlite3.connect(store.removeprefix("sqlite:///")) as database:  # as `mlflow gc` leaves it
        database.execute("delete from logged_models")
    ended = forked(*STAGE, cwd=first, MLFLOW_TRACKING_URI=store)  # a new process: MLflow remembers where the files were
    assert ended.returncode == 0, ended.stderr
    assert "version 2: the champion fails to predict (its files are not there)" in ended.stdout
    assert aliases() == {"challenger": "2", "champion": "1"}


@pytest.mark.parametrize("file", [version_files.TEST_PREDICTIONS, version_files.TRAINING_SET])
def test_damaged_tables_of_a_version_are_not_used_and_written_again(
    first: Path, registered: Any, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    path, decision = artifacts() / file, files.read_json(first / "decision.json")
    whole = path.read_bytes()
    for kind in ("flipped", "cut", "gone"):
        damage(path, kind)
        assert registered(first) == decision
        assert (f"version 1: {file} is damaged, so it is not used" in capsys.readouterr().out) == (kind != "gone")
        assert path.read_bytes() == whole


def test_a_damaged_model_is_refused_before_anything_is_registered(
    make_project: Any, store: str, empty_store: Path, forked: Any, refused: Any
) -> None:
    root = make_project("first")
    whole = {path.name: path.read_bytes() for path in (root / "models").iterdir()}
    for i, name in enumerate(whole):
        damage(root / "models" / name, ("flipped", "cut", "gone")[i % 3] if name != "sha256.json" else "cut")
        with pytest.raises(ModelError, match=rf"models/{name}: .*`dvc checkout --force` restores models/"):
            register.main(*(root / path for path in OPTIONS.split()[1::2]), root / "params.yaml")
        with pytest.raises(GemmodelError, match=r"models"):
            saving.load(root / "models")  # as evaluate and explain do
        (root / "models" / name).write_bytes(whole[name])
    assert Path(store.removeprefix("sqlite:///")).read_bytes() == empty_store.read_bytes()
    damage(root / "models" / "input.json", "flipped")
    refused(forked(*STAGE, cwd=root, MLFLOW_TRACKING_URI=store), "register", "models/input.json: damaged")
