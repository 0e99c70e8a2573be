"""The command `gemmodel`, as users run it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from gemmodel import cli
from gemmodel.commands import doctor, dvc_files
from gemmodel.core.errors import DataError
from tests.conftest import ROOT, user_environment

Run = Callable[..., Any]


def test_help_lists_all_commands(run: Run, tmp_path: Path) -> None:
    ended = run("-m", "gemmodel.cli", "--help", cwd=tmp_path)
    assert ended.returncode == 0
    listed = {line.split()[0] for line in ended.stdout.splitlines() if line.startswith("    ") and line[4] != " "}
    assert listed == {
        "summary",
        "check",
        "count",
        "inspect",
        "devices",
        "doctor",
        "predict",
        "serve",
        "ui",
        "app",
        "tune",
        "pin-test",
        "register",
        "promote",
        "rollback",
        "worker",
    }


def test_count_prints_a_tree_and_the_sum(forked: Run, tmp_path: Path) -> None:
    for name in ("photos/Ruby/1.jpg", "photos/Ruby/2.PNG", "photos/Ruby/notes.txt", "photos/Agate/deep/3.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ended = forked("-m", "gemmodel.cli", "count", "photos", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == ["photos/", "    Agate/", "        deep/  1", "    Ruby/  2", "3 photos"]


@pytest.mark.parametrize(("exists", "expected"), [(False, "no such folder"), (True, "no photos in it")])
def test_count_of_no_photos_is_an_error(forked: Run, refused: Any, tmp_path: Path, exists: bool, expected: str) -> None:
    if exists:
        (tmp_path / "photos").mkdir()
    refused(forked("-m", "gemmodel.cli", "count", "photos", cwd=tmp_path), "gemmodel", "photos", expected)


@pytest.mark.parametrize("present", ["", "metrics.json"])
def test_summary_without_reports_is_an_error(forked: Run, refused: Any, tmp_path: Path, present: str) -> None:
    if present:
        (tmp_path / present).write_text('{"accuracy": 1.0, "top_5_accuracy": 1.0, "photos": 3}')
    ended = forked("-m", "gemmodel.cli", "summary", "--reports", ".", cwd=tmp_path)
    assert ended.returncode == 1
    refused(ended, "gemmodel", "registration.json" if present else "metrics.json", "dvc repro")
    assert ended.stdout == ""


def test_summary_prints_scores_and_the_decision(forked: Run, tmp_path: Path) -> None:
    scores = {"test_photos": 40, "accuracy": 0.8125, "top_3_accuracy": 0.95}
    decision = {"name": "gemstones", "champion": False, "reason": "does not beat the champion"}
    (tmp_path / "metrics.json").write_text(json.dumps(scores))
    (tmp_path / "registration.json").write_text(json.dumps(decision))
    ended = forked("-m", "gemmodel.cli", "summary", "--reports", ".", cwd=tmp_path)
    assert ended.returncode == 0
    for expected in (
        "accuracy   0.812",
        "top 3 accuracy 0.950",
        "40 test photos",
        "challenger",
        decision["reason"],
        str(tmp_path),
    ):
        assert expected in ended.stdout


def test_devices_lists_a_cpu(forked: Run, tmp_path: Path) -> None:
    ended = forked("-m", "gemmodel.cli", "devices", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "CPU 0" in ended.stdout.splitlines()


def test_pin_test_writes_the_test_list(forked: Run, refused: Any, tmp_path: Path) -> None:
    row = {"source": "Ruby/a b.png", "sha256": "0" * 64, "path": "Ruby/a b.jpg"}
    (tmp_path / "data" / "clean").mkdir(parents=True)
    (tmp_path / "data" / "clean" / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "data" / "split" / "test" / "Ruby").mkdir(parents=True)
    refused(forked("-m", "gemmodel.cli", "pin-test", cwd=tmp_path), "gemmodel", "data/split/test", "no photos")
    (tmp_path / "data" / "split" / "test" / "Ruby" / "a b.jpg").touch()
    ended = forked("-m", "gemmodel.cli", "pin-test", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1 photos" in ended.stdout
    lines = (tmp_path / "photos" / "test_list.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"{'0' * 64}\tRuby/a b.png"]
    (tmp_path / "data" / "split" / "test" / "Ruby" / "other.jpg").touch()
    refused(forked("-m", "gemmodel.cli", "pin-test", cwd=tmp_path), "gemmodel", "Ruby/other.jpg", "dvc repro split")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"crawl.source": "folder", "crawl.folder": "nowhere"}, "nowhere: no such folder or archive"),
        ({"base.sed": 1}, "base.sed is not a known key; did you mean seed?"),
        ({"register.name": "team/gems"}, "register.name is 'team/gems'"),
    ],
)
def test_check_refuses_a_wrong_parameter(
    forked: Run, refused: Any, write_params: Any, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    write_params(tmp_path, changes)
    refused(forked("-m", "gemmodel.cli", "check", cwd=tmp_path), "gemmodel", expected)


def test_worker_without_tf_config_is_an_error(forked: Run, refused: Any, tmp_path: Path) -> None:
    refused(forked("-m", "gemmodel.cli", "worker", cwd=tmp_path, TF_CONFIG=""), "gemmodel", "TF_CONFIG")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predict", "../photo.jpg"], "mlflow.db: no such registry"),
        (["serve"], "mlflow.db: no such registry"),
        (["ui"], "mlflow.db: no such registry"),
        (["app"], "mlflow.db: no such registry"),
        (["promote", "1"], "mlflow.db: no such registry"),
        (["rollback"], "mlflow.db: no such registry"),
        (["tune", "space.yaml"], "params.yaml: no such file"),
        (["check"], "params.yaml: no such file"),
        (["pin-test"], "manifest.jsonl: no such file"),
        (["serve", "--port", "99999"], "--port: 99999 is no port"),
        (["app", "--port", "-1"], "--port: -1 is no port"),
        (["ui", "--port", "0"], "--port: 0 is no port"),
        (["app", "--examples", "nowhere"], "--examples: nowhere: no such folder"),
        (["app", "--per-minute", "0"], "--per-minute: 0 is less than 1"),
    ],
)
def test_outside_of_a_project_a_command_ends_in_one_line_and_leaves_nothing(
    forked: Run, refused: Any, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "empty").mkdir()
    refused(forked("-m", "gemmodel.cli", *arguments, cwd=tmp_path / "empty"), "gemmodel", expected)
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["predct", "x.jpg"], "predct: no such choice; did you mean predict?"),
        (["predict", "x.jpg", "--tpo", "3"], "did you mean --top?"),
        (["tune", "x.yaml", "--sampler", "gird"], "gird: no such choice; did you mean grid?"),
        (["predict", "x.jpg", "--csv", "--json"], "not allowed with"),
    ],
)
def test_the_nearest_right_name_is_proposed(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    with patch.object(sys, "argv", ["gemmodel", *arguments]), pytest.raises(SystemExit, match="2"):
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_each_command_has_a_sentence_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    listed = re.findall(r"^    ([a-z-]+) ", helped(capsys), re.MULTILINE)
    for command in listed:
        text = helped(capsys, command)
        assert "example:" in text and f"gemmodel {command}" in text.split("example:")[1]
        assert ". " in text.split("options:")[0].replace(".\n", ". ")


def helped(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with patch.object(sys, "argv", ["gemmodel", *command, "--help"]), pytest.raises(SystemExit):
        cli.main()
    return capsys.readouterr().out


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with patch.object(sys, "argv", ["gemmodel", "--version"]), pytest.raises(SystemExit, match="0"):
        cli.main()
    assert capsys.readouterr().out == f"gemmodel {metadata.version('gemmodel')}\n"


def test_doctor_names_what_is_wrong_and_how_to_mend_it(
    tmp_path: Path, write_params: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("check_devices", "check_remote", "check_disk"):  # the first two start TensorFlow and DVC
        monkeypatch.setattr(doctor, name, lambda: iter([]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_params(tmp_path, {"train.device": "cpuu"})
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / ".dvc" / "tmp" / "rwlock").touch()
    lock = (ROOT / "dvc.lock").read_text(encoding="utf-8")
    (tmp_path / "dvc.lock").write_text(lock[: len(lock) // 2], encoding="utf-8")
    with pytest.raises(DataError, match="3 things are wrong"):
        doctor.diagnose()
    lines = capsys.readouterr().out
    for expected in (
        "train.device is 'cpuu'", "did you mean cpu?", "dvc.lock is empty, cut off",
        "-> gemmodel check; or rm dvc.lock",
        "-> gemmodel check; or rm .dvc/tmp/rwlock", "not there yet",
    ):  # fmt: skip
        assert expected in lines
    assert sorted(path.name for path in tmp_path.iterdir()) == [".dvc", "dvc.lock", "dvc.yaml", "params.yaml"]


def test_check_mends_what_a_killed_run_left_of_dvcs_files(
    tmp_path: Path, write_params: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dvc_files, "WRITING_S", 0)
    content = (ROOT / "dvc.lock").read_bytes()
    lock, rwlock = tmp_path / "dvc.lock", tmp_path / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    lock.write_bytes(content)
    for command in (["init", "-q"], ["add", "dvc.lock"], ["commit", "-qm", "lock"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    for cut in (0, 1, len(content) // 3, len(content) // 2, len(content) - 1):
        lock.write_bytes(content[:cut])
        rwlock.write_bytes(b"")
        assert len(list(dvc_files.mend())) == 2
        assert lock.read_bytes() == content and not rwlock.exists()
    rwlock.write_text("{}")
    assert list(dvc_files.mend()) == [] and rwlock.exists()
    subprocess.run(["git", "rm", "-q", "--cached", "dvc.lock"], check=True)
    subprocess.run(["git", "commit", "-qm", "none"], check=True)
    lock.write_bytes(content[:99])
    with patch.object(sys, "argv", ["gemmodel", "check"]), pytest.raises(SystemExit, match=r"params\.yaml"):
        cli.main()
    assert "dvc.lock was cut off, as by a killed run: removed" in capsys.readouterr().err
    assert not lock.exists()


def test_check_mends_parameters_that_a_killed_experiment_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dvc_files, "WRITING_S", 0)
    (tmp_path / ".dvc").mkdir()
    content = (ROOT / "params.yaml").read_bytes()
    path = tmp_path / "params.yaml"
    path.write_bytes(b"")
    with patch.object(sys, "argv", ["gemmodel", "check"]), pytest.raises(SystemExit, match=r"params\.yaml"):
        cli.main()  # no commit has it
    path.write_bytes(content)
    for command in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "parameters"]):
        subprocess.run(["git", *command], check=True)
    for cut in (0, 8192):  # DVC empties the file, and writes it in pieces
        path.write_bytes(content[:cut])
        [finding] = [finding for finding in doctor.check_dvc() if "params.yaml" in finding.text]
        assert "gemmodel check" in finding.remedy
        [sentence] = dvc_files.mend()
        assert sentence.startswith("params.yaml was cut off") and "`git stash list`" in sentence
        assert path.read_bytes() == content
    for mistake in (content[:-1], content.replace(b"seed: 1337", b"seed: [", 1).rstrip(), b"base:\n  seed: 1\n"):
        path.write_bytes(mistake)  # of its user
        assert list(dvc_files.mend()) == [] and path.read_bytes() == mistake
    assert "cut off" not in capsys.readouterr().err


def test_check_removes_the_locks_of_a_killed_git_but_not_of_a_living_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dvc_files, "WRITING_S", 0)
    (tmp_path / ".dvc").mkdir()
    subprocess.run(["git", "init", "-q"], check=True)
    assert list(dvc_files.mend()) == []
    locks = [tmp_path / ".git" / name for name in ("index.lock", "refs/heads/main.lock")]
    for lock in locks:
        lock.touch()
    living = subprocess.Popen(["git", "cat-file", "--batch"], stdin=subprocess.PIPE)
    try:
        assert list(dvc_files.mend()) == [] and all(lock.exists() for lock in locks)
    finally:
        living.communicate()
    [finding] = [finding for finding in doctor.check_dvc() if "git is locked" in finding.text]
    assert ".git/index.lock .git/refs/heads/main.lock" in finding.remedy
    assert [text.split()[0] for text in dvc_files.mend()] == [".git/index.lock", ".git/refs/heads/main.lock"]
    assert not any(lock.exists() for lock in locks)


def test_doctor_finds_what_is_damaged_in_dvcs_cache(forked: Run, tmp_path: Path) -> None:
    dvc = partial(forked, "-m", "dvc", cwd=tmp_path)
    assert dvc("init", "--no-scm", "-q").returncode == 0
    (tmp_path / "raw").mkdir()
    for name in ("1", "2"):
        (tmp_path / "raw" / name).write_text(name)
    assert dvc("add", "-q", "raw").returncode == 0
    objects = dvc_files.cached(tmp_path / ".dvc" / "cache")
    assert len(objects) == 3 and all(map(dvc_files.is_whole, objects))  # the third one lists the folder
    damaged = next(file for file in objects if file.read_text() == "2")
    damaged.chmod(0o644)
    damaged.write_text("3")
    damaged.chmod(0o444)
    assert dvc("status", "-q").returncode == 0  # DVC does not notice
    ended = forked("-m", "gemmodel.cli", "doctor", "--cache", cwd=tmp_path)
    (finding,) = re.findall(r"WRONG  DVC cache   (.*)\n.*-> rm -rf (\S*) data models", ended.stdout)
    assert finding == (f"{damaged} is damaged", str(damaged))


WITHOUT_TENSORFLOW = """
import sys
from importlib import metadata
from gemmodel import cli

def version(name, installed=metadata.version):
    if name == "tensorflow":
        raise metadata.PackageNotFoundError(name)
    return installed(name)

sys.modules["tensorflow"], metadata.version = None, version
cli.main()
"""
REMOTE_AWAY = """
[core]
    remote = a
['remote "a"']
    url = /no where
"""


@pytest.mark.parametrize(
    ("git", "config", "text", "remedy"),
    [
        (True, "<<<<<<< HEAD\n[core]\n", "config file error: ", "correct .dvc/config"),
        (False, "", "is not a git repository", "git init"),
        (True, REMOTE_AWAY, "a: /no where is not there", "docs/sharing.md"),
    ],
    ids=["conflict", "no git", "remote"],
)
def test_doctor_goes_on_after_a_missing_package_and_names_what_dvc_cannot_use(
    run: Run, tmp_path: Path, write_params: Any, git: bool, config: str, text: str, remedy: str
) -> None:
    write_params(tmp_path, {})
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(config)
    if git:
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    ended = run("-c", WITHOUT_TENSORFLOW, "doctor", cwd=tmp_path)
    assert "Traceback" not in ended.stderr
    assert re.search(rf"WRONG  DVC remote  .*{text}.*\n *-> {remedy}", ended.stdout), ended.stdout + ended.stderr
    missing = r"WRONG  {} +tensorflow.* is not installed\n +-> rm \.venv/installed && make repro\n"
    assert all(re.search(missing.format(check), ended.stdout) for check in ("packages", "devices")), ended.stdout
    assert "ok     packages    gemmodel" in ended.stdout and "  disk  " in ended.stdout


def test_copies_of_killed_experiments_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [tmp_path / ".dvc" / "tmp" / "exps" / name for name in ("standalone/tmpa", "tmpb", "tmpc")]
    for copy, content in zip(copies, (".dvc", ".dvc", ".git"), strict=True):  # DVC makes .git first
        (copy / content).mkdir(parents=True)
    monkeypatch.chdir(copies[1])  # as a process that still works there
    sleeping = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    monkeypatch.chdir(tmp_path)
    try:
        assert dvc_files.abandoned_copies() == [copies[0], copies[2]]
        texts = [finding.remedy for finding in doctor.check_dvc() if not finding.ok]
        assert "rm -r .dvc/tmp/exps/standalone/tmpa .dvc/tmp/exps/tmpc" in texts
    finally:
        sleeping.communicate(b"\n")


SLOW_TO_END = """
import sys, time

try:
    print("began", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)  # as MLflow may take
    print("ended its run")
    sys.exit(3)
"""


def test_ctrl_c_lets_a_stage_end_in_its_own_time(tmp_path: Path) -> None:
    if not hasattr(os, "killpg"):
        pytest.skip("no groups of processes here")
    (tmp_path / "dvc.yaml").write_text("stages: {register: {cmd: python -m slow}}")
    (tmp_path / "slow.py").write_text(SLOW_TO_END)
    process = subprocess.Popen(
        [sys.executable, "-m", "gemmodel.cli", "register"], cwd=tmp_path, env=user_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "began\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("ended its run\n", "")
    assert process.returncode == 3


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["serve", "--port", "abc"], ["predict"]])
def test_a_wrong_command_line_is_refused_in_one_line(forked: Run, tmp_path: Path, arguments: list[str]) -> None:
    ended = forked("-m", "gemmodel.cli", *arguments, cwd=tmp_path)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "--help" in ended.stderr


def test_a_reader_that_ends_early_causes_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "Ruby").mkdir()
    (tmp_path / "Ruby" / "1.jpg").touch()
    for shell in ("| true", ">&-", "> /dev/full"):
        command = f"{shlex.quote(sys.executable)} -m gemmodel.cli count . {shell}"
        ended = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert len(ended.stderr.splitlines()) <= 1, ended.stderr
        assert "Traceback" not in ended.stderr


def test_variables_that_do_not_count_are_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    ended = run("-m", "gemmodel.cli", "count", ".", cwd=tmp_path, MLFLOW_RUN_ID="abc", KERAS_BACKEND="jax")
    assert ended.returncode == 0
    assert ended.stderr.splitlines() == [
        "gemmodel: KERAS_BACKEND=jax is ignored: tensorflow holds",
        "gemmodel: MLFLOW_RUN_ID=abc is ignored: each training opens a run of its own",
    ]
