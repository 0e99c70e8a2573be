"""The crawl stage on the sample site and on a folder, as a user runs it."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import content
from PIL import Image

from tests.conftest import stage_options

Crawl = Callable[[], subprocess.CompletedProcess[str]]


@pytest.fixture
def crawl(tmp_path: Path, forked: Any) -> Crawl:
    """Run the crawl stage in the test's folder as dvc.yaml does."""
    return lambda: forked("-m", "stages.crawl", *stage_options("crawl"), cwd=tmp_path)


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (folder / "data" / "raw" / "manifest.jsonl").read_text("utf-8").splitlines()]


def test_two_crawls_of_the_sample_site_give_the_same_bytes(tmp_path: Path, crawl: Crawl, write_params: Any) -> None:
    write_params(tmp_path, {"crawl.only": ["Ruby", "Tiger's Eye"], "crawl.max_per_gem": 3})
    process = crawl()
    assert process.returncode == 0, process.stderr
    assert "crawl: 6 pictures of 2 gems" in process.stdout
    report = json.loads((tmp_path / "reports" / "crawl.json").read_text(encoding="utf-8"))
    assert report["by_gem"] == {"Ruby": 3, "Tiger's Eye": 3}
    for row in manifest(tmp_path):
        assert {"path", "gem", "sha256", "bytes", "format", "mineral_class", "properties", "page_url", "picture_url",
                "thumbnail", "number", "prose"} == set(row)  # fmt: skip
        body = (tmp_path / "data" / "raw" / row["path"]).read_bytes()
        assert (row["sha256"], row["bytes"]) == (hashlib.sha256(body).hexdigest(), len(body))
        assert row["mineral_class"]
        assert "127.0.0.1" not in json.dumps(row)
    assert "| Tiger's Eye | 3 |" in (tmp_path / "reports" / "crawl.md").read_text(encoding="utf-8")
    before = content(tmp_path / "data")
    second = crawl()
    assert "0 new, 0 changed, 0 vanished" in second.stdout
    assert content(tmp_path / "data") == before
    report = json.loads((tmp_path / "reports" / "crawl.json").read_text(encoding="utf-8"))
    assert report["cached"] == report["requests"] > 6  # each response was revalidated


def test_a_gem_that_the_sample_site_lacks_is_an_error_that_names_it(
    tmp_path: Path, crawl: Crawl, refused: Any, write_params: Any
) -> None:
    write_params(tmp_path, {"crawl.only": ["Kryptonite"]})
    refused(crawl(), "crawl", "crawl.only", "Kryptonite")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of classes with nested folders, unusual names and files that are not photos."""
    folder = tmp_path / "photos"
    for i, name in enumerate(
        [
            "Agate/1.jpg",
            "Agate/2.PNG",
            "Agate/far/deep/1.jpg",
            "Star Ruby/x-y.jpg",
            "Star Ruby/x/y.jpg",
            "Star Ruby/z.jpg",
        ]
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (40 * i, 9, 9)).save(folder / name)
    (folder / "Agate" / "notes.txt").write_text("no photo")
    (folder / "Agate" / "Thumbs.db").write_bytes(b"no photo")
    (folder / "Agate" / "page.jpg").write_text("<html>")  # the clean stage rejects it
    (folder / "No photos").mkdir()
    return folder


@pytest.mark.parametrize("absolute", [True, False])
def test_a_folder_is_copied_byte_for_byte(
    tmp_path: Path, crawl: Crawl, write_params: Any, photos: Path, absolute: bool
) -> None:
    write_params(tmp_path, {"crawl.source": "folder", "crawl.folder": str(photos) if absolute else "photos"})
    process = crawl()
    assert process.returncode == 0, process.stderr
    rows = manifest(tmp_path)
    expected = sorted(path.read_bytes() for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    copied = {
        name: body for name, body in content(tmp_path / "data" / "raw").items() if name.startswith(("Agate", "Star"))
    }
    assert sorted(copied.values()) == expected
    assert {row["path"]: row["sha256"] for row in rows} == {
        name: hashlib.sha256(body).hexdigest() for name, body in copied.items()
    }
    assert sorted(row["gem"] for row in rows) == ["Agate"] * 4 + ["Star Ruby"] * 3
    assert len(rows) == len(expected) == 7


def test_limits_apply_to_a_folder(tmp_path: Path, crawl: Crawl, write_params: Any, photos: Path) -> None:
    changes = {"crawl.source": "folder", "crawl.only": ["Agate"], "crawl.max_per_gem": 2}
    write_params(tmp_path, changes)
    assert crawl().returncode == 0
    assert [row["path"] for row in manifest(tmp_path)] == ["Agate/1.jpg", "Agate/2.PNG"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"crawl.folder": "nowhere"}, "nowhere: no such folder"),
        ({"crawl.folder": "data"}, "data: no photos"),
        ({"crawl.folder": "photos/Agate/far/deep"}, "no photos in class folders"),
        ({"crawl.only": ["Agate", "Jade"]}, "photos has no Jade"),
        ({"crawl.source": ["sample", "folder"]}, "sample excludes other sources"),
    ],
)
def test_an_unusable_folder_is_an_error_and_changes_no_file(
    tmp_path: Path, crawl: Crawl, refused: Any, write_params: Any, photos: Path, changes: dict[str, Any], expected: str
) -> None:
    write_params(tmp_path, {"crawl.source": "folder"} | changes)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "manifest.jsonl").write_text("old")
    before = content(tmp_path)
    refused(crawl(), "crawl", expected)
    assert content(tmp_path) == before
