"""Kills and full disks: what is left is whole, and the documented command heals it.

`make kill` does the same with real processes, at other moments in each run, and takes an hour.
"""

import json
import os
import random
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import chdir, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from repository import ROOT, change, copy_project, digests, environment, names, runner, shrink

from gemmodel.commands import dvc_files
from tests.forks import STAGES, Ended, Forks

KILLED = [stage for stage in STAGES if stage not in ("explain", "explore")]  # which keep nothing but one folder
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/")
SPACE = {"model.fusion.clip": [4.0, 5.0]}  # for `gemmodel tune`
AGAIN = [
    stage for stage in STAGES if stage not in ("augment", "describe", "explain", "explore")
]  # these write a folder
GROWS = (".git", ".dvc", ".scrapy", "mlruns", "logs")  # what commands add here stays
# Runs a module, for which the registry's lock of a killed process ends after 3 s instead of a minute.
SOON = """import runpy, sys
from gemmodel.register import registry_lock
registry_lock.HEARTBEAT_S, registry_lock.LOCK_TIMEOUT_S = 0.5, 3.0
sys.argv.pop(0)
sys.modules.pop(sys.argv[0], None)  # else a warning
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)"""


@dataclass
class Project:
    """A small project after all its stages, and what it is like undisturbed."""

    folder: Path
    tmp: Path
    forks: Forks
    seconds: dict[str, float] = field(default_factory=dict)  # of a core, by command
    outputs: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    lock: dict[str, Any] = field(default_factory=dict)

    def run(self, *commands: str, seconds: float = 0) -> list[Ended]:
        """Run `gemmodel`, `dvc` or stages, the latter with the options of dvc.yaml, at once; see `Forks.run`."""
        stages = yaml.safe_load((self.folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        started = {"gemmodel": ["-c", SOON, "gemmodel.cli"], "dvc": ["-m", "dvc"]}
        split = [
            ["-c", SOON, *shlex.split(stages[name]["cmd"])[2:]] if name in stages else [*started[first], *arguments]
            for name in commands
            for first, *arguments in [name.split()]
        ]
        variables = environment() | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.tmp), "DVC_STAGE": "any"}
        return self.forks.run(*split, cwd=self.folder, environment=variables, seconds=seconds)

    def succeed(self, *commands: str) -> None:
        for command in commands:
            [ended] = self.run(command)
            assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
            self.seconds[command] = ended.seconds

    def kill(self, command: str, share: float = 0.0, undo: str = "") -> None:
        """Kill a command after a share of the seconds that it takes; 0: one that its name determines.

        `undo` is run where it ended before, if it cannot be run a second time without it.
        """
        seconds = self.seconds[command] * (share or random.Random(command).uniform(0.05, 1))
        while (ended := self.run(command, seconds=seconds)[0]).returncode == 0:
            seconds /= 2
            if undo:
                self.succeed(undo)
        assert ended.returncode == -signal.SIGPROF, ended.stderr

    def forget(self) -> None:
        """Remove outputs, and what DVC knows of them but its cache of runs, from which `dvc repro` restores them.

        That cache has neither crawl nor report, since an output of theirs stays where it is when they run.
        """
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text(encoding="utf-8"))
        lock["stages"] = {name: lock["stages"][name] for name in ("crawl", "report")}
        (self.folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
        for name in ("data/clean", "data/split", "data/features", "models", "reports/evaluation"):
            shutil.rmtree(self.folder / name)

    def check(self) -> None:
        """Check that all is as if nothing had happened."""
        assert digests(self.folder) == self.outputs
        assert names(self.folder, grows=GROWS) == self.files
        assert not (self.folder / ".git" / "index.lock").exists()
        assert yaml.safe_load((self.folder / "dvc.lock").read_text(encoding="utf-8")) == self.lock
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as store:
            assert store.execute("select run_uuid, name from runs where status = 'RUNNING'").fetchall() == []
            assert store.execute("select name, version from model_versions").fetchall() == [("gemstones", 1)]
            aliases = store.execute("select alias, version from registered_model_aliases order by alias").fetchall()
            assert aliases == [("challenger", 1), ("champion", 1)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with small disks for a project, temporary files and DVC's cache, where this account may mount them."""
    place = tmp_path_factory.mktemp("disks")
    mounted = []
    for name in ("project", "tmp", "cache"):
        (place / name).mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(place / name)]
        if subprocess.run(command, capture_output=True).returncode == 0:
            mounted.append(place / name)
    yield place
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def project(
    place: Path,
    forked_python: str,
    forked_commands: None,
    cached_pages: Path,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    folder = place / "project"
    copy_project(folder)
    shrink(folder)
    shutil.copytree(cached_pages, folder / ".scrapy")
    shutil.copy(empty_store, folder / "mlflow.db")
    run = runner(folder)
    run("git", "init", "-q", "-b", "main")
    started = Forks(Path(forked_python).parents[1], tmp_path_factory.mktemp("printed"))
    made = Project(folder, place / "tmp", started)
    commit = "dvc commit --force --quiet"
    made.succeed(*STAGES, "gemmodel check", commit, "report", commit)  # again: the model card has DVC's hashes
    run("git", "add", "-A")
    run("git", "add", "--force", "backbones")  # so that copies for experiments have it
    run("git", "commit", "-qm", "small sample")
    made.outputs, made.files = digests(folder), names(folder, grows=GROWS)
    made.lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
    return made


@pytest.mark.parametrize("stage", KILLED)
def test_a_killed_stage_is_healed(project: Project, stage: str) -> None:
    project.kill(stage)
    project.succeed("gemmodel check", stage)
    project.check()


def test_a_killed_study_resumes(project: Project) -> None:
    (project.folder / "space.yaml").write_text(yaml.safe_dump(SPACE), encoding="utf-8")
    tune = "gemmodel tune space.yaml --metric val_loss --heartbeat 1"
    project.seconds[tune] = project.seconds["train"]
    project.kill(tune, 0.4)
    project.succeed("gemmodel check", tune)
    with closing(sqlite3.connect(project.folder / "tune.db")) as study:
        trials = study.execute("select state, value from trials left join trial_values using (trial_id)").fetchall()
    complete = [value for state, value in trials if state == "COMPLETE"]
    assert len(complete) == 2
    assert {state for state, _ in trials} <= {"COMPLETE", "FAIL"}  # a killed trial is queued again, as another one
    training = json.loads((project.folder / "reports" / "training.json").read_text(encoding="utf-8"))
    assert training["best_val_loss"] in [round(value, 6) for value in complete]
    for name in ("space.yaml", "tune.db", "tune.db.lock"):
        (project.folder / name).unlink()
    project.check()


def test_killed_changes_of_the_champion_are_made_by_the_next_command(project: Project) -> None:
    database = project.folder / "mlflow.db"

    def champion() -> int:
        with closing(sqlite3.connect(database)) as store:
            [[version]] = store.execute("select version from registered_model_aliases where alias = 'champion'")
        return int(version)

    with closing(sqlite3.connect(database)) as store, store:
        store.executescript(
            "create temporary table second as select * from model_versions; update second set version = 2;"
            "insert into model_versions select * from second"
        )
    project.succeed("gemmodel promote 1")  # which changes nothing
    project.seconds["gemmodel promote 2"] = project.seconds["gemmodel promote 1"]
    project.kill("gemmodel promote 2")
    project.succeed("gemmodel promote 2")
    assert champion() == 2
    project.seconds["gemmodel rollback"] = project.seconds["gemmodel promote 2"]
    project.kill("gemmodel rollback", undo="gemmodel promote 2")
    assert champion() in (1, 2)
    project.succeed("gemmodel promote 1")
    assert champion() == 1
    with closing(sqlite3.connect(database)) as store, store:
        store.execute("delete from model_versions where version = 2")
    project.check()


def test_a_killed_experiment_in_a_copy_is_run_again(project: Project) -> None:
    """No stage of the experiment runs, so the kill falls into DVC's own work. `make kill` kills its stages."""
    run, experiment = runner(project.folder), "dvc exp run --temp -S explain.photos=3 train"
    project.succeed(experiment)
    project.kill(experiment)
    project.succeed("gemmodel check", experiment)
    refs = [ref for ref in run("git", "for-each-ref", "--format=%(refname)").split() if EXPERIMENT.match(ref)]
    assert len(refs) >= 2
    assert [yaml.safe_load(run("git", "show", f"{ref}:dvc.lock")) for ref in refs] == [project.lock] * len(refs)
    with chdir(project.folder):
        for copy in dvc_files.abandoned_copies():  # `gemmodel doctor` says to remove them
            shutil.rmtree(copy)
    assert not list((project.folder / ".dvc" / "tmp" / "exps").rglob("tmp*"))
    project.check()


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_a_killed_dvc_repro_is_healed_by_make_repro(project: Project, share: float) -> None:
    if "dvc repro" not in project.seconds:
        project.forget()
        project.succeed("dvc repro")
        project.check()
    project.forget()
    project.kill("dvc repro", share)
    project.succeed("gemmodel check", "dvc repro")
    project.check()


def test_of_two_dvc_repro_at_once_none_does_harm(project: Project) -> None:
    project.forget()
    ended = project.run("dvc repro", "dvc repro", "gemmodel check")
    assert any(one.returncode == 0 for one in ended[:2])
    for one in ended[:2]:
        assert "Traceback" not in one.stderr
        assert one.returncode == 0 or "lock" in one.stderr or "busy" in one.stderr, one.stderr
    assert ended[2].returncode == 0
    project.succeed("gemmodel check", "dvc repro")
    project.check()


@contextmanager
def full(disk: Path, left: int) -> Iterator[None]:
    """Fill a disk but for some bytes while the context lasts."""
    if not disk.is_mount():
        pytest.skip("no small disk: this account may not mount one")
    state = os.statvfs(disk)
    with (disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, state.f_bavail * state.f_frsize - left)
    try:
        yield
    finally:
        (disk / "filler").unlink()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_on_a_full_disk_ends_with_one_line(project: Project, stage: str, refused: Any) -> None:
    params = project.folder / "params.yaml"
    text = params.read_bytes()
    with full(project.folder, left=40_000):
        if stage == "embed":  # which has features of the present parameters, and would compute none
            change(project.folder, embed={"views": ["mirror"]})
        [ended] = project.run(stage)
    params.write_bytes(text)
    if stage == "register":  # which needs no more than that
        assert ended.returncode == 0, ended.stderr
    else:
        refused(ended, stage, "space")
    assert digests(project.folder) == project.outputs
    if stage in AGAIN:
        project.succeed("gemmodel check", stage)
    project.check()


def test_register_without_space_for_temporary_files_ends_with_one_line(project: Project, refused: Any) -> None:
    with full(project.tmp, left=40_000):
        [ended] = project.run("register")
    refused(ended, "register", "space", "TMPDIR")
    assert digests(project.folder) == project.outputs
    project.succeed("gemmodel check", "register")
    project.check()


def test_dvc_repro_on_a_full_disk_is_healed_by_make_repro(project: Project) -> None:
    project.forget()
    with full(project.folder, left=40_000):
        [ended] = project.run("dvc repro")
    assert ended.returncode > 0  # DVC says "No possible cache link types"
    project.succeed("gemmodel check", "dvc repro")
    project.check()


def test_a_stage_whose_cache_is_on_a_full_disk_is_healed_by_dvc_repro(project: Project, place: Path) -> None:
    config, repro = project.folder / ".dvc" / "config.local", "dvc repro --force --single-item split"
    with full(place / "cache", left=40_000):
        config.write_text(f"[cache]\n    dir = {place / 'cache'}\n", encoding="utf-8")
        [ended] = project.run(repro)
    assert ended.returncode > 0
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert digests(project.folder) == project.outputs
    project.succeed("gemmodel check", repro)
    assert any((place / "cache" / "files").rglob("*"))
    config.unlink()
    project.check()
