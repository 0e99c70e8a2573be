"""The command `gemmodel`, as users run it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_help_lists_all_commands(run: Run, tmp_path: Path) -> None:
    ended = run("-m", "gemmodel.cli", "--help", cwd=tmp_path)
    assert ended.returncode == 0
    listed = {line.split()[0] for line in ended.stdout.splitlines() if line.startswith("    ") and line[4] != " "}
    assert listed == {
        "summary",
        "check",
        "count",
        "devices",
        "predict",
        "serve",
        "app",
        "tune",
        "pin-test",
        "promote",
        "rollback",
        "worker",
    }


def test_count_prints_a_tree_and_the_sum(run: Run, tmp_path: Path) -> None:
    for name in ("photos/Ruby/1.jpg", "photos/Ruby/2.PNG", "photos/Ruby/notes.txt", "photos/Agate/deep/3.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ended = run("-m", "gemmodel.cli", "count", "photos", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == ["photos/", "    Agate/", "        deep/  1", "    Ruby/  2", "3 photos"]


@pytest.mark.parametrize(("exists", "expected"), [(False, "no such folder"), (True, "no photos in it")])
def test_count_of_no_photos_is_an_error(run: Run, refused: Any, tmp_path: Path, exists: bool, expected: str) -> None:
    if exists:
        (tmp_path / "photos").mkdir()
    refused(run("-m", "gemmodel.cli", "count", "photos", cwd=tmp_path), "gemmodel", "photos", expected)


@pytest.mark.parametrize("present", ["", "metrics.json"])
def test_summary_without_reports_is_an_error(run: Run, refused: Any, tmp_path: Path, present: str) -> None:
    if present:
        (tmp_path / present).write_text('{"accuracy": 1.0, "top_5_accuracy": 1.0, "photos": 3}')
    ended = run("-m", "gemmodel.cli", "summary", "--reports", ".", cwd=tmp_path)
    assert ended.returncode == 1
    refused(ended, "gemmodel", "registration.json" if present else "metrics.json", "dvc repro")
    assert ended.stdout == ""


def test_summary_prints_scores_and_the_decision(run: Run, tmp_path: Path) -> None:
    scores = {"photos": 40, "accuracy": 0.8125, "top_3_accuracy": 0.95}
    decision = {"name": "gemstones", "champion": False, "reason": "does not beat the champion"}
    (tmp_path / "metrics.json").write_text(json.dumps(scores))
    (tmp_path / "registration.json").write_text(json.dumps(decision))
    ended = run("-m", "gemmodel.cli", "summary", "--reports", ".", cwd=tmp_path)
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


def test_devices_lists_a_cpu(run: Run, tmp_path: Path) -> None:
    ended = run("-m", "gemmodel.cli", "devices", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "CPU 0" in ended.stdout.splitlines()


def test_pin_test_writes_the_test_list(run: Run, refused: Any, tmp_path: Path) -> None:
    row = {"source": "Ruby/a b.png", "sha256": "0" * 64, "path": "Ruby/a b.jpg"}
    (tmp_path / "data" / "clean").mkdir(parents=True)
    (tmp_path / "data" / "clean" / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "data" / "split" / "test" / "Ruby").mkdir(parents=True)
    refused(run("-m", "gemmodel.cli", "pin-test", cwd=tmp_path), "gemmodel", "data/split/test", "no photos")
    (tmp_path / "data" / "split" / "test" / "Ruby" / "a b.jpg").touch()
    ended = run("-m", "gemmodel.cli", "pin-test", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1 photos" in ended.stdout
    lines = (tmp_path / "photos" / "test_list.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [f"{'0' * 64}\tRuby/a b.png"]
    (tmp_path / "data" / "split" / "test" / "Ruby" / "other.jpg").touch()
    refused(run("-m", "gemmodel.cli", "pin-test", cwd=tmp_path), "gemmodel", "Ruby/other.jpg", "dvc repro split")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"crawl.source": "folder", "crawl.folder": "nowhere"}, "nowhere: no such folder or archive"),
        ({"base.sed": 1}, "base.sed is not a known key"),
        ({"register.name": "team/gems"}, "register.name is 'team/gems'"),
    ],
)
def test_check_refuses_a_wrong_parameter(
    run: Run, refused: Any, write_params: Any, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    write_params(tmp_path, changes)
    refused(run("-m", "gemmodel.cli", "check", cwd=tmp_path), "gemmodel", expected)


def test_worker_without_tf_config_is_an_error(run: Run, refused: Any, tmp_path: Path) -> None:
    refused(run("-m", "gemmodel.cli", "worker", cwd=tmp_path, TF_CONFIG=""), "gemmodel", "TF_CONFIG")
