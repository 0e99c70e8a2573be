"""A `dvc exp run` that is killed between two changes that it makes to git, and `gemmodel check` after it."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gemmodel.commands import doctor, dvc_files

EXPERIMENT = """
import os, signal, sys
from dvc.cli import main
from scmrepo.git import Git

steps = "add checkout commit remove_ref reset set_ref _stash_apply _stash_drop _stash_push".split()
killed, done = int(sys.argv.pop(1)), []

def step(name):
    def counted(git, *arguments, method=getattr(Git, name), **options):
        result = method(git, *arguments, **options)
        done.append(name)
        if len(done) == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return counted

for name in steps:
    setattr(Git, name, step(name))
status = main(["exp", "run", "-S", "model=2", *sys.argv[1:]])
print(*done)
sys.exit(status)
"""
PARAMS, CHANGED = "model: 1\nphotos: 1\n", "model: 1\nphotos: 3\n"
STAGES = "stages:\n  train: {cmd: cp params.yaml model.txt, params: [model], outs: [model.txt]}\n"
NEVER = "999"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def committed(
    forked: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small project of git and DVC, after `dvc repro` and a commit."""
    folder = tmp_path_factory.mktemp("experiments") / "project"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", "-b", "gems"], cwd=folder, check=True)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "dvc.yaml").write_text(STAGES)
    for command in (["init", "-q"], ["repro", "-q"]):
        assert forked("-m", "dvc", *command, cwd=folder).returncode == 0
    for arguments in (["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(
    ("options", "head", "content", "first"),
    [
        (["--temp"], "gems", CHANGED, 1), (["--temp"], "gems", PARAMS, 2), (["--temp"], "", CHANGED, 3),
        ([], "gems", CHANGED, 4), ([], "gems", PARAMS, 5), ([], "", CHANGED, 6),
    ],
)  # fmt: skip
def test_all_is_in_its_place_again(
    committed: Path, forked: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, options: list[str],
    head: str, content: str, first: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(dvc_files, "WRITING_S", 0)

    def start(folder: Path) -> None:
        shutil.copytree(committed, folder, symlinks=True)
        monkeypatch.chdir(folder)
        if not head:
            git("checkout", "-q", "--detach")
        Path("params.yaml").write_text(content)

    start(tmp_path / "undisturbed")
    steps = forked("-c", EXPERIMENT, NEVER, *options, cwd=Path.cwd()).stdout.splitlines()[-1].split()
    assert {"_stash_push", "checkout", "add", "_stash_apply", "set_ref", "commit"} <= {*steps}
    with_values = content.replace("model: 1", "model: 2")
    mended = 0
    for number in range(first, len(steps) + 1, 8):
        start(tmp_path / str(number))
        killed = forked("-c", EXPERIMENT, str(number), *options, cwd=Path.cwd())
        assert killed.returncode == -9, killed.stderr
        noticed = [finding.text for finding in doctor.check_dvc() if "`dvc exp run` was killed" in finding.text]
        sentences = list(dvc_files.mend())
        assert bool(noticed) == any("`dvc exp run` was killed" in sentence for sentence in sentences)
        mended += len(sentences)
        where = f"after {steps[:number]}: {sentences}"
        assert git("branch", "--show-current") == head, where
        assert git("rev-parse", "HEAD") == git("rev-parse", "gems"), where
        now = Path("params.yaml").read_text()
        assert now == content or (now == with_values and not options), where
        assert not git("ls-files", ".dvc/tmp"), where
        if steps[number:] != ["reset"]:  # with which the experiment ends
            assert not git("diff", "--name-only", "--cached"), where
        assert "WIP" not in git("stash", "list"), where
        assert list(dvc_files.mend()) == []
        shutil.rmtree(Path.cwd())
    assert mended


def test_an_experiment_that_was_run_again_at_once(
    committed: Path, forked: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(dvc_files, "WRITING_S", 0)
    shutil.copytree(committed, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    Path("params.yaml").write_text(CHANGED)
    steps = ["_stash_push", "checkout", "_stash_apply", "add", "add"]
    forked("-c", EXPERIMENT, str(len(steps)), "--temp", cwd=Path.cwd())
    forked("-c", EXPERIMENT, NEVER, "--temp", cwd=Path.cwd())  # which DVC refuses or not
    assert not git("branch", "--show-current")
    [sentence] = dvc_files.mend()
    assert sentence.startswith("a `dvc exp run` was killed: HEAD is at gems again and changes")
    assert git("branch", "--show-current") == "gems" and Path("params.yaml").read_text() == CHANGED
    again = forked("-c", EXPERIMENT, NEVER, "--temp", cwd=Path.cwd())
    assert again.returncode == 0, again.stderr
    assert Path("params.yaml").read_text() == CHANGED and git("branch", "--show-current") == "gems"


def test_older_changes_in_the_stash_stay_there(
    committed: Path, forked: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(dvc_files, "WRITING_S", 0)
    shutil.copytree(committed, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    for i in range(101):
        Path("params.yaml").write_text(f"{PARAMS}note: {i}\n")
        git("stash", "push", "-q")
    before = git("stash", "list", "--format=%H")
    Path("params.yaml").write_text(CHANGED)
    forked("-c", EXPERIMENT, "1", "--temp", cwd=Path.cwd())
    assert len(git("stash", "list").splitlines()) == 102
    [sentence] = dvc_files.mend()
    assert "are in their files again" in sentence
    assert git("stash", "list", "--format=%H") == before and Path("params.yaml").read_text() == CHANGED
