"""What a killed `dvc exp run` leaves in git: HEAD on no branch, its values in params.yaml, changes in the stash.

Before DVC writes an experiment's values into params.yaml it puts changes that were not committed into git's stash, and
detaches HEAD from its branch. An experiment without `--temp` and `--queue` has HEAD detached until it ends.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

WORKSPACE_LOCK = Path(".dvc/tmp/exps/rwlock")  # which DVC holds while it prepares an experiment
ARGUMENTS = Path(".dvc/tmp/repro.dat")  # which DVC adds to git's index for that time
EXEC, STASH = "refs/exps/exec", "refs/stash"
ENTRY = re.compile(r"(\w+) \S+@\{(\d+)\} (.*)")
DETACHED = re.compile(r"checkout: moving from (\S+) to ([0-9a-f]{40})")
COMMIT = re.compile(r"[0-9a-f]{40}")
OURS = "dvc: ", "commit: dvc: ", "reset: moving to HEAD"  # the last one by `restore`


class Change(NamedTuple):
    """When a ref was changed, in Unix seconds, to which commit, and git's message."""

    when: int
    commit: str
    message: str


class Move(NamedTuple):
    """When DVC detached HEAD, in Unix seconds, from what, a branch or a commit, and at which commit."""

    when: int
    origin: str
    commit: str


@dataclass(frozen=True)
class KilledExperiment:
    """A `dvc exp run` that was killed.

    Attributes:
        running: whether its stages ran here, so that outputs and params.yaml are partly the experiment's.
        head: the branch or commit where HEAD was; empty if it is there.
        stash: the commit in git's stash with the changes that were not committed; empty if there is none.
    """

    running: bool
    head: str
    stash: str


def find() -> KilledExperiment | None:
    """Returns the experiment that was killed here, if one was. No process of DVC may be at work in the project."""
    log = [] if _git("symbolic-ref", "--quiet", "HEAD") else _reflog("HEAD")  # of a HEAD on no branch
    moves = list(_moves(log))
    if held := _held_since():
        moves = [move for move in moves[:1] if move.when >= held]
        stash = _stashed(held)
        if moves or stash or _git("ls-files", str(ARGUMENTS)):
            return KilledExperiment(False, _head(moves[0]) if moves else "", stash)
    elif log and (_commit(f"{EXEC}/EXEC_BASELINE") or _committed(log)):
        return KilledExperiment(True, _head(moves[0] if moves else Move(0, _commit(f"{EXEC}/EXEC_HEAD"), "")), "")
    elif moves and _git("ls-files", str(ARGUMENTS)):  # another experiment was tried since
        return KilledExperiment(False, _head(moves[-1]), _stashed(moves[-1].when - 1))
    return None


def restore(killed: KilledExperiment) -> Iterator[str]:
    """Puts HEAD where it was and changes that were not committed into their files, and yields what was done.

    What an experiment in preparation has written, its values in params.yaml, goes into git's stash.
    """
    changed = bool(_git("status", "--porcelain", "--untracked-files=no"))
    done, kept = [f"HEAD is at {killed.head} again"] * bool(killed.head), ""
    if not killed.running and changed:
        if killed.stash and _succeeds("diff", "--quiet", killed.stash):
            _git("reset", "--quiet", "--hard")  # the same changes as in the stash
        else:
            _git("stash", "push", "--quiet", "--message", "left by a killed dvc exp run")
            kept = "; its values are in `git stash list`"
    if COMMIT.fullmatch(killed.head):
        _git("update-ref", "--no-deref", "-m", "gemmodel: HEAD is here again", "HEAD", killed.head)
    elif killed.head:
        _git("symbolic-ref", "HEAD", f"refs/heads/{killed.head}")
    if killed.stash and _succeeds("stash", "apply", "--quiet", "--index", killed.stash):
        _git(
            "stash", "drop", "--quiet", f"stash@{{{[change.commit for change in _reflog(STASH)].index(killed.stash)}}}"
        )
        done.append("changes that were not committed are in their files again")
    elif killed.stash:
        done.append(f"changes that were not committed are in git's stash: `git stash apply {killed.stash}`")
    if killed.running:
        if not changed and not _committed(_reflog("HEAD")):  # DVC had not yet put its values there
            _git("stash", "apply", "--quiet", f"{EXEC}/EXEC_MERGE")
        _git("reset", "--quiet")
        for name in ("EXEC_BASELINE", "EXEC_MERGE"):
            _git("update-ref", "-d", f"{EXEC}/{name}")
        kept = "; params.yaml has its values, and `dvc repro` goes on with them: `git diff params.yaml`"
    ARGUMENTS.unlink(missing_ok=True)
    WORKSPACE_LOCK.unlink(missing_ok=True)
    yield f"a `dvc exp run` was killed: {' and '.join(done) or 'params.yaml is as it was'}{kept}"


def _held_since() -> int:
    """Returns when DVC began to prepare an experiment that it did not finish to prepare, in Unix seconds, or 0."""
    try:
        held = "workspace" in json.loads(WORKSPACE_LOCK.read_text(encoding="utf-8"))["write"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return int(WORKSPACE_LOCK.stat().st_mtime) if held else 0


def _moves(log: list[Change]) -> Iterator[Move]:
    """Yields how HEAD was detached, newest first, while the log has changes by DVC only."""
    for when, _, message in log:
        if detached := DETACHED.fullmatch(message):
            yield Move(when, detached[1], detached[2])
        if not COMMIT.fullmatch(detached[1]) if detached else not message.startswith(OURS):
            return


def _committed(log: list[Change]) -> bool:
    """Returns whether the newest change of HEAD is an experiment's commit."""
    return log[0].message.startswith("commit: dvc: ")


def _head(move: Move) -> str:
    """Returns where HEAD was before, or nothing if it is there, or if the branch has other commits since."""
    if _commit(f"refs/heads/{move.origin}") == move.commit:
        return move.origin
    return move.origin if COMMIT.fullmatch(move.origin) and move.origin != _commit("HEAD") else ""


def _stashed(since: int) -> str:
    """Returns the newest commit that DVC, or git without a message, put into the stash since then."""
    stashes = _reflog(STASH)
    return next((put.commit for put in stashes if put.when >= since and put.message.startswith("WIP on ")), "")


def _reflog(ref: str) -> list[Change]:
    """Returns how a ref was changed, newest first; nothing without git."""
    lines = _git("log", "-g", "--date=unix", "--format=%H %gd %gs", ref).splitlines()
    return [Change(int(entry[2]), entry[1], entry[3]) for entry in map(ENTRY.fullmatch, lines) if entry]


def _commit(ref: str) -> str:
    """Returns the commit of a ref, or nothing if there is no such ref."""
    return _git("rev-parse", "--verify", "--quiet", ref)


def _succeeds(*arguments: str) -> bool:
    return subprocess.run(["git", *arguments], capture_output=True).returncode == 0


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git
        return ""
