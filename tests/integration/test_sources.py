"""The crawl stage on the sample site and on a folder, as a user runs it."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[str]]
ARGUMENTS = ("-m", "stages.crawl", "--out", "data/raw", "--report", "reports/crawl.json")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "data" / "raw" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_sample_site_is_crawled_the_same_twice(tmp_path: Path, run: Run, write_params: Any) -> None:
    write_params(tmp_path, {"crawl.only": ["Ruby", "Tiger's Eye"], "crawl.max_per_gem": 3})
    ended = run(*ARGUMENTS, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "crawl: 6 pictures of 2 gems" in ended.stdout
    report = json.loads((tmp_path / "reports" / "crawl.json").read_text(encoding="utf-8"))
    assert report["by_gem"] == {"Ruby": 3, "Tiger's Eye": 3}
    for line in manifest(tmp_path):
        assert {"path", "gem", "sha256", "bytes", "format", "mineral_class", "properties", "page_url", "picture_url",
                "thumbnail", "number", "prose"} == set(line)  # fmt: skip
        body = (tmp_path / "data" / "raw" / line["path"]).read_bytes()
        assert (line["sha256"], line["bytes"]) == (hashlib.sha256(body).hexdigest(), len(body))
        assert line["mineral_class"]
        assert "127.0.0.1" not in json.dumps(line)
    assert "| Tiger's Eye | 3 |" in (tmp_path / "reports" / "crawl.md").read_text(encoding="utf-8")
    before = content(tmp_path / "data")
    again = run(*ARGUMENTS, cwd=tmp_path)
    assert "0 new, 0 changed, 0 vanished" in again.stdout
    assert content(tmp_path / "data") == before
    report = json.loads((tmp_path / "reports" / "crawl.json").read_text(encoding="utf-8"))
    assert report["cached"] == report["requests"] > 6  # each was asked for again, and none had changed


def test_a_gem_that_the_sample_site_lacks_is_named(tmp_path: Path, run: Run, refused: Any, write_params: Any) -> None:
    write_params(tmp_path, {"crawl.only": ["Kryptonite"]})
    refused(run(*ARGUMENTS, cwd=tmp_path), "crawl", "crawl.only", "Kryptonite")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of classes with nested folders, odd names and files that are no photos."""
    folder = tmp_path / "photos"
    for number, name in enumerate(
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
        Image.new("RGB", (20, 20), (40 * number, 9, 9)).save(folder / name)
    (folder / "Agate" / "notes.txt").write_text("no photo")
    (folder / "Agate" / "Thumbs.db").write_bytes(b"no photo")
    (folder / "Agate" / "page.jpg").write_text("<html>")  # for clean to set aside
    (folder / "No photos").mkdir()
    return folder


@pytest.mark.parametrize("absolute", [True, False])
def test_a_folder_is_copied_byte_for_byte(
    tmp_path: Path, run: Run, write_params: Any, photos: Path, absolute: bool
) -> None:
    write_params(tmp_path, {"crawl.source": "folder", "crawl.folder": str(photos) if absolute else "photos"})
    ended = run(*ARGUMENTS, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    lines = manifest(tmp_path)
    expected = sorted(path.read_bytes() for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    copied = {
        name: body for name, body in content(tmp_path / "data" / "raw").items() if name.startswith(("Agate", "Star"))
    }
    assert sorted(copied.values()) == expected
    assert {line["path"]: line["sha256"] for line in lines} == {
        name: hashlib.sha256(body).hexdigest() for name, body in copied.items()
    }
    assert sorted(line["gem"] for line in lines) == ["Agate"] * 4 + ["Star Ruby"] * 3
    assert len(lines) == len(expected) == 7


def test_a_folder_is_limited_too(tmp_path: Path, run: Run, write_params: Any, photos: Path) -> None:
    changes = {"crawl.source": "folder", "crawl.only": ["Agate"], "crawl.max_per_gem": 2}
    write_params(tmp_path, changes)
    assert run(*ARGUMENTS, cwd=tmp_path).returncode == 0
    assert [line["path"] for line in manifest(tmp_path)] == ["Agate/1.jpg", "Agate/2.PNG"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"crawl.folder": "nowhere"}, "nowhere: no such folder"),
        ({"crawl.folder": "data"}, "data: no photos"),
        ({"crawl.folder": "photos/Agate/far/deep"}, "no photos in its class folders"),
        ({"crawl.only": ["Agate", "Jade"]}, "photos has no Jade"),
        ({"crawl.source": ["sample", "folder"]}, "sample stands alone"),
    ],
)
def test_a_folder_that_cannot_be_used_leaves_all_as_it_was(
    tmp_path: Path, run: Run, refused: Any, write_params: Any, photos: Path, changes: dict[str, Any], told: str
) -> None:
    write_params(tmp_path, {"crawl.source": "folder"} | changes)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "manifest.jsonl").write_text("old")
    before = content(tmp_path)
    refused(run(*ARGUMENTS, cwd=tmp_path), "crawl", told)
    assert content(tmp_path) == before
