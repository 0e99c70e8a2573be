"""`gemmodel tune` from the command line: parallel, killed and resumed processes, and what it logs to MLflow."""

import json
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from PIL import Image

from gemmodel.core import params
from gemmodel.core.errors import DataError, ParameterError, TrackingError
from gemmodel.tune import command, spaces, studies
from tests.conftest import stage_options, user_environment
from tools import dev_mlflow_server

ROOT = Path(__file__).parents[2]
TINY = {
    "base.image_size": 32,
    "base.threads": 1,
    "train.epochs": 3,
    "train.batch_size": 8,
    "train.precision": "float32",
    "train.device": "cpu",
    "model.name": "cnn",
    "model.cnn.augmentation": "none",
    "model.cnn.pooling": "max",
    "model.cnn.dense": 4,
    "model.cnn.filters": [4],
}
TOO_DEEP = [4] * 7  # pooled to nothing at 32 pixels
GRID = {"model.cnn.kernel": [1, 3], "model.cnn.filters": [[4], TOO_DEEP]}
HALF = GRID | {"model.cnn.kernel": [3]}
SOON = ("--heartbeat", "1")  # a killed worker's trial is queued again after 3 s; so would be that of a slow one


class Folder:
    """A project's folder with photos, and the results of the searches in it."""

    def __init__(self, root: Path, python: str) -> None:
        self.root, self.python = root, python
        self.environment = {name: value for name, value in user_environment().items() if not name.startswith("OPTUNA_")}
        self.storage = f"sqlite:///{root / 'tune.db'}"

    def command(self, space: dict[str, Any], *options: str, name: str) -> list[str]:
        """Write a space, and return the arguments of Python that search it; space and study have the given name."""
        (self.root / f"{name}.yaml").write_text(yaml.safe_dump(space))
        return ["-m", "gemmodel.cli", "tune", f"{name}.yaml", "--metric", "val_loss", *options]

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([self.python, *command], cwd=self.root, env=self.environment, text=True, **pipes)

    def run(self, *commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
        """Run commands at once."""
        started = [self.start(command) for command in commands]
        outputs = [process.communicate() for process in started]
        return [
            subprocess.CompletedProcess([], process.returncode, *output)
            for process, output in zip(started, outputs, strict=True)
        ]

    def tune(self, space: dict[str, Any], *options: str, name: str, workers: int = 1) -> list[str]:
        """Run `gemmodel tune`, in one process or several at once, and return their outputs."""
        ended = self.run(*[self.command(space, *options, name=name)] * workers)
        for worker in ended:
            assert worker.returncode == 0, worker.stdout + worker.stderr
        return [worker.stdout for worker in ended]

    def study(self, name: str) -> optuna.Study:
        return optuna.load_study(study_name=name, storage=self.storage)

    def values(self, name: str) -> dict[str, list[float]]:
        """Return the metric of each seed, by the setting as JSON."""
        finished = [trial for trial in studies.ranked_trials(self.study(name)) if trial.state.is_finished()]
        return {json.dumps(trial.user_attrs["changes"]): trial.user_attrs.get("values", []) for trial in finished}

    def runs(self) -> list[Any]:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.root / 'mlflow.db'}")
        return list(client.search_runs([client.get_experiment_by_name("gemstones").experiment_id]))


KILLED_AT_START = """
import os, signal
import optuna
from gemmodel import cli

optuna.samplers.RandomSampler.before_trial = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cli.main()
"""


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Image.Image], forked_python: str, empty_store: Path
) -> Folder:
    """Photos of three classes, 24 for training and 6 for validation; the shipped params.yaml with tiny values."""
    root = tmp_path_factory.mktemp("tune")
    shutil.copy(empty_store, root / "mlflow.db")
    for part, photos in (("train", 8), ("val", 2)):
        for label, gem in enumerate(("Agate", "Beryl", "Ruby")):
            (root / "data" / "split" / part / gem).mkdir(parents=True)
            for seed in range(photos):
                picture = draw(100 * label + 10 * photos + seed, size=(32, 32), tint=(1 - label / 3, label / 3, 0.5))
                picture.save(root / "data" / "split" / part / gem / f"{seed}.png")
    (root / "data" / "split" / "hierarchy.json").write_text("{}")
    shipped = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(spaces.apply_changes(shipped, TINY), encoding="utf-8")
    return Folder(root, forked_python)


@pytest.fixture(scope="module")
def outputs(folder: Folder) -> list[str]:
    """The outputs of two processes that searched one grid at the same time, each setting with two seeds."""
    return folder.tune(GRID, "--repeats", "2", name="grid", workers=2)


def test_two_processes_run_each_point_of_a_grid_once(folder: Folder, outputs: list[str]) -> None:
    trials = folder.study("grid").trials
    points = [trial.user_attrs["changes"] for trial in trials]
    assert len(points) == 4
    for kernel in (1, 3):
        for filters in ([4], TOO_DEEP):
            assert {"model.cnn.kernel": kernel, "model.cnn.filters": filters} in points
    lines = [line for out in outputs for line in out.splitlines() if " of 4: trial " in line]
    assert sorted(line.split("trial ")[1].split(":")[0] for line in lines) == ["0", "1", "2", "3"]


def test_repeats_of_a_setting_give_mean_and_std(folder: Folder, outputs: list[str]) -> None:
    complete = [
        trial for trial in folder.study("grid").trials if trial.user_attrs["changes"]["model.cnn.filters"] == [4]
    ]
    for trial in complete:
        seeds = trial.user_attrs["values"]
        assert len(set(seeds)) == 2
        assert trial.value == pytest.approx(statistics.mean(seeds))
        assert trial.user_attrs["std"] == pytest.approx(statistics.stdev(seeds))
    best = min(complete, key=lambda trial: trial.value or 0)
    rows = [line.split() for line in outputs[0].splitlines()]
    header = next(row for row in rows if row[:3] == ["trial", "state", "value"])
    assert header[3] == "std"
    first = rows[rows.index(header) + 1]
    assert first[:2] == [str(best.number), "complete"]
    assert float(first[2]) == pytest.approx(best.value, rel=1e-3)  # four digits are printed
    [shown] = folder.tune(GRID, "--repeats", "2", "--show", name="grid")
    assert "complete" in shown and outputs[0].endswith(shown)


def test_a_setting_that_cannot_be_trained_is_reported_and_the_search_continues(
    folder: Folder, outputs: list[str]
) -> None:
    failed = [line for line in outputs[-1].splitlines() if " failed " in line and "too small for 7 blocks" in line]
    assert len(failed) == 2
    assert {trial.state.name for trial in folder.study("grid").trials} == {"COMPLETE", "FAIL"}


def test_mlflow_has_one_run_per_trial_in_the_run_of_the_study(folder: Folder, outputs: list[str]) -> None:
    runs = folder.runs()
    parents = [run for run in runs if run.info.run_name == "grid"]
    assert len(parents) == 1
    parent = parents[0]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(run.data.tags["state"] for run in children) == ["complete", "complete", "failed", "failed"]
    trials = {str(trial.number): trial for trial in folder.study("grid").trials}
    for run in children:
        trial = trials[run.data.tags["trial"]]
        assert run.data.params["model.kernel"] == f"({trial.user_attrs['changes']['model.cnn.kernel']},)"
        if run.data.tags["state"] == "complete":
            assert run.data.metrics["val/best_loss"] == pytest.approx(trial.value)
            assert {"val/loss_seed_1337", "val/loss_seed_1338", "val/best_loss_std"} <= set(run.data.metrics)
            assert {name.partition("/")[0] for name in run.data.metrics} == {"train", "val"}  # MLflow's groups
    assert parent.data.metrics["val/best_loss"] == pytest.approx(folder.study("grid").best_value)
    assert parent.data.tags["best_model.cnn.filters"] == "[4]"


def test_a_killed_worker_loses_nothing(folder: Folder, outputs: list[str]) -> None:
    worker = folder.start(folder.command(HALF, "--repeats", "2", *SOON, name="killed"))
    deadline, study = time.monotonic() + 500, None
    while True:  # until the worker is in the second training of the first setting
        assert worker.poll() is None and time.monotonic() < deadline
        if study is None and "killed" in optuna.get_all_study_names(folder.storage):
            study = folder.study("killed")
        if study and study.trials and len(study.trials[0].user_attrs.get("values", [])) == 1:
            break
        time.sleep(0.05)
    worker.kill()
    worker.communicate()
    parameters = folder.root / "params.yaml"
    before = parameters.read_text(encoding="utf-8")
    parameters.write_text(spaces.apply_changes(before, {"train.resume": False}), encoding="utf-8")
    [out] = folder.tune(HALF, "--repeats", "2", *SOON, name="killed")  # this value is not one of the study's
    parameters.write_text(before, encoding="utf-8")
    seeds = folder.values("grid")['{"model.cnn.filters": [4], "model.cnn.kernel": 3}']
    assert folder.values("killed") == {'{"model.cnn.filters": [4]}': seeds, f'{{"model.cnn.filters": {TOO_DEEP}}}': []}
    first, failed, again = folder.study("killed").trials
    assert [trial.state.name for trial in (first, failed, again)] == ["FAIL", "FAIL", "COMPLETE"]
    assert studies.original_number(again) == first.number == 0
    assert "of 2: trial 0: " in out
    parent = next(run for run in folder.runs() if run.info.run_name == "killed")
    children = [run for run in folder.runs() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert [parent.info.status, *(run.info.status for run in children)] == ["FINISHED"] * 3
    assert sorted(path.name for path in (folder.root / ".train-backup").rglob("*") if path.is_file()) == []


def test_a_trial_whose_worker_is_killed_at_its_start_is_queued_again(folder: Folder) -> None:
    arguments = folder.command(HALF, *SOON, name="taking")[2:]
    [killed] = folder.run(["-c", KILLED_AT_START, *arguments])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [trial.state.name for trial in folder.study("taking").trials] == ["RUNNING", "WAITING"]
    [out] = folder.tune(HALF, *SOON, name="taking")
    assert "2 of 2: trial " in out
    assert [trial.state.name for trial in folder.study("taking").trials] == ["FAIL", "FAIL", "COMPLETE"]


def test_data_made_with_other_parameters_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = params.read(ROOT / "params.yaml")
    locked = {"stages": {"split": {"params": {"params.yaml": {"split": values["split"] | {"seed": 1}}}}}}
    Path("dvc.lock").write_text(yaml.safe_dump(locked))
    with pytest.raises(DataError, match="dvc repro split"):
        command.check_up_to_date(["split"], values)
    locked["stages"]["split"]["params"]["params.yaml"]["split"]["seed"] = values["split"]["seed"]
    Path("dvc.lock").write_text(yaml.safe_dump(locked))
    command.check_up_to_date(["split"], values)
    whole = (ROOT / "dvc.lock").read_bytes()
    for cut in (0, 7, whole.index(b"params:\n") + 8):  # as by a killed run
        Path("dvc.lock").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"dvc\.lock: empty or cut off; `gemmodel check` mends it"):
            command.check_up_to_date(["split"], values)


def test_a_bad_start_is_pruned_and_the_best_setting_is_applied(
    folder: Folder, forked: Any, tmp_path: Path, empty_store: Path
) -> None:
    shutil.copytree(folder.root / "data", tmp_path / "data")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    before = (folder.root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(before)
    mine = Folder(tmp_path, folder.python)
    rates = [0.01, 0.012, 0.014, 0.016, 0.018, 1e-9]  # the median pruner starts after five trials
    [out] = mine.tune(
        {"train.learning_rate": rates, "model.cnn.kernel": 1}, "--pruner", "median", "--apply", name="rates"
    )

    pruned = mine.study("rates").trials[-1]
    assert (pruned.user_attrs["changes"]["train.learning_rate"], pruned.state.name) == (1e-9, "PRUNED")
    assert len(pruned.intermediate_values) < 3
    assert "6 of 6: trial 5: pruned: val_loss " in out
    logged = next(run_ for run_ in mine.runs() if run_.data.params.get("train.learning_rate") == "1e-09")
    assert (logged.data.tags["state"], logged.info.status) == ("pruned", "FINISHED")
    assert not list((tmp_path / ".train-backup" / "tune").iterdir())

    best = mine.study("rates").best_trial
    rate = best.user_attrs["changes"]["train.learning_rate"]
    assert f"dvc exp run -S model.cnn.kernel=1 -S train.learning_rate={rate}" in out
    assert "-  learning_rate: 0.001" in out and f"+  learning_rate: {rate}" in out
    after = (tmp_path / "params.yaml").read_text()
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(changed) == 2
    assert all(old.partition("#")[2] == new.partition("#")[2] for old, new in changed)
    loaded = params.load(tmp_path / "params.yaml")
    assert (loaded.train.learning_rate, loaded.model.cnn.kernel) == (rate, (1,))

    # The train stage, in a process of its own, gets the same result as the trial among others in one process.
    trained = forked("-m", "stages.train", *stage_options("train"), cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert json.loads((tmp_path / "reports" / "training.json").read_text())["best_val_loss"] == best.value


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--repeats", "3"], ["grid was begun with other settings (repeats: 2 there, 3 here)"]),
        (["--split", "nowhere"], ["nowhere/train: not there", "dvc repro split"]),
    ],
)
def test_a_mistake_is_one_line(
    folder: Folder, outputs: list[str], refused: Any, options: list[str], messages: list[str]
) -> None:
    [ended] = folder.run(folder.command(GRID, *options, name="grid"))
    refused(ended, "gemmodel", *messages)


def test_a_study_of_version_0_1_is_refused(folder: Folder, refused: Any) -> None:
    former = optuna.create_study(study_name="former", storage=folder.storage, load_if_exists=True)
    former.set_user_attr("identity", "abc")
    former.set_user_attr("agreed", {"repeats": "1"})  # which is called config now
    [ended] = folder.run(folder.command(GRID, name="former"))
    refused(ended, "gemmodel", "former was begun by version 0.1")


def test_a_database_that_cannot_be_used_is_refused_without_its_password() -> None:
    for uri in ("mysql://host/name", "tune.db", "sqlite://"):
        with pytest.raises(ParameterError, match="--storage: "):
            studies.resolve_uri(uri)
    uri = studies.resolve_uri("postgresql://me:secret@127.0.0.1:1/none")
    with pytest.raises(TrackingError, match=r"me:\*\*\*@127\.0\.0\.1:1/none: .*refused"):
        with studies.study_errors(uri), studies.study_lock(uri):
            pass


@pytest.fixture
def postgres(for_postgres: Path) -> Iterator[str]:
    """The URI of an empty database in a PostgreSQL server of its own."""
    with dev_mlflow_server.postgres(for_postgres, {}) as sockets:
        yield f"postgresql://mlflow@/runs?host={sockets}"


def test_a_team_shares_a_study_in_postgresql(folder: Folder, postgres: str) -> None:
    pytest.importorskip("psycopg2")
    space = {"train.learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "train.epochs": 1}
    options = ("--storage", postgres, "--sampler", "tpe", "--trials", "2")
    folder.tune(space, *options, name="team", workers=2)
    trials = optuna.load_study(study_name="team", storage=studies.resolve_uri(postgres)).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    assert len({trial.user_attrs["changes"]["train.learning_rate"] for trial in trials}) == 2
