"""Commands killed at random moments: does the documented command heal what they leave?

python -m tests.e2e.kill [--kills 100] [--seed 0] [--only train register]

A moment is a random part of the processor time that a command takes undisturbed, so a busy machine does not shift it.
Then all processes of the command are killed at once, as a power failure does. After the command that the documentation
names for it, outputs have the hashes of an undisturbed run, no run is open, each model is one version, one is champion,
and nothing is left in the project but copies that
`gemmodel doctor` names. `--seed N --first I --kills 1` repeats kill I.
"""

import argparse
import contextlib
import random
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from gemmodel.commands import dvc_files
from tests.conftest import isolate
from tests.e2e.repository import Run, build, digests, environment, names, runner

REPRO = "make -o .venv/installed repro"
TEMPORARY = "dvc exp run --temp --name temp-{i} -S train.patience=1{i} train"
QUEUED = "dvc exp run --queue --name queue-{i} -S train.patience=2{i} train"
# Every file and command of every package is there.
WHOLE = """.venv/bin/python -c 'import os; from importlib import metadata
assert all(file.locate().exists() for package in metadata.distributions() for file in package.files)
assert all(command.name in os.listdir(".venv/bin") for command in metadata.entry_points(group="console_scripts"))'"""
SPACE = {"model.fusion.clip": [4.0, 5.0]}
GROWS = (".git", ".dvc/cache", ".dvc/tmp", ".scrapy", "mlruns", "logs")  # what commands add here stays


class Command(NamedTuple):
    """A command that is killed.

    Attributes:
        line: for the shell; {i} is the number of the kill.
        heals: what the documentation says to type after it was killed.
        seconds: of a core that it takes undisturbed.
        before: what has to happen first.
    """

    line: str
    heals: str
    seconds: float
    before: str = ""


def stage(name: str, seconds: float) -> Command:
    """Return a stage that runs as for the first time: DVC finds no former run of it."""
    forget = f'import yaml; lock = yaml.safe_load(open("dvc.lock")); del lock["stages"]["{name}"]; '
    forget += 'open("dvc.lock", "w").write(yaml.safe_dump(lock, sort_keys=False))'
    before = f"rm -rf .dvc/cache/runs; python -c {shlex.quote(forget)}"
    return Command(f"dvc repro --single-item {name}", REPRO, seconds, before)


COMMANDS = {
    "setup": Command("make .venv/installed", f"make .venv/installed && {WHOLE} && rm -r .venv", 80, "rm -rf .venv"),
    "crawl": stage("crawl", 7),
    "clean": stage("clean", 6),
    "split": stage("split", 3),
    "describe": stage("describe", 9),
    "augment": stage("augment", 9),
    "embed": stage("embed", 20),
    "train": stage("train", 25),
    "evaluate": stage("evaluate", 15),
    "explain": stage("explain", 20),
    "explore": stage("explore", 15),
    "register": stage("register", 10),
    "report": stage("report", 7),
    # An experiment whose value changes no output; fusion has no epochs to be patient about.
    # A kill after DVC has saved it leaves it whole, and a second one of its name is refused.
    "temp": Command(TEMPORARY, f"dvc exp remove temp-{{i}} || true; {TEMPORARY}", 30),
    "queue": Command(
        "dvc queue start",
        f"dvc queue kill queue-{{i}} || true; dvc queue remove --all; {QUEUED}; dvc queue start",
        30,
        QUEUED,
    ),
    "tune": Command(*2 * ["gemmodel tune space.yaml --study killed-{i} --heartbeat 1"], 20),
    "promote": Command("gemmodel promote 2", "gemmodel promote 2 && gemmodel promote 1", 5),
    "rollback": Command("gemmodel rollback", "gemmodel promote 1", 5, "gemmodel promote 2"),
}


@dataclass
class Site:
    """A project in which commands are killed, and what it is like undisturbed."""

    folder: Path
    tmp: Path
    outputs: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    values: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: {name: c.seconds for name, c in COMMANDS.items()})

    @property
    def run(self) -> Run:
        return runner(self.folder, TMPDIR=str(self.tmp))

    def shell(self, line: str) -> str:
        return self.run("bash", "-e", "-c", line) if line else ""

    def store(self) -> Any:
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{(self.folder / 'mlflow.db').as_posix()}")
        return mlflow.MlflowClient()

    def processes(self) -> list[psutil.Process]:
        """Return the processes that were started here, also those that DVC has detached."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TMPDIR") == str(self.tmp) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def prepare(folder: Path) -> Site:
    """Return a built repository as a site: with a second version of its model, and a space to search."""
    (tmp := folder.with_name("tmp")).mkdir()
    site = Site(folder, tmp)
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE), encoding="utf-8")
    (folder / ".git" / "info" / "exclude").write_text("space.yaml\n", encoding="utf-8")
    site.shell(REPRO)
    client = site.store()
    first = client.get_model_version("gemstones", "1")
    client.create_model_version("gemstones", first.source, first.run_id, {"model_sha256": "of another model"})
    site.shell("gemmodel tune space.yaml --study undisturbed")
    site.shell("dvc exp run --temp --name undisturbed -S train.patience=100 train")
    site.values = study_values(site, "undisturbed")
    site.outputs, site.files = digests(folder), names(folder, grows=GROWS)
    for left in site.tmp.iterdir():
        raise AssertionError(f"{left} is left by an undisturbed command")
    return site


def study_values(site: Site, name: str) -> list[float]:
    import optuna

    study = optuna.load_study(study_name=name, storage=f"sqlite:///{(site.folder / 'tune.db').as_posix()}")
    assert not study.get_trials(states=[optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING])
    done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    return [trial.value for trial in sorted(done, key=lambda trial: str(trial.user_attrs["changes"]))]


def start_and_kill(site: Site, line: str, seconds: float) -> float | None:
    """Kill a command's processes once they have taken some seconds of a core.

    Returns:
        The seconds that it took; None if it was killed.
    """
    with (site.folder.parent / "killed.log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"] if "&&" not in line else ["bash", "-c", line],
            cwd=site.folder, env=environment() | {"TMPDIR": str(site.tmp)},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        taken: dict[int, float] = {}
        while running := site.processes():
            for each in running:
                try:
                    taken[each.pid] = sum(each.cpu_times()[:2])
                except psutil.Error:
                    continue
            if sum(taken.values()) >= seconds:
                for each in running:
                    each.send_signal(signal.SIGSTOP)
                while running := site.processes():
                    for each in running:
                        each.kill()
                process.wait()
                return None
            time.sleep(0.02)
        process.wait()
        return sum(taken.values())


def kill_and_heal(site: Site, name: str, i: int, seed: int) -> None:
    """Kill a command once, and check that the documented one heals what it left."""
    shutil.rmtree(site.tmp)  # what TensorFlow has there stays when it is killed
    site.tmp.mkdir()
    command, fraction = COMMANDS[name], random.Random(f"{seed}-{i}").random()
    site.shell(command.before.replace("{i}", str(i)))
    for _ in range(5):
        moment = fraction * site.seconds[name]
        print(f"kill {i} of seed {seed}: {name} after {moment:.2f} s of a core", flush=True)
        if not (whole := start_and_kill(site, command.line.format(i=i), moment)):
            break
        site.seconds[name] = whole
        site.shell(command.before.replace("{i}", str(i)))
    else:
        raise AssertionError(f"{name} could not be killed")
    began = time.monotonic()
    site.shell(command.heals.format(i=i))
    while name == "queue" and site.processes():
        time.sleep(0.2)
    print(f"  healed in {time.monotonic() - began:.0f} s", flush=True)
    check(site, name, i)


def check(site: Site, name: str, i: int) -> None:
    """Check that all is as if nothing had been killed."""
    assert digests(site.folder) == site.outputs
    lock = (site.folder / "dvc.lock").read_text(encoding="utf-8")
    assert yaml.safe_load(lock) == yaml.safe_load(site.run("git", "show", "HEAD:dvc.lock"))
    site.run("git", "checkout", "-q", "dvc.lock")  # a stage that ran as for the first time is the last one there
    assert site.run("git", "status", "--porcelain") == ""
    if name in ("temp", "queue"):
        assert experiment_outputs(site, f"{name}-{i}") == experiment_outputs(site, "undisturbed")
    if name == "tune":
        assert study_values(site, f"killed-{i}") == site.values
    client = site.store()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert not client.search_runs(experiments, "attributes.status = 'RUNNING'")
    models = client.search_registered_models()
    assert [(model.name, model.aliases) for model in models] == [("gemstones", {"challenger": 1, "champion": 1})]
    versions = client.search_model_versions("name = 'gemstones'")
    assert len({version.tags["model_sha256"] for version in versions}) == len(versions) == 2
    assert names(site.folder, grows=GROWS) - site.files == set()
    with contextlib.chdir(site.folder):
        for copy in dvc_files.abandoned_copies():  # `gemmodel doctor` says to remove them
            shutil.rmtree(copy)
        assert not list(Path(".dvc/tmp/exps").rglob("tmp*"))


def experiment_outputs(site: Site, name: str) -> dict[str, str]:
    """Return the hashes of an experiment's outputs."""
    refs = site.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    (ref,) = [ref for ref in refs if ref.endswith(f"/{name}")]
    stages = yaml.safe_load(site.run("git", "show", f"{ref}:dvc.lock"))["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="I")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        isolate(Path(folder) / "settings")
        build(Path(folder) / "project")
        site = prepare(Path(folder) / "project")
        for i in range(given.first, given.first + given.kills):
            kill_and_heal(site, given.only[i % len(given.only)], i, given.seed)


if __name__ == "__main__":
    main()
