"""Runs of killed processes are ended by the next process of the project; those of living ones stay as they are."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from gemmodel.commands import doctor
from gemmodel.tracking import runs
from gemmodel.tune import mlflow_log
from tests.conftest import ROOT

OPEN = """
import os, sys
from gemmodel.tracking import runs
from gemmodel.tune import mlflow_log

with runs.mlflow_store():
    pass
print("ready", flush=True)
for line in sys.stdin:
    if os.fork() == 0:  # a process of its own for each run, without another import
        kind, name = line.split()
        if kind == "train":
            with runs.training_run(name, {"base": {"seed": 1}}, {}, device="CPU"):
                print(os.getpid(), flush=True)
                os.read(int(sys.argv[1]), 1)
        elif kind == "evaluate":
            with runs.model_run(name):
                print(os.getpid(), flush=True)
                os.read(int(sys.argv[1]), 1)
        else:
            with mlflow_log.study_run(name, name, {}) as study, mlflow_log.trial_run(study, 0, {"base": {"seed": 1}}):
                print(os.getpid(), flush=True)
                os.read(int(sys.argv[1]), 1)
        os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder with the default store."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")  # an earlier test may have named another
    yield tmp_path
    mlflow.set_tracking_uri(before)


def statuses() -> dict[str, str]:
    found = mlflow.search_runs(experiment_names=["gemstones"], output_format="list")
    return {str(run.info.run_name): run.info.status for run in found}


def test_a_killed_run_is_ended_and_a_living_one_is_not(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no os.fork here")
    ends, release = os.pipe()
    helper = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(ends)], env=os.environ | {"PYTHONPATH": str(ROOT)}, pass_fds=(ends,),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert helper.stdin and helper.stdout
    timeout = threading.Timer(300, os.killpg, (helper.pid, signal.SIGKILL))  # ends what it and its forks print
    timeout.start()

    def printed() -> str:
        assert helper.stdout
        return next(line for line in map(str.strip, helper.stdout) if line == "ready" or line.isdigit())

    def opened(kind: str, name: str) -> int:
        assert helper.stdin
        helper.stdin.write(f"{kind} {name}\n")
        helper.stdin.flush()
        return int(printed())

    try:
        assert printed() == "ready"
        killed = [opened("train", "killed"), opened("evaluate", "abcdef0123"), opened("tune", "study")]
        opened("train", "living")
        assert set(statuses().values()) == {"RUNNING"}
        for pid in killed:
            os.kill(pid, 9)
        capfd.readouterr()
        deadline = time.monotonic() + 120
        while len(list((project / "logs" / "running").glob("*.json"))) > 1:  # a killed process dies in its own time
            assert time.monotonic() < deadline
            with runs.training_run("next", {"base": {"seed": 1}}, {}, device="CPU"):
                assert statuses()["living"] == "RUNNING"
        assert "killed: its process was killed; the run is ended as KILLED" in capfd.readouterr().out
        ended = dict.fromkeys(("killed", "fetched-abcdef01", "study", "trial-0"), "KILLED")
        assert statuses() == ended | {"living": "RUNNING", "next": "FINISHED"}
        with mlflow_log.study_run("study", "study", {}) as study:  # resumed
            with mlflow_log.trial_run(study, 0, {"base": {"seed": 1}}):
                pass
        os.write(release, b".")
        helper.stdin.close()
        assert helper.wait(60) == 0
        assert [statuses()[name] for name in ("living", "trial-0")] == ["FINISHED"] * 2
        assert list((project / "logs" / "running").glob("*.json")) == []
    finally:
        timeout.cancel()
        helper.kill()
        helper.wait()
        os.close(release)
        os.close(ends)


@pytest.mark.parametrize("power_cut", [False, True])
def test_check_ends_the_run_of_a_killed_process(project: Path, forked: Any, write_params: Any, power_cut: bool) -> None:
    write_params(project, {})
    (project / "photos").mkdir()
    for name in ("corrections.csv", "test_list.txt", "hierarchy.yaml"):
        (project / "photos" / name).touch()
    killed = """
import os
from gemmodel.tracking import runs

with runs.training_run("killed", {"base": {"seed": 1}}, {}, device="CPU"):
    os.kill(os.getpid(), 9)
"""
    assert forked("-c", killed, cwd=project).returncode == -9
    if power_cut:  # before the file's content was on the disk
        [file] = (project / "logs" / "running").glob("*.json")
        os.truncate(file, 0)
    checked = forked("-m", "gemmodel.cli", "check", cwd=project)
    assert checked.returncode == 0, checked.stderr
    assert statuses() == {"killed": "KILLED"}
    assert list((project / "logs" / "running").iterdir()) == [project / "logs" / "running" / "lock"]


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"{}"], ids=["empty", "zeros", "another"])
def test_unsent_metrics_that_a_power_cut_damaged_are_dropped_in_words(
    project: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    unsent = project / "logs" / "unsent" / "abc"
    unsent.mkdir(parents=True)
    (unsent / "metrics.json").write_bytes(content)
    with runs.model_run("abc"):
        pass
    assert f"{unsent}: damaged, as by a power cut: its metrics are lost\n" in capfd.readouterr().out
    assert not unsent.exists()
    assert statuses() == {"fetched-abc": "FINISHED"}


def test_a_killed_run_leaves_no_lock_of_git(project: Path) -> None:
    """`git status` locks and rewrites the index where a file has another time; `git checkout` refuses a locked one."""
    (project / "params.yaml").touch()
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "settings"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    os.utime(project / "params.yaml", (1, 1))
    index = (project / ".git" / "index").read_bytes()
    tags = runs.provenance()
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert "git_uncommitted" not in tags
    assert (project / ".git" / "index").read_bytes() == index


def test_doctor_names_runs_that_are_open_since_before_the_machine_started(project: Path) -> None:
    with runs.mlflow_store():
        client, experiment = mlflow.MlflowClient(), mlflow.get_experiment_by_name("gemstones")
    assert experiment
    client.create_run(experiment.experiment_id, start_time=1000, run_name="of a deleted logs folder")
    client.create_run(experiment.experiment_id, run_name="new")
    [old, rest] = doctor.check_store()
    assert not old.ok and "of a deleted logs folder" in old.text
    assert rest.ok
    subprocess.run(old.remedy, shell=True, check=True)
    assert statuses() == {"of a deleted logs folder": "KILLED", "new": "RUNNING"}
    assert [finding.ok for finding in doctor.check_store()] == [True]
