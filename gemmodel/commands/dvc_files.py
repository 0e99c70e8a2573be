"""DVC's own files and git's locks: what a killed command or a full disk leaves, and what of the cache is damaged."""

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from gemmodel.core import params
from gemmodel.core.errors import ParameterError

LOCK, RWLOCK = Path("dvc.lock"), Path(".dvc/tmp/rwlock")
OBJECT = re.compile(r"[0-9a-f]{30}(\.dir)?")  # the name of a file in the cache
WRITING_S = 1.0  # DVC empties its files before it writes them


def is_damaged(file: Path) -> bool:
    """Returns whether dvc.lock or DVC's rwlock is there, but empty or cut off."""
    if not file.is_file():
        return False
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
    """
    if not Path(".dvc").is_dir() or not (any(map(is_damaged, (LOCK, RWLOCK))) or abandoned_git_locks()):
        return
    time.sleep(WRITING_S)
    for lock in abandoned_git_locks():
        lock.unlink()
        yield f"{lock} was left by a killed command, so that git and DVC refused: removed"
    if is_damaged(RWLOCK):
        RWLOCK.unlink()
        yield f"{RWLOCK} was empty or cut off, as after a full disk: removed"
    if is_damaged(LOCK):
        LOCK.unlink()
        subprocess.run(["git", "checkout", "--quiet", "HEAD", "--", str(LOCK)], stderr=subprocess.DEVNULL)
        if is_damaged(LOCK):
            LOCK.unlink()
        done = "taken from the last commit" if LOCK.is_file() else "removed"
        yield f"{LOCK} was cut off, as by a killed run: {done}; `dvc repro` takes what ran since from its cache"


def abandoned_git_locks() -> list[Path]:
    """Returns the locks in git's folder if no process of git or DVC works in the project any more.

    With them `git commit`, `git checkout` and `dvc exp run` say that the index or a ref is locked.
    """
    with suppress(FileNotFoundError):  # no git
        command = ["git", "rev-parse", "--show-toplevel", "--absolute-git-dir"]
        project, folder = subprocess.run(command, capture_output=True, text=True).stdout.splitlines() or ("", "")
        locks = sorted([*Path(folder).glob("*.lock"), *Path(folder, "refs").rglob("*.lock")]) if folder else []
        at_work = (
            process for process, place in _working_directories() if place.is_relative_to(Path(project).resolve())
        )
        if locks and not any(map(_locks_git, at_work)):
            return [Path(os.path.relpath(lock)) for lock in locks]
    return []


def _locks_git(process: psutil.Process) -> bool:
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
