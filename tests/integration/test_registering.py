"""The registry over several registrations: who is champion, who was, and what a killed or a second process leaves."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pytest
from PIL import Image

from gemmodel.core import files
from gemmodel.core.errors import TrackingError
from gemmodel.models import saving
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.metadata import ModelMetadata
from gemmodel.register import registry_lock, versions
from gemmodel.tracking import runs
from stages import register

ROOT = Path(__file__).parents[2]
COLOURS = {"Emerald": (0.2, 1, 0.2), "Ruby": (1, 0.2, 0.2), "Sapphire": (0.2, 0.2, 1)}
GEMS = ["Ruby", "Emerald", "Sapphire"]  # as the mean of red, green and blue tells them
PARTS = {"train": 4, "val": 2, "test": 8}  # photos a gem
OPTIONS = "--model models --predictions answers.csv --train train --val val --test test --out decision.json"
STAGE = [sys.executable, "-m", "stages.register", *OPTIONS.split()]
KILLED = f"""
import os, signal
from gemmodel.delivery import versions
from stages import register
from pathlib import Path
versions.settle = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
register.main(*map(Path, {OPTIONS.split()[1::2]}))
"""


@pytest.fixture
def place(tmp_path: Path, draw: Any, write_params: Any) -> Callable[..., Path]:
    """Make a folder to register in: photos, a tiny model that tells gems by colour, and its answers in the test."""

    def make(name: str, *, wrong: int = 0, model: float = 1.0, seed: int = 0, test: int = 1000, **rule: Any) -> Path:
        """`wrong` is how many test photos it does not know; `seed` and `test` say which photos there are."""
        root = tmp_path / name
        root.mkdir()
        write_params(root, {f"register.{key}": value for key, value in rule.items()})
        for part, number in PARTS.items():
            first = test if part == "test" else seed + 100 * len(part)
            for gem, tint in COLOURS.items():
                (root / part / gem).mkdir(parents=True)
                for n in range(first, first + number):
                    draw(1 + n + 10_000 * GEMS.index(gem), size=(48, 48), tint=tint).save(
                        root / part / gem / f"{n}.png"
                    )
        pixels = keras.Input((32, 32, 3))
        mean = keras.layers.GlobalAveragePooling2D()(pixels)
        network = keras.Model(pixels, keras.layers.Dense(3, "softmax", use_bias=False, name="gem")(mean))
        network.get_layer("gem").set_weights([model * np.eye(3, dtype=np.float32)])
        known = ReferenceSet(np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32), np.array(["1.png"] * 3))
        knowledge = ModelMetadata(GEMS, {gem: gem for gem in GEMS}, Thresholds(0.9, 0.1, 1, 2.0), known)
        saving.save(network, GEMS, root / "models", knowledge=knowledge)
        answer(root, wrong)
        return root

    return make


def answer(root: Path, wrong: int) -> None:
    rows = [
        (path.relative_to(root / "test").as_posix(), gem) for gem in COLOURS for path in (root / "test" / gem).iterdir()
    ]
    told = ["Onyx" if number < wrong else gem for number, (_, gem) in enumerate(sorted(rows))]
    lines = [f"{file},{gem}" for (file, _), gem in zip(sorted(rows), told, strict=True)]
    (root / "answers.csv").write_text("\n".join(["file,predicted", *lines]) + "\n")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store in a file, shared by all folders of a test."""
    before, uri = mlflow.get_tracking_uri(), f"sqlite:///{(tmp_path / 'runs.db').as_posix()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(registry_lock, "BEAT", 0.2)
    monkeypatch.setattr(registry_lock, "PATIENCE", 2.0)
    yield uri
    mlflow.set_tracking_uri(before)


@pytest.fixture
def registered(store: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, Any]]:
    """Register the model of a folder, and return the decision."""

    def run(root: Path) -> dict[str, Any]:
        monkeypatch.chdir(root)
        register.main(*map(Path, OPTIONS.split()[1::2]))
        return files.read_json(root / "decision.json")

    return run


def aliases() -> dict[str, str]:
    found = mlflow.MlflowClient().get_registered_model("gemstones").aliases
    return {name: str(number) for name, number in found.items()}


def tags(number: str) -> dict[str, str]:
    return dict(mlflow.MlflowClient().get_model_version("gemstones", number).tags)


def tickets() -> list[Any]:
    return list(mlflow.MlflowClient().search_model_versions("name = 'gemstones-queue'"))


def test_only_a_model_that_is_better_by_the_test_is_champion(place: Any, registered: Any) -> None:
    first = registered(place("first", wrong=8))
    assert (first["champion"], first["reason"]) == (True, "first model of this name")
    assert first["accuracy"] == pytest.approx(16 / 24, abs=1e-6)
    luck = registered(place("luck", wrong=5, model=2.0))  # three gained: p = 0.25
    assert (luck["champion"], luck["gained"], luck["lost"], luck["p_value"]) == (False, 3, 0, 0.25)
    assert aliases() == {"challenger": "2", "champion": "1"}
    better = registered(place("better", wrong=1, model=3.0))  # seven gained: p = 2 / 2^7
    assert (better["champion"], better["gained"], better["p_value"]) == (True, 7, 0.015625)
    assert better["champion_sha256"] == first["model_sha256"]
    assert aliases() == {"challenger": "3", "champion": "3"}
    for number, decision in (("1", first), ("2", luck), ("3", better)):
        found = tags(number)
        assert json.loads(found["decision"]) == decision
        assert {key: found[key] for key in decision} == {key: str(value) for key, value in decision.items()}
    assert tickets() == []


def test_a_decision_stands_until_the_rule_or_the_test_part_changes(
    place: Any, registered: Any, write_params: Any
) -> None:
    registered(place("first", wrong=8))
    root = place("luck", wrong=5, model=2.0)
    before = registered(root)
    assert registered(root) == before
    write_params(root, {"register.significance": 1.0})
    assert registered(root)["champion"] is True
    assert aliases() == {"challenger": "2", "champion": "2"}


def test_a_champion_answers_new_test_photos_itself(place: Any, registered: Any, store: str) -> None:
    champion = place("first", wrong=0)
    registered(champion)
    other = place("other", wrong=1, model=2.0, test=2000)
    for gem, wrong in (("Ruby", "Sapphire"), ("Emerald", "Ruby")):  # photos whose colour is another gem's
        for path in sorted((other / "test" / wrong).iterdir())[:4]:
            path.rename(other / "test" / gem / f"really {wrong} {path.name}")
    answer(other, 1)
    decision = registered(other)
    assert decision["champion_accuracy"] == pytest.approx(16 / 24, abs=1e-6)
    assert (decision["gained"], decision["lost"]) in ((8, 1), (7, 0))
    kept = versions._load_table(versions.get("gemstones", "1"), "answers.csv")
    assert kept is not None and len(kept) == 48  # so that nobody need ask again


def test_a_champion_that_learnt_from_the_test_photos_keeps_its_title(place: Any, registered: Any) -> None:
    registered(place("first", wrong=24))
    leaky = place("leaky", model=2.0, seed=5000)  # other photos to learn from
    (leaky / "test" / "Ruby" / "known.png").write_bytes(
        (leaky.parent / "first" / "val" / "Ruby" / "300.png").read_bytes()
    )
    shrunk = Image.open(leaky.parent / "first" / "train" / "Ruby" / "500.png").resize((40, 40))
    shrunk.save(leaky / "test" / "Ruby" / "smaller.png")
    answer(leaky, 0)
    decision = registered(leaky)
    assert (decision["champion"], decision["leaked_test_photos"]) == (False, 2)
    assert "learnt from 2 of the 26 test photos" in decision["reason"]
    assert aliases() == {"challenger": "2", "champion": "1"}


def test_a_champion_that_is_not_of_this_project_keeps_its_title(place: Any, registered: Any, monkeypatch: Any) -> None:
    registered(place("first", wrong=24))
    monkeypatch.setattr(versions, "LEARNT_FROM", "other.csv")
    decision = registered(place("second", model=2.0))
    assert decision["champion"] is False
    assert "is not known" in decision["reason"]


def test_a_champion_that_does_not_load_keeps_its_title(place: Any, registered: Any, tmp_path: Path) -> None:
    registered(place("first", wrong=24))
    for path in tmp_path.rglob("mlruns/**/model.tflite"):
        path.write_bytes(b"damaged")
    decision = registered(place("second", model=2.0, test=2000))
    assert decision["champion"] is False
    assert "does not answer" in decision["reason"]


def test_people_promote_and_roll_back(place: Any, registered: Any, run: Any, refused: Any, store: str) -> None:
    def gemmodel(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("-m", "gemmodel.cli", *arguments, cwd=root, MLFLOW_TRACKING_URI=store)

    root = place("first", wrong=2)
    registered(root)
    with pytest.raises(TrackingError, match="no version was champion before 1"):
        versions.rollback("gemstones")
    with pytest.raises(TrackingError, match="no version is champion"):
        versions.rollback("cats")
    with pytest.raises(TrackingError, match="no version 2"):
        versions.promote("gemstones", "2")
    refused(gemmodel("promote", "best"), "gemmodel", "no version best")
    registered(place("second", wrong=2, model=2.0))
    registered(place("third", wrong=2, model=3.0))
    assert aliases() == {"challenger": "3", "champion": "1"}
    client = mlflow.MlflowClient()
    for number in "123":
        client.update_model_version("gemstones", number, f"card {number}")
    for command, told, card in (
        (("promote", "3"), "version 3 is champion now, in place of 1", "card 3"),
        (("rollback",), "version 1 is champion again, in place of 3", "card 1"),
    ):
        ended = gemmodel(*command)
        assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", f"gemstones: {told}\n")
        assert client.get_registered_model("gemstones").description == card
    assert aliases() == {"challenger": "3", "champion": "1"}
    for number, told in (("2", "now, in place of 1"), ("2", "already"), ("3", "now, in place of 2")):
        assert versions.promote("gemstones", number) == f"gemstones: version {number} is champion {told}"
    assert versions.rollback("gemstones").endswith("version 2 is champion again, in place of 3")
    assert versions.rollback("gemstones").endswith("version 1 is champion again, in place of 2")
    with pytest.raises(TrackingError, match="nothing to go back to"):
        versions.rollback("gemstones")


def test_a_process_killed_after_registering_holds_up_nobody(place: Any, registered: Any, run: Any, store: str) -> None:
    root = place("first")
    ended = run("-c", KILLED, cwd=root, MLFLOW_TRACKING_URI=store)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    mlflow.set_tracking_uri(store)
    assert aliases() == {}
    assert len(tickets()) == 1
    assert registered(root)["champion"] is True
    assert aliases() == {"challenger": "1", "champion": "1"}
    assert tickets() == []


@pytest.mark.parametrize("last", ["pending", "former_champions", "champion", "reason"])
def test_an_interrupted_decision_is_made_whole(
    place: Any, registered: Any, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    registered(place("first", wrong=8))
    root = place("better", wrong=1, model=3.0)

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


def test_whoever_lost_the_turn_changes_no_title(place: Any, registered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(place("first", wrong=8))

    def long(*arguments: Any) -> Any:
        (ticket,) = tickets()
        mlflow.MlflowClient().delete_model_version("gemstones-queue", ticket.version)
        return verdict(*arguments)

    verdict = versions._verdict
    monkeypatch.setattr(versions, "_verdict", long)
    with pytest.raises(TrackingError, match="lost its turn"):
        registered(place("better", wrong=1, model=3.0))
    assert aliases() == {"challenger": "1", "champion": "1"}


@pytest.mark.parametrize("dead", [0, 1])
def test_turns_are_taken_one_at_a_time(store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dead: int) -> None:
    monkeypatch.chdir(tmp_path)
    with runs.mlflow_store(), mlflow.start_run() as run:
        client, run_id = mlflow.MlflowClient(), run.info.run_id
        client.create_registered_model("gemstones", tags={"turns": "0"})
        client.create_registered_model("gemstones-queue")
        for _ in range(dead):
            client.create_model_version("gemstones-queue", f"runs:/{run_id}/turn", run_id)

        def count(_: int) -> None:
            with registry_lock.registry_lock("gemstones", run_id) as confirm:
                before = int(client.get_registered_model("gemstones").tags["turns"])
                confirm()
                client.set_registered_model_tag("gemstones", "turns", str(before + 1))

        with ThreadPoolExecutor(6) as together:
            list(together.map(count, range(12)))
        assert client.get_registered_model("gemstones").tags["turns"] == "12"
        assert tickets() == []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An MLflow server that keeps the artefacts, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "server").mkdir()
    options = f"--workers 1 --port {port} --backend-store-uri sqlite:///s.db --artifacts-destination artifacts".split()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    with (tmp_path / "server" / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            cwd=tmp_path / "server",
            env=kept | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "no_proxy": "*"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    before, address = mlflow.get_tracking_uri(), f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        while process.poll() is None:
            try:
                opener.open(f"{address}/health", timeout=5).close()
                break
            except OSError:
                continue
        assert process.poll() is None, (tmp_path / "server" / "log").read_text()
        mlflow.set_tracking_uri(address)
        yield address
    finally:
        mlflow.set_tracking_uri(before)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("where", ["server", "store"])
def test_of_two_that_register_at_once_the_better_is_champion(
    place: Any, run: Any, where: str, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue(where)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment = kept | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": address, "no_proxy": "*"}
    roots = [place("worse", wrong=9), place("better", wrong=1, model=3.0)]
    processes = [
        subprocess.Popen(STAGE, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for root in roots
    ]
    for process in processes:
        told, _ = process.communicate()
        assert process.returncode == 0, told
    mlflow.set_tracking_uri(address)
    decisions = [files.read_json(root / "decision.json") for root in roots]
    found = {tags(number)["model_sha256"]: number for number in ("1", "2")}
    worse, better = (found[decision["model_sha256"]] for decision in decisions)
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
