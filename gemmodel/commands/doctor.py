"""The command `gemmodel doctor`: what a project needs, what of it is wrong, and how to mend it."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from gemmodel.commands import dvc_files
from gemmodel.commands.arguments import add_command
from gemmodel.commands.registry import registered_name
from gemmodel.core import hashing, params
from gemmodel.core.errors import DataError, GemmodelError, ParameterError, without_secrets
from gemmodel.tracking import store

PYTHON = ((3, 11), (3, 14))  # the first version, and the first one that is too new
PACKAGES = ("dvc", "mlflow", "tensorflow", "keras", "scrapy", "ai-edge-litert", "numpy", "pandas", "pillow")
MIN_DISK = 2e9  # bytes; the 87 gems' data, features, models and reports take 1.5e9
REMOTE_TIMEOUT_S = 30.0
REMOTE = """
import sys
from dvc.exceptions import DvcException
from dvc.repo import Repo
try:
    repo = Repo()
except DvcException as error:
    sys.exit(" ".join(str(error).split()))
if named := repo.config["core"].get("remote"):
    print(named, flush=True)
    remote = repo.cloud.get_remote()
    remote.fs.exists(remote.path) or sys.exit(f"{remote.path} is not there: not mounted, or nothing was pushed yet")
"""
REINSTALL = "rm .venv/installed && make repro"


class Finding(NamedTuple):
    """What a check found: whether all is well, a description, and how to mend it where it is not."""

    ok: bool
    text: str
    remedy: str = ""


def add(commands: Any) -> None:
    """Adds the command to the subcommands of `gemmodel`."""
    doctor = add_command(
        commands,
        "doctor",
        "Check Python, packages, parameters, DVC, runs, devices and disk, and say how to mend what is wrong",
        "gemmodel doctor",
    )
    doctor.add_argument("--cache", action="store_true", help="also read all files of DVC's cache, which DVC trusts")
    doctor.set_defaults(run=lambda arguments: diagnose(cache=arguments.cache))


def diagnose(*, cache: bool = False) -> None:
    """Prints one line for each check; takes some ten seconds, most of them for TensorFlow.

    Args:
        cache: whether to read all files of DVC's cache too, some 0.5 GB a second.

    Raises:
        DataError: something is wrong.
    """
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": check_python,
        "packages": check_packages,
        "parameters": check_parameters,
        "DVC": check_dvc,
        "DVC remote": check_remote,
        "runs": check_store,
        "devices": check_devices,
        "disk": check_disk,
    }
    if cache:
        checks["DVC cache"] = check_cache
    wrong = 0
    for name, check in checks.items():
        for finding in _findings(check):
            print(f"{'ok' if finding.ok else 'WRONG':5}  {name:10}  {without_secrets(finding.text)}", flush=True)
            if not finding.ok:
                wrong += 1
                print(f"{'':5}  {'':10}  -> {finding.remedy}", flush=True)
    if wrong:
        raise DataError(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong; each arrow says how to mend it")


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yields what a check finds; an error whose message has a remedy ends it, not the command."""
    try:
        yield from check()
    except GemmodelError as error:
        text, _, remedy = str(error).partition("; ")
        yield Finding(False, text, remedy or "see docs/team.md and docs/sharing.md")
    except ModuleNotFoundError as error:
        yield Finding(False, f"{error.name} is not installed", REINSTALL)


def check_python() -> Iterator[Finding]:
    """Yields whether this Python is one that the project supports."""
    first, end = PYTHON
    text = f"{platform.python_version()} at {sys.executable}"
    yield Finding(first <= sys.version_info[:2] < end, text, "make PYTHON=python3.12, after rm -r .venv")


def check_packages() -> Iterator[Finding]:
    """Yields whether the most important packages are installed, in the versions of requirements.lock."""
    file = Path("requirements.lock")
    lock = file.read_text(encoding="utf-8") if file.is_file() else ""
    installed: dict[str, str] = {}
    for name in ("gemmodel", *PACKAGES):
        pinned = set(re.findall(rf"^{name}==([^\s;]+)", lock, re.MULTILINE))
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(False, f"{name} is not installed", REINSTALL)
            continue
        if pinned and installed[name] not in pinned:
            text = f"{name} {installed[name]}, but requirements.lock has {' or '.join(sorted(pinned))}"
            yield Finding(False, text, REINSTALL)
    named = [name for name in ("gemmodel", "dvc", "mlflow", "tensorflow") if name in installed]
    yield Finding(True, ", ".join(f"{name} {installed[name]}" for name in named))


def check_parameters() -> Iterator[Finding]:
    """Yields whether params.yaml is right, and the paths that it names."""
    if not Path("params.yaml").is_file() or not Path("dvc.yaml").is_file():
        raise ParameterError(f"{Path.cwd()}: no project here; run this in the folder of params.yaml and dvc.yaml")
    settings = params.load(Path("params.yaml"))
    params.check_paths(settings)
    yield Finding(True, f"params.yaml: photos from {', '.join(settings.crawl.source)}, model {settings.model.name}")


def check_dvc() -> Iterator[Finding]:
    """Yields whether dvc.lock and DVC's own files are whole."""
    if not Path(".dvc").is_dir():
        yield Finding(False, f"{Path.cwd()}: no .dvc here", "git clone the project again, or run `dvc init`")
        return
    if not dvc_files.LOCK.is_file():
        yield Finding(True, "no dvc.lock yet; `dvc repro` writes it")
    elif dvc_files.is_damaged(dvc_files.LOCK):
        mend = "gemmodel check; or rm dvc.lock && dvc repro, which takes results from DVC's cache"
        yield Finding(False, "dvc.lock is empty, cut off or not DVC's: a run was killed", mend)
    else:
        yield Finding(True, "dvc.lock")
    for lock in filter(dvc_files.is_damaged, dvc_files.RWLOCKS):
        yield Finding(False, f"{lock} is empty or damaged, as after a full disk", f"gemmodel check; or rm {lock}")
    if dvc_files.killed_experiment():
        yield Finding(False, "`dvc exp run` was killed while params.yaml had its values", "gemmodel check")
    if dvc_files.is_damaged(dvc_files.PARAMS):
        mend = "gemmodel check; or git checkout HEAD params.yaml"
        yield Finding(False, "params.yaml is empty or cut off: `dvc exp run` was killed", mend)
    if locks := dvc_files.abandoned_git_locks():
        names = " ".join(map(str, locks))
        yield Finding(False, "git is locked: a command was killed", f"gemmodel check; or rm {names}")
    if copies := dvc_files.abandoned_copies():
        names = " ".join(str(copy.relative_to(Path.cwd())) for copy in copies)
        yield Finding(False, f"{len(copies)} copies of the project, of experiments that were killed", f"rm -r {names}")
    if not shutil.which("dvc"):
        yield Finding(False, "the command dvc is not found", "source .venv/bin/activate")
    if not shutil.which("git"):
        yield Finding(False, "the command git is not found", "install git")


def check_cache() -> Iterator[Finding]:
    """Yields the files of DVC's cache that are damaged: DVC checks them out, and `dvc status` is content."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    folder = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if not folder:  # `check_remote` says why
        return
    objects = dvc_files.cached(Path(folder))
    damaged = [file for file in objects if not dvc_files.is_whole(file)]
    for file in damaged:
        mend = f"rm -rf {file} data models reports && dvc repro, or dvc pull if it was pushed"
        yield Finding(False, f"{file} is damaged", mend)
    if not damaged:
        text = f"{len(objects)} files, all whole; `rm -r data/raw && dvc checkout` restores a folder from them"
        yield Finding(True, text)


def check_remote() -> Iterator[Finding]:
    """Yields whether DVC can open the project, and reach its default remote."""
    if not Path(".dvc").is_dir():
        return
    mend = "docs/sharing.md has the credentials of each kind of remote"
    command = [sys.executable, "-c", REMOTE]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=REMOTE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        yield Finding(False, f"it does not answer within {REMOTE_TIMEOUT_S:g} s", mend)
        return
    named, reason = ended.stdout.strip(), (ended.stderr.strip().splitlines() or ["it cannot be read"])[-1]
    if not ended.returncode:
        text = named or "none: data and models are on this machine only; docs/sharing.md adds one"
        yield Finding(True, text)
    elif named:
        yield Finding(False, f"{named}: {reason}", mend)
    else:
        git = "git init, or git clone the project again"
        config = "correct .dvc/config and .dvc/config.local, or git checkout .dvc/config"
        yield Finding(False, f"DVC: {reason}", git if "git repository" in reason else config)


def check_store() -> Iterator[Finding]:
    """Yields whether the store of runs and models answers, has this MLflow's tables, and a whole champion."""
    uri, file = store.tracking_uri(), store.sqlite_file()
    if file is not None and not file.is_file():
        yield Finding(True, f"{uri}: not there yet; `{store.registering_command()}` creates it")
        return
    from gemmodel.tracking import runs

    for run in runs.check_store():
        end = f"import mlflow; mlflow.MlflowClient('{uri}').set_terminated('{run.info.run_id}', 'KILLED')"
        text = f"the run {run.info.run_name} is open since before this machine started"
        yield Finding(False, text, f'python -c "{end}"')
    text = uri
    if file is not None and not os.access(file, os.W_OK):
        yield Finding(False, f"{text} cannot be written", f"chmod u+w {file}")
        return
    from gemmodel.register import locate

    name = registered_name()
    try:
        hashing.check(locate.mlflow_model(name))
        yield Finding(True, f"{text}, with a champion of {name}")
    except DataError as error:
        if "has no champion" not in str(error):
            raise
        yield Finding(True, f"{text}, without a champion of {name}; `{store.registering_command()}` makes one")


def check_devices() -> Iterator[Finding]:
    """Yields the devices, and whether those that params.yaml requires are there."""
    file = Path("params.yaml")
    required = params.load(file).train.device if file.is_file() else "auto"
    from gemmodel import devices

    found = devices.describe()
    mend = "set train.device to auto, or install NVIDIA's driver and `pip install -e '.[gpu]'`"
    missing = required == "gpu" and not any(line.startswith("GPU") for line in found)
    yield Finding(not missing, ", ".join(found) + (", but train.device is gpu" if missing else ""), mend)


def check_disk() -> Iterator[Finding]:
    """Yields whether the disks of the project and of temporary files have space."""
    import tempfile

    for name, folder in (("here", Path.cwd()), ("for temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        mend = "`dvc gc --workspace` removes results of other settings; TMPDIR moves temporary files"
        yield Finding(free > MIN_DISK, f"{free / 1e9:.1f} GB free {name}", mend)
