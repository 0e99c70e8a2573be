"""A team's MLflow server, started as a user starts it: logins, and a server that dies in the middle of a training."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from matplotlib.figure import Figure

from gemmodel.core import files, hashing
from gemmodel.tracking import metric_buffer, runs

ROOT = Path(__file__).parents[2]
GEMS = {"Emerald": (0.2, 1, 0.2), "Ruby": (1, 0.2, 0.2)}
EPOCHS = 40
TINY = {
    "base.image_size": 32,
    "base.threads": 1,
    "model.name": "cnn",
    "model.cnn.augmentation": "none",
    "model.cnn.filters": [4],
    "model.cnn.pooling": ["max"],
    "model.cnn.dense": 4,
    "train.epochs": EPOCHS,
    "train.patience": EPOCHS,
    "train.batch_size": 2,
    "train.device": "cpu",
}
TRAIN = (
    "--split split --augmented none --features none --hierarchy hierarchy.json --out models --curves curves.csv "
    "--report training.json"
)
REGISTER = (
    "--model models --predictions answers.csv --train split/train --val split/val --test split/test "
    "--out registration.json"
)


class Team:
    """A trial server in a folder of its own, on a port that stays the same when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.started: subprocess.Popen[str] | None = None
        self.variables: dict[str, str] = {}

    def start(self) -> None:
        command = [sys.executable, "-m", "gemmodel.delivery.trial_server", "--folder", str(self.folder)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self.started = subprocess.Popen(
            [*command, "--port", str(self.port)], env=kept | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = ""
        assert self.started.stdout
        for line in self.started.stdout:  # ends where the command ends, and that tells why
            said += line
            if "PASSWORD" in line:
                break
        exports = dict(re.findall(r"^export (\w+)=(\S+)$", said, re.M))
        path = re.search(r"\$\(cat '(.*)'\)", said)
        assert path, said
        self.variables = exports | {"MLFLOW_TRACKING_PASSWORD": Path(path[1]).read_text()}

    def processes(self) -> list[psutil.Process]:
        assert self.started
        found = psutil.Process(self.started.pid)
        return [found, *found.children(recursive=True)]

    def kill(self) -> None:
        """Kill all of it at once, as a machine that loses its power."""
        for process in self.processes():
            process.kill()
        assert self.started
        self.started.wait()

    def stop(self) -> str:
        """Press Ctrl+C, and return what it still said."""
        assert self.started
        processes = self.processes()
        self.started.send_signal(signal.SIGINT)
        said, _ = self.started.communicate(timeout=60)
        assert psutil.wait_procs(processes, 10)[1] == [], "processes of the server outlived it"
        return said


@pytest.fixture(scope="module")
def team(for_postgres: Path) -> Iterator[Team]:
    made = Team(for_postgres / "server")
    try:
        made.start()
        yield made
        if made.started and made.started.poll() is None:
            assert "keeps what was logged" in made.stop()
    finally:
        if made.started and made.started.poll() is None:
            made.kill()


@pytest.fixture
def logged_in(team: Team, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    for name, value in team.variables.items():
        monkeypatch.setenv(name, value)
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture
def place(tmp_path: Path, draw: Any, write_params: Any) -> Path:
    """A folder with all that train and register read."""
    write_params(tmp_path, TINY)
    for part, first in {"train": 100, "val": 200, "test": 300}.items():
        for gem, tint in GEMS.items():
            (tmp_path / "split" / part / gem).mkdir(parents=True)
            for number in range(first, first + 4):
                photo = draw(number + len(gem) * 1000, size=(48, 48), tint=tint)
                photo.save(tmp_path / "split" / part / gem / f"{number}.png")
    files.write_json(tmp_path / "hierarchy.json", {gem: gem for gem in GEMS})
    test = tmp_path / "split" / "test"
    rows = [f"{path.relative_to(test).as_posix()},{path.parent.name}" for path in sorted(test.rglob("*.png"))]
    (tmp_path / "answers.csv").write_text("\n".join(["file,predicted", *rows]) + "\n")
    return tmp_path


def until(true: Callable[[], Any], seconds: float = 120) -> Any:
    """Return what is true as soon as it is."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.1)
    return found


def steps(run_id: str, figure: str) -> list[int]:
    return sorted(metric.step for metric in mlflow.MlflowClient().get_metric_history(run_id, figure))


def training_run() -> str | None:
    """Return the id of the run that trains a cnn, once it has logged a few epochs."""
    if mlflow.get_experiment_by_name("gemstones") is None:
        return None
    found = mlflow.search_runs(
        experiment_names=["gemstones"], filter_string="params.model_name = 'cnn'", output_format="list"
    )
    return next((run.info.run_id for run in found if len(steps(run.info.run_id, "val_loss")) >= 3), None)


def test_a_wrong_password_is_told_in_one_line(team: Team, run: Any, refused: Any, place: Path) -> None:
    variables = team.variables | {"MLFLOW_TRACKING_PASSWORD": "guessed"}
    ended = run("-m", "gemmodel.cli", "promote", "1", cwd=place, **variables)
    refused(ended, "gemmodel", variables["MLFLOW_TRACKING_URI"], "not authenticated")


def test_a_killed_server_costs_a_training_nothing(
    team: Team, logged_in: None, run: Any, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[subprocess.CompletedProcess[str]] = []

    def train() -> None:
        ended.append(run("-m", "stages.train", *TRAIN.split(), cwd=place, **team.variables))

    thread = threading.Thread(target=train)
    thread.start()
    with runs.mlflow_store():
        mine = mlflow.start_run().info.run_id
    kept = metric_buffer.MetricBuffer(mine, place / "unsent")  # a second training: this one sees the server come back
    kept.log_epoch(0, {"loss": 1.0})
    kept.wait()
    theirs = until(training_run)
    team.kill()
    for epoch in (1, 2):
        kept.log_epoch(epoch, {"loss": 1 / (1 + epoch)})
    thread.join()
    assert ended[0].returncode == 0, ended[0].stderr
    assert "figures are kept" in ended[0].stdout
    assert (place / "models" / "model.keras").is_file()
    assert len((place / "curves.csv").read_text().splitlines()) == EPOCHS + 1
    kept.wait()
    assert "the training goes on" in capsys.readouterr().out

    team.start()
    assert steps(mine, "loss") == [0]
    kept.log_epoch(3, {"loss": 0.25})
    kept.wait()
    assert steps(mine, "loss") == [0, 1, 2, 3]
    assert "answers again" in capsys.readouterr().out
    kept.finish("abc", runs.MODEL_TAG, {"best_loss": 0.25}, Figure())
    mlflow.end_run()
    assert mlflow.get_run(mine).data.tags[runs.MODEL_TAG] == "abc"

    assert len(steps(theirs, "val_loss")) < EPOCHS
    registered = run("-m", "stages.register", *REGISTER.split(), cwd=place, **team.variables)
    assert registered.returncode == 0, registered.stderr
    assert steps(theirs, "val_loss") == steps(theirs, "accuracy") == list(range(EPOCHS))
    found = mlflow.get_run(theirs)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["best_epoch"] == files.read_json(place / "training.json")["best_epoch"]
    assert found.data.tags[runs.MODEL_TAG] == hashing.sha256(place / "models" / "model.keras")
    client = mlflow.MlflowClient()
    assert "learning_curves.png" in {file.path for file in client.list_artifacts(theirs)}
    assert client.get_model_version_by_alias("gemstones", "champion").run_id == theirs
    assert list((place / "logs" / "unsent").iterdir()) == []


def test_two_people_register_at_once(
    team: Team, logged_in: None, run: Any, place: Path, write_params: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import mlflow.server

    users = mlflow.server.get_app_client("basic-auth", tracking_uri=team.variables["MLFLOW_TRACKING_URI"])
    role = users.create_role("default", "team")
    rights = {"experiment": "EDIT", "registered_model": "EDIT", "registered_model_version": "MANAGE"}  # as docs/team.md
    for kind, right in rights.items():
        users.add_role_permission(role.id, kind, "*", right)

    def work(name: str) -> str:
        """Train and register as one of them, and return the model's hash."""
        users.create_user(name, f"{name} 's own word")
        users.assign_role(name, role.id)
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(place, folder, dirs_exist_ok=True)
        write_params(folder, TINY | {"train.epochs": 1, "base.seed": len(name), "register.name": "shared"})
        mine = {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": f"{name} 's own word"}
        for stage, options in (("train", TRAIN), ("register", REGISTER)):
            ended = run("-m", f"stages.{stage}", *options.split(), cwd=folder, **team.variables | mine)
            assert ended.returncode == 0, f"{name}: {ended.stderr}"
        return hashing.sha256(folder / "models" / "model.keras")

    with ThreadPoolExecutor(2) as pool:
        trained = set(pool.map(work, ("alice", "bob")))
    client = mlflow.MlflowClient(team.variables["MLFLOW_TRACKING_URI"])
    found = {str(version.version): version.tags for version in client.search_model_versions("name = 'shared'")}
    assert {tags[runs.MODEL_TAG] for tags in found.values()} == trained
    assert len(found) == len(trained) == 2
    titles = {tags["champion"]: number for number, tags in found.items()}
    aliases = client.get_registered_model("shared").aliases
    assert set(titles) == {"True", "False"}  # the second met the first's champion, with the same answers
    assert {alias: str(number) for alias, number in aliases.items()} == {
        "champion": titles["True"],
        "challenger": titles["False"],
    }
    assert client.search_model_versions("name = 'shared-queue'") == []
