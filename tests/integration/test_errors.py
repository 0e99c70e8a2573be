"""Errors that a user can fix: one line that names the cause, and no partial output."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from gemmodel.core import files
from gemmodel.core.errors import DataError
from tests.conftest import user_environment

SIZE = 64 * 1024  # bytes of the disk that is to become full


def outputs(root: Path) -> set[str]:
    """Return the names in a folder, without parameters, locks and logs."""
    ignored = {"params.yaml", "photos", "backbones", "log", "logs", "mlflow.db.lock", "mlruns"}
    return {path.relative_to(root).as_posix() for path in root.iterdir() if path.name not in ignored}


@pytest.mark.parametrize("stage", ["crawl", "clean", "split", "augment", "register"])
def test_an_unknown_key_is_named(project: Any, refused: Any, stage: str) -> None:
    project.set(clean__blur=3)
    refused(project.stage(stage), stage, "params.yaml: clean.blur")
    assert outputs(project.root) == set()


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("clean", "data/raw"),
        ("split", "data/clean"),
        ("embed", "data/split/train"),
        ("train", "data/split/hierarchy.json"),
        ("evaluate", "models"),
        ("register", "models"),
    ],
)
def test_a_missing_input_is_named(project: Any, refused: Any, stage: str, name: str) -> None:
    refused(project.stage(stage), stage, name)
    assert outputs(project.root) <= {"data"}
    assert not (project.root / "data").exists() or not list((project.root / "data").iterdir())


def test_a_missing_gpu_is_named(project: Any, refused: Any) -> None:
    project.set(train__device="gpu")
    refused(project.stage("train", CUDA_VISIBLE_DEVICES="-1"), "train", "train.device is gpu", "cpu")
    assert outputs(project.root) == set()


def test_a_class_that_is_too_small_is_named(project: Any, refused: Any) -> None:
    for gem, count in (("Ruby", 20), ("Benitoite", 4)):
        (project.root / "data" / "clean" / gem).mkdir(parents=True)
        for number in range(count):
            (project.root / "data" / "clean" / gem / f"{number}.jpg").touch()
    refused(project.stage("split"), "split", "Benitoite: 4 photos")
    assert not (project.root / "data" / "split").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_worker_that_the_system_ends_is_an_error_of_one_line(project: Any, refused: Any) -> None:
    raw = project.root / "data" / "raw"
    (raw / "Ruby").mkdir(parents=True)
    os.mkfifo(raw / "Ruby" / "1.jpg")  # a worker waits for its content
    files.write_jsonl(raw / "manifest.jsonl", [{"path": "Ruby/1.jpg", "gem": "Ruby", "number": 0}])
    command = [
        sys.executable,
        "-m",
        "stages.clean",
        "--raw",
        "data/raw",
        "--out",
        "data/clean",
        "--report",
        "clean.json",
    ]
    environment = user_environment(LOKY_MAX_CPU_COUNT="2")
    process = subprocess.Popen(
        command, cwd=project.root, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline, pipe = time.monotonic() + 300, None
    try:
        while pipe is None:
            with suppress(OSError):  # no worker has opened it yet
                pipe = os.open(raw / "Ruby" / "1.jpg", os.O_WRONLY | os.O_NONBLOCK)
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        for worker in psutil.Process(process.pid).children():
            if "LokyProcess" in " ".join(worker.cmdline()):
                worker.kill()
        _, err = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also the workers, which would wait for ever
        if pipe is not None:
            os.close(pipe)
    refused(
        subprocess.CompletedProcess(command, process.returncode, "", err), "clean", "ended a process", "LOKY_MAX_CPU"
    )
    assert not (project.root / "data" / "clean").exists()


def test_an_unknown_view_is_named(project: Any, refused: Any) -> None:
    project.set(embed__views=["photo", "upside_down"])
    refused(project.stage("embed"), "embed", "embed.views", "upside_down")
    assert outputs(project.root) == set()


def test_too_many_blocks_for_the_image_size_are_named(split_project: Any, refused: Any, tmp_path: Path) -> None:
    split_project.set(model__name="cnn", model__cnn__filters=[4] * 7, model__cnn__pooling=["max"] * 7)
    try:
        refused(split_project.stage("train"), "train", "base.image_size of 64 pixels")
        assert not (split_project.root / "models").exists()
    finally:
        split_project.set()


@pytest.fixture
def model(project: Any) -> Path:
    """A project with a file in place of a model, with predictions and photos, for checks before the model is loaded."""
    photos = [project.root / "data" / "split" / part / "Ruby" / "1.jpg" for part in ("train", "val", "test")]
    predictions = project.root / "reports" / "evaluation" / "predictions.csv"
    for path in (project.root / "models" / "model.keras", predictions, *photos):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    predictions.write_text("file,predicted\nRuby/1.jpg,Ruby\n")
    for path in photos:
        Image.new("RGB", (64, 64)).save(path)
    return Path(project.root)


def make_newer(store: Path) -> None:
    """Mark a store as one of a later MLflow version."""
    with sqlite3.connect(store) as database:
        database.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")


def make_damaged(store: Path) -> None:
    store.write_bytes(b"This is not a database. " * 100)


@pytest.mark.parametrize(("make", "message"), [(make_newer, "version of MLflow"), (make_damaged, "runs.db")])
def test_a_store_that_cannot_be_used_is_named(project: Any, refused: Any, model: Path, make: Any, message: str) -> None:
    make(model / "log" / "runs.db")
    refused(project.stage("register"), "register", "runs.db", message)
    assert not (model / "reports" / "registration.json").exists()


def test_an_unreachable_server_is_named(project: Any, refused: Any, model: Path) -> None:
    address = "http://127.0.0.1:9"  # the discard port, on which nothing listens
    variables = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_TRACKING_URI": address}
    refused(project.stage("register", **variables), "register", address)
    assert not (model / "reports" / "registration.json").exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, as large as two photos."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a full disk: only root on Linux can mount a tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a full disk: no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def write_photos(folder: Path, kind: str) -> None:
    """Write photos that do not fit on the small disk."""
    for number in range(6):
        (folder / "Ruby").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (120, 120, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "Ruby" / f"{number}.{kind}")


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_full_disk_is_named_by_clean(project: Any, refused: Any, full_disk: Path, kind: str) -> None:
    write_photos(project.root / "photos", kind)
    project.set(crawl__source="folder", crawl__only=[])
    project.run("crawl")
    options = ("--out", str(full_disk / "clean"), "--report", str(full_disk / "clean.json"))
    ended = project.stage("clean", *options, LOKY_MAX_CPU_COUNT="2")  # in processes, as users have it
    refused(ended, "clean", "no space left", str(full_disk))
    assert list(full_disk.iterdir()) == []


def test_a_full_disk_is_named_by_crawl_from_a_folder(project: Any, refused: Any, full_disk: Path) -> None:
    write_photos(project.root / "photos", "png")
    project.set(crawl__source="folder", crawl__only=[])
    options = ("--out", str(full_disk / "raw"), "--report", str(full_disk / "crawl.json"))
    refused(project.stage("crawl", *options), "crawl", "no space left", str(full_disk))
    assert list(full_disk.iterdir()) == []


def test_a_full_disk_is_named_by_crawl_from_a_site(project: Any, refused: Any, full_disk: Path) -> None:
    project.set(crawl__only=["Ruby"], crawl__max_per_gem=12)
    options = ("--out", str(full_disk / "raw"), "--report", str(full_disk / "crawl.json"))
    refused(project.stage("crawl", *options), "crawl", "no space left", str(full_disk))
    assert list(full_disk.iterdir()) == []


def test_a_full_disk_leaves_the_whole_shards_of_features(full_disk: Path) -> None:
    from gemmodel.embed import embedding, feature_set

    features = np.random.default_rng(0).normal(size=(20, 500))  # 20 KB, and a page for its digest

    def write(i: int) -> None:
        shard = full_disk / feature_set.shard_name(i)
        assert sum(embedding.write_shard(shard, [], lambda _: iter(features))) == len(features)

    write(0)
    write(1)
    whole = sorted(full_disk.iterdir())
    with pytest.raises(DataError, match=r"0002\.npy: no space left on its disk; free some and run this again$"):
        write(2)
    assert sorted(full_disk.iterdir()) == whole
    assert [path.name for path in whole] == ["0000.npy", "0000.sha256", "0001.npy", "0001.sha256"]


def test_a_full_disk_is_named_by_augment(split_project: Any, refused: Any, tmp_path: Path, full_disk: Path) -> None:
    text = (split_project.root / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("images_per_class: 2", "images_per_class: 60"), encoding="utf-8")
    options = ("--out", str(full_disk / "augmented"), "--params-file", str(tmp_path / "params.yaml"))
    refused(split_project.stage("augment", *options), "augment", "no space left", str(full_disk))
    assert list(full_disk.iterdir()) == []
