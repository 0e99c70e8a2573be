"""A team's MLflow server, started as a user starts it: logins, and a server that is killed during a training."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import psutil
import pytest

from gemmodel.core import files, hashing
from gemmodel.tracking import metric_buffer, runs
from tests.conftest import stage_options

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

IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}  # in place of three, before which MLflow waits 14 seconds


class Team:
    """A server of tools/dev_mlflow_server.py. It keeps its folder and its port when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None
        self.variables: dict[str, str] = {}

    def start(self) -> None:
        command = [sys.executable, "tools/dev_mlflow_server.py", "--folder", str(self.folder), "--port", str(self.port)]
        variables = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self.process = subprocess.Popen(
            command, env=variables | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        output = ""
        assert self.process.stdout
        for line in self.process.stdout:  # also ends when the command fails; the output then says why
            output += line
            if "PASSWORD" in line:
                break
        exports = dict(re.findall(r"^export (\w+)=(\S+)$", output, re.M))
        path = re.search(r"\$\(cat '(.*)'\)", output)
        assert path, output
        self.variables = exports | {"MLFLOW_TRACKING_PASSWORD": Path(path[1]).read_text()}

    def processes(self) -> list[psutil.Process]:
        assert self.process
        command = psutil.Process(self.process.pid)
        return [command, *command.children(recursive=True)]

    def kill(self) -> None:
        """Kill all processes at once, as a power failure does."""
        for process in self.processes():
            process.kill()
        assert self.process
        self.process.wait()

    def stop(self) -> str:
        """Press Ctrl+C, and return the rest of the output."""
        assert self.process
        processes = self.processes()
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=60)
        assert psutil.wait_procs(processes, 10)[1] == [], "processes of the server still run"
        return output


@pytest.fixture(scope="module")
def team(for_postgres: Path) -> Iterator[Team]:
    server = Team(for_postgres / "server")
    try:
        server.start()
        yield server
        if server.process and server.process.poll() is None:
            assert "keeps the logged runs" in server.stop()
    finally:
        if server.process and server.process.poll() is None:
            server.kill()


@pytest.fixture
def logged_in(team: Team, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    for name, value in (team.variables | IMPATIENT).items():
        monkeypatch.setenv(name, value)
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture
def folder(tmp_path: Path, draw: Any, write_params: Any) -> Path:
    """A folder with all inputs of the train and register stages."""
    write_params(tmp_path, TINY)
    split = tmp_path / "data" / "split"
    for part, first in {"train": 100, "val": 200, "test": 300}.items():
        for gem, tint in GEMS.items():
            (split / part / gem).mkdir(parents=True)
            for seed in range(first, first + 4):
                photo = draw(seed + len(gem) * 1000, size=(48, 48), tint=tint)
                photo.save(split / part / gem / f"{seed}.png")
    files.write_json(split / "hierarchy.json", {gem: gem for gem in GEMS})
    predictions = tmp_path / "reports" / "evaluation" / "predictions.csv"
    predictions.parent.mkdir(parents=True)
    paths = sorted((split / "test").rglob("*.png"))
    rows = [f"{path.relative_to(split / 'test').as_posix()},{path.parent.name}" for path in paths]
    predictions.write_text("\n".join(["file,predicted", *rows]) + "\n")
    return tmp_path


@pytest.fixture
def run_stage(forked: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a stage with dvc.yaml's options, in a folder, in an environment with some variables."""

    def stage(name: str, cwd: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return forked("-m", f"stages.{name}", *stage_options(name), cwd=cwd, **variables)

    return stage


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Return the value of a condition as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "still false"
        time.sleep(0.1)
    return value


def steps(run_id: str, metric: str) -> list[int]:
    return sorted(value.step for value in mlflow.MlflowClient().get_metric_history(run_id, metric))


def id_of_training_run() -> str | None:
    """Return the id of the run that trains a cnn, once it has logged three epochs."""
    if mlflow.get_experiment_by_name("gemstones") is None:
        return None
    cnn_runs = mlflow.search_runs(
        experiment_names=["gemstones"], filter_string="params.model_name = 'cnn'", output_format="list"
    )
    return next((run.info.run_id for run in cnn_runs if len(steps(run.info.run_id, "val/loss")) >= 3), None)


def test_wrong_password_is_an_error_in_one_line(team: Team, forked: Any, refused: Any, folder: Path) -> None:
    variables = team.variables | {"MLFLOW_TRACKING_PASSWORD": "guessed"}
    ended = forked("-m", "gemmodel.cli", "promote", "1", cwd=folder, **variables)
    refused(ended, "gemmodel", variables["MLFLOW_TRACKING_URI"], "not authenticated")


def test_training_survives_a_killed_server_without_losing_metrics(
    team: Team, logged_in: None, run_stage: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[subprocess.CompletedProcess[str]] = []
    password = team.variables["MLFLOW_TRACKING_PASSWORD"]
    login = f"//{team.variables['MLFLOW_TRACKING_USERNAME']}:{quote(password, safe='')}@"
    in_uri = IMPATIENT | {"MLFLOW_TRACKING_URI": team.variables["MLFLOW_TRACKING_URI"].replace("//", login)}
    thread = threading.Thread(target=lambda: trained.append(run_stage("train", folder, in_uri)))
    thread.start()
    with runs.mlflow_store():
        second_id = mlflow.start_run().info.run_id
    second = metric_buffer.MetricBuffer(
        second_id, folder / "unsent"
    )  # of a training that lasts until the server is back
    second.log_epoch(0, {"loss": 1.0})
    second.wait()
    wait_until((folder / ".train-backup").exists)  # nothing is logged before
    first_id = wait_until(id_of_training_run)
    team.kill()
    for epoch in (1, 2):
        second.log_epoch(epoch, {"loss": 1 / (1 + epoch)})
    thread.join()
    assert trained[0].returncode == 0, trained[0].stderr
    assert "metrics are stored" in trained[0].stdout
    texts = [trained[0].stdout.encode(), trained[0].stderr.encode()]
    texts += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert list((folder / "logs" / "unsent").iterdir()) and not [text for text in texts if password.encode() in text]
    assert (folder / "models" / "model.keras").is_file()
    assert len((folder / "reports" / "curves.csv").read_text().splitlines()) == 2 * EPOCHS + 1
    second.wait()
    assert "the training continues" in capsys.readouterr().out

    team.start()
    assert steps(second_id, "train/loss") == [0]
    second.log_epoch(3, {"loss": 0.25})
    second.wait()
    assert steps(second_id, "train/loss") == [0, 1, 2, 3]
    assert "reachable again" in capsys.readouterr().out
    second.finish("abc", runs.MODEL_TAG, {"best_loss": 0.25}, folder / "reports" / "curves.png")
    mlflow.end_run()
    assert mlflow.get_run(second_id).data.tags[runs.MODEL_TAG] == "abc"

    assert len(steps(first_id, "val/loss")) < EPOCHS
    registered = run_stage("register", folder, team.variables)
    assert registered.returncode == 0, registered.stderr
    assert steps(first_id, "val/loss") == steps(first_id, "train/accuracy") == list(range(EPOCHS))
    first = mlflow.get_run(first_id)
    assert first.info.status == "FINISHED"
    assert first.data.metrics["train/best_epoch"] == files.read_json(folder / "reports" / "training.json")["best_epoch"]
    assert first.data.tags[runs.MODEL_TAG] == hashing.sha256(folder / "models" / "model.keras")
    client = mlflow.MlflowClient()
    assert "curves.png" in {file.path for file in client.list_artifacts(first_id)}
    assert client.get_model_version_by_alias("gemstones", "champion").run_id == first_id
    assert list((folder / "logs" / "unsent").iterdir()) == []


def test_two_users_can_register_at_once(
    team: Team,
    logged_in: None,
    run_stage: Any,
    folder: Path,
    write_params: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    import mlflow.server

    users = mlflow.server.get_app_client("basic-auth", tracking_uri=team.variables["MLFLOW_TRACKING_URI"])
    role = users.create_role("default", "team")
    # the permissions that docs/team.md gives
    permissions = {"experiment": "EDIT", "registered_model": "EDIT", "registered_model_version": "MANAGE"}
    for kind, permission in permissions.items():
        users.add_role_permission(role.id, kind, "*", permission)

    def train_and_register(name: str) -> str:
        """Train and register as one of the users, and return the model's hash."""
        password = f"{name}'s own password"
        users.create_user(name, password)
        users.assign_role(name, role.id)
        copy = tmp_path_factory.mktemp(name)
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        write_params(copy, TINY | {"train.epochs": 1, "base.seed": len(name), "register.name": "shared"})
        login = {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}
        for stage in ("train", "register"):
            ended = run_stage(stage, copy, team.variables | login)
            assert ended.returncode == 0, f"{name}: {ended.stderr}"
        return hashing.sha256(copy / "models" / "model.keras")

    with ThreadPoolExecutor(2) as pool:
        trained = set(pool.map(train_and_register, ("alice", "bob")))
    client = mlflow.MlflowClient(team.variables["MLFLOW_TRACKING_URI"])
    versions = {str(version.version): version.tags for version in client.search_model_versions("name = 'shared'")}
    assert {tags[runs.MODEL_TAG] for tags in versions.values()} == trained
    assert len(versions) == len(trained) == 2
    # the second version was compared with the first one, which is champion and has the same predictions
    assert {tags["champion"] for tags in versions.values()} == {"True", "False"}
    aliases = {"True": "champion", "False": "challenger"}
    registry = client.get_registered_model("shared").aliases
    assert {alias: str(number) for alias, number in registry.items()} == {
        aliases[tags["champion"]]: number for number, tags in versions.items()
    }
    assert client.search_model_versions("name = 'shared-queue'") == []
