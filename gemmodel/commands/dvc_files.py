"""What a killed command or a full disk leaves of DVC's files, params.yaml and git's locks, and damage to the cache."""

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import psutil

from gemmodel.commands import killed_experiments
from gemmodel.commands.killed_experiments import KilledExperiment
from gemmodel.core import params
from gemmodel.core.errors import ParameterError

LOCK, PARAMS = Path("dvc.lock"), Path("params.yaml")
RWLOCKS = Path(".dvc/tmp/rwlock"), killed_experiments.WORKSPACE_LOCK
OBJECT = re.compile(r"[0-9a-f]{30}(\.dir)?")  # the name of a file in the cache
WRITING_S = 1.0  # DVC empties its files before it writes them


def is_damaged(file: Path) -> bool:
    """Returns whether dvc.lock, an rwlock of DVC or params.yaml is there, but empty or cut off."""
    if not file.is_file():
        return False
    if file.name == PARAMS.name:  # an editor may leave it without the last line's end, but with its last section
        content, last = file.read_bytes(), fields(params.Params)[-1].name
        return not content.endswith(b"\n") and f"\n{last}:".encode() not in content
    try:
        if file.name != LOCK.name:
            json.loads(file.read_text(encoding="utf-8"))
            return False
        stages = params.read(file)["stages"]
        whole = file.read_bytes().endswith(b"\n") and all(isinstance(stage["cmd"], str) for stage in stages.values())
    except (ValueError, ParameterError, TypeError, KeyError, AttributeError):
        return True
    return not whole


def mend() -> Iterator[str]:
    """Mends what a killed command left in the working directory, and yields what was done, as sentences.

    dvc.lock comes from the last commit. What ran since then is in DVC's cache of runs, where `dvc repro` finds it.
    params.yaml, into which `dvc exp run -S` writes its values, comes from there too.
    """
    if not Path(".dvc").is_dir() or not (
        any(map(is_damaged, (LOCK, *RWLOCKS, PARAMS))) or abandoned_git_locks() or killed_experiment()
    ):
        return
    time.sleep(WRITING_S)
    for lock in abandoned_git_locks():
        lock.unlink()
        yield f"{lock} was left by a killed command, so that git and DVC refused: removed"
    for lock in filter(is_damaged, RWLOCKS):
        lock.unlink()
        yield f"{lock} was empty or cut off, as after a full disk: removed"
    if killed := killed_experiment():
        yield from killed_experiments.restore(killed)
    if is_damaged(LOCK):
        LOCK.unlink()
        _check_out(LOCK)
        if is_damaged(LOCK):
            LOCK.unlink()
        done = "taken from the last commit" if LOCK.is_file() else "removed"
        yield f"{LOCK} was cut off, as by a killed run: {done}; `dvc repro` takes what ran since from its cache"
    if is_damaged(PARAMS):
        _check_out(PARAMS)
        if not is_damaged(PARAMS):
            yield (
                f"{PARAMS} was cut off, as by a killed `dvc exp run`: taken from the last commit; `git stash list` "
                "shows whether DVC kept changes that were not committed"
            )


def _check_out(file: Path) -> None:
    """Takes a file from the last commit, if it is there."""
    subprocess.run(["git", "checkout", "--quiet", "HEAD", "--", str(file)], stderr=subprocess.DEVNULL)


def abandoned_git_locks() -> list[Path]:
    """Returns the locks in git's folder if no process of git or DVC works in the project any more.

    With them `git commit`, `git checkout` and `dvc exp run` say that the index or a ref is locked.
    """
    with suppress(FileNotFoundError):  # no git
        command = ["git", "rev-parse", "--show-toplevel", "--absolute-git-dir"]
        project, folder = subprocess.run(command, capture_output=True, text=True).stdout.splitlines() or ("", "")
        locks = sorted([*Path(folder).glob("*.lock"), *Path(folder, "refs").rglob("*.lock")]) if folder else []
        if locks and not _at_work(Path(project)):
            return [Path(os.path.relpath(lock)) for lock in locks]
    return []


def killed_experiment() -> KilledExperiment | None:
    """Returns the `dvc exp run` that was killed here, unless a process of git or DVC is at work in the project."""
    killed = killed_experiments.find()
    return killed if killed and not _at_work(Path.cwd()) else None


def _at_work(project: Path) -> bool:
    """Returns whether a process of git or DVC has its working directory in the project."""
    return any(
        place.is_relative_to(project.resolve()) and _is_git_or_dvc(process) for process, place in _working_directories()
    )


def _is_git_or_dvc(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        program = [Path(argument).stem for argument in process.cmdline()[:3]]  # such as python -m dvc
        return process.pid != os.getpid() and not {"git", "dvc"}.isdisjoint(program)
    return False


def _working_directories() -> Iterator[tuple[psutil.Process, Path]]:
    """Yields the processes whose working directory may be read, with it."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            yield process, Path(process.cwd())


def cached(cache: Path) -> list[Path]:
    """Returns the files of DVC's cache, which are named by their MD5."""
    return sorted(file for file in (cache / "files" / "md5").glob("??/*") if OBJECT.fullmatch(file.name))


def is_whole(file: Path) -> bool:
    """Returns whether a file of DVC's cache has the content that its name says. DVC itself does not compare them."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest() == file.parent.name + file.name.removesuffix(".dir")


def abandoned_copies() -> list[Path]:
    """Returns the copies of the workspace of `dvc exp run --temp` and `--queue` in which no process works any more."""
    folder = Path(".dvc/tmp/exps").absolute()
    copies = [copy for copy in (*folder.glob("tmp*"), *folder.glob("standalone/tmp*")) if copy.is_dir()]
    places = [place for _, place in _working_directories()]
    return sorted(copy for copy in copies if not any(place.is_relative_to(copy.resolve()) for place in places))
