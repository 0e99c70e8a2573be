"""What a user can mend ends in one line that names it, and leaves no half of an output."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from PIL import Image

SIZE = 64 * 1024  # bytes of the disk that is soon full


def left(root: Path) -> set[str]:
    """Return what stands in a folder apart from parameters, locks and logs."""
    aside = {"params.yaml", "photos", "log", "logs", "mlflow.db.lock", "mlruns"}
    return {path.relative_to(root).as_posix() for path in root.iterdir() if path.name not in aside}


@pytest.mark.parametrize("stage", ["crawl", "clean", "split", "augment", "register"])
def test_an_unknown_key_is_named(project: Any, refused: Any, stage: str) -> None:
    project.set(clean__blur=3)
    refused(project.stage(stage), stage, "params.yaml: clean.blur")
    assert left(project.root) == set()


@pytest.mark.parametrize(
    ("stage", "named"),
    [
        ("clean", "data/raw"),
        ("split", "data/clean"),
        ("embed", "data/split/train"),
        ("train", "data/split/hierarchy.json"),
        ("evaluate", "models"),
        ("register", "models"),
    ],
)
def test_a_missing_input_is_named(project: Any, refused: Any, stage: str, named: str) -> None:
    refused(project.stage(stage), stage, named)
    assert left(project.root) <= {"data"}
    assert not (project.root / "data").exists() or not list((project.root / "data").iterdir())


def test_a_gpu_that_is_not_there_is_named(project: Any, refused: Any) -> None:
    project.set(train__device="gpu")
    refused(project.stage("train", CUDA_VISIBLE_DEVICES="-1"), "train", "train.device is gpu", "cpu")
    assert left(project.root) == set()


def test_a_class_too_small_is_named(project: Any, refused: Any) -> None:
    for gem, number in (("Ruby", 20), ("Benitoite", 4)):
        (project.root / "data" / "clean" / gem).mkdir(parents=True)
        for place in range(number):
            (project.root / "data" / "clean" / gem / f"{place}.jpg").touch()
    refused(project.stage("split"), "split", "Benitoite: 4 photos")
    assert not (project.root / "data" / "split").exists()


def test_an_unknown_view_is_named(project: Any, refused: Any) -> None:
    project.set(embed__views=["photo", "upside_down"])
    refused(project.stage("embed"), "embed", "embed.views", "upside_down")
    assert left(project.root) == set()


def test_blocks_that_do_not_fit_the_image_are_named(split_project: Any, refused: Any, tmp_path: Path) -> None:
    split_project.set(model__name="cnn", model__cnn__filters=[4] * 7, model__cnn__pooling=["max"] * 7)
    try:
        refused(split_project.stage("train"), "train", "base.image_size of 64 pixels")
        assert not (split_project.root / "models").exists()
    finally:
        split_project.set()


@pytest.fixture
def model(project: Any) -> Path:
    """A file that stands for a trained model, with its answers and photos, for what does not look into it."""
    photos = [project.root / "data" / "split" / part / "Ruby" / "1.jpg" for part in ("train", "val", "test")]
    answers = project.root / "reports" / "evaluation" / "predictions.csv"
    for path in (project.root / "models" / "model.keras", answers, *photos):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    answers.write_text("file,predicted\nRuby/1.jpg,Ruby\n")
    for path in photos:
        Image.new("RGB", (64, 64)).save(path)
    return Path(project.root)


def newer(store: Path) -> None:
    """Make a store, and mark it as of an MLflow version that is not out yet."""
    mlflow.MlflowClient(f"sqlite:///{store}").search_experiments()
    with sqlite3.connect(store) as database:
        database.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")


def no_store(store: Path) -> None:
    store.write_bytes(b"This is no database. " * 100)


@pytest.mark.parametrize(("spoil", "told"), [(newer, "version of MLflow"), (no_store, "runs.db")])
def test_a_store_that_cannot_be_used_is_named(project: Any, refused: Any, model: Path, spoil: Any, told: str) -> None:
    (model / "log").mkdir()
    spoil(model / "log" / "runs.db")
    refused(project.stage("register"), "register", "runs.db", told)
    assert not (model / "reports" / "registration.json").exists()


def test_a_server_that_does_not_answer_is_named(project: Any, refused: Any, model: Path) -> None:
    address = "http://127.0.0.1:9"  # the discard port: nobody listens
    variables = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_TRACKING_URI": address}
    refused(project.stage("register", **variables), "register", address)
    assert not (model / "reports" / "registration.json").exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, as large as two photos."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a disk that is full: only root on Linux can mount a tmpfs")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a disk that is full: no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def photos(folder: Path, kind: str) -> None:
    """Write photos that do not fit on the small disk."""
    for number in range(6):
        (folder / "Ruby").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (120, 120, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "Ruby" / f"{number}.{kind}")


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_full_disk_is_named_when_cleaning(project: Any, refused: Any, full_disk: Path, kind: str) -> None:
    photos(project.root / "photos", kind)
    project.set(crawl__source="folder", crawl__only=[])
    project.run("crawl")
    options = ("--raw", "data/raw", "--out", str(full_disk / "clean"), "--report", str(full_disk / "clean.json"))
    refused(project.python("-m", "stages.clean", *options, cwd=project.root), "clean", "no space left", str(full_disk))
    assert list(full_disk.iterdir()) == []


def test_a_full_disk_is_named_when_a_folder_is_copied(project: Any, refused: Any, full_disk: Path) -> None:
    photos(project.root / "photos", "png")
    project.set(crawl__source="folder", crawl__only=[])
    options = ("--out", str(full_disk / "raw"), "--report", str(full_disk / "crawl.json"))
    refused(project.python("-m", "stages.crawl", *options, cwd=project.root), "crawl", "no space left", str(full_disk))
    assert list(full_disk.iterdir()) == []


def test_a_full_disk_is_named_when_a_site_is_crawled(project: Any, refused: Any, full_disk: Path) -> None:
    project.set(crawl__only=["Ruby"], crawl__max_per_gem=12)
    options = ("--out", str(full_disk / "raw"), "--report", str(full_disk / "crawl.json"))
    refused(project.python("-m", "stages.crawl", *options, cwd=project.root), "crawl", "no space left", str(full_disk))
    assert list(full_disk.iterdir()) == []


def test_a_full_disk_is_named_when_the_copies_do_not_fit(
    split_project: Any, refused: Any, tmp_path: Path, full_disk: Path
) -> None:
    options = ("--train", "data/split/train", "--out", str(full_disk / "augmented"), "--params-file")
    own = shutil.copy(split_project.root / "params.yaml", tmp_path)
    text = Path(own).read_text(encoding="utf-8").replace("images_per_class: 2", "images_per_class: 60")
    Path(own).write_text(text, encoding="utf-8")
    ended = split_project.python("-m", "stages.augment", *options, own, cwd=split_project.root)
    refused(ended, "augment", "no space left", str(full_disk))
    assert list(full_disk.iterdir()) == []
