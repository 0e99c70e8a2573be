"""The raw manifest: permanent picture numbers, changes between two crawls, and damaged manifests."""

import json
import random
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from scraper import manifest


def rows(**pictures: str) -> list[dict[str, Any]]:
    """Return manifest rows of one gem: SHA-256 by file name."""
    return [{"path": f"Ruby/{name}", "gem": "Ruby", "sha256": sha256} for name, sha256 in pictures.items()]


def numbers(numbered: list[dict[str, Any]]) -> dict[str, int]:
    return {PurePosixPath(row["path"]).name: row["number"] for row in numbered}


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        ({"aa": "9", "a": "1", "b": "2", "c": "3"}, {"aa": 3, "a": 0, "b": 1, "c": 2}),  # one is new
        ({"b": "2", "c": "3"}, {"b": 1, "c": 2}),  # one is gone
        ({"z": "1", "b": "2", "c": "3", "d": "4"}, {"z": 0, "b": 1, "c": 2, "d": 3}),  # one is renamed, one is new
        ({"a": "8", "b": "2", "c": "3"}, {"a": 0, "b": 1, "c": 2}),  # one has other bytes
    ],
)
def test_a_picture_keeps_its_number(pictures: dict[str, str], expected: dict[str, int]) -> None:
    first = manifest.assign_numbers(rows(b="2", a="1", c="3"), [])
    assert numbers(first) == {"a": 0, "b": 1, "c": 2}
    assert numbers(manifest.assign_numbers(rows(**pictures), first)) == expected


def test_a_renamed_folder_keeps_its_numbers() -> None:
    """As Ruby's is, once the list names a RUBY."""
    first = manifest.assign_numbers(rows(a="1", b="2"), [])
    later = [row | {"path": row["path"].replace("Ruby/", "Ruby-1/")} for row in rows(a="1", b="2", c="3")]
    assert numbers(manifest.assign_numbers(later, first)) == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("seed", range(30))
def test_numbers_are_unique_and_permanent_over_random_crawls(seed: int) -> None:
    rng = random.Random(seed)
    previous: list[dict[str, Any]] = []
    for _ in range(8):
        pictures = {f"{rng.choice(['Ruby', 'Opal'])}/{rng.randrange(12)}": str(rng.randrange(9)) for _ in range(8)}
        crawled = [{"path": path, "gem": path.split("/")[0], "sha256": sha256} for path, sha256 in pictures.items()]
        numbered = manifest.assign_numbers(crawled, previous)
        assert {row["path"] for row in numbered} == set(pictures)
        used = [(row["gem"], row["number"]) for row in numbered]
        assert len(set(used)) == len(used)
        before = {row["path"]: row["number"] for row in previous}
        assert all(before.get(row["path"], row["number"]) == row["number"] for row in numbered)
        assert manifest.assign_numbers(crawled, numbered) == numbered
        previous = numbered


def test_photos_that_a_crawl_left_out_keep_their_numbers() -> None:
    names = "abcdefghij"
    first = manifest.assign_numbers(rows(**{name: name for name in names}), [])
    few = manifest.assign_numbers(rows(b="b", c="c", f="f"), first)
    retired = manifest.list_retired(few, first)
    assert {row["path"][-1] for row in retired} == set(names) - set("bcf")
    again = manifest.assign_numbers(rows(**{name: name for name in names}), [*retired, *few])
    assert numbers(again) == {name: i for i, name in enumerate(names)}
    assert manifest.list_retired(again, [*retired, *few]) == []


@pytest.mark.parametrize("seed", range(10))
def test_a_number_is_of_one_photo_only_over_random_crawls(seed: int) -> None:
    """Photos vanish and come back, also all of a gem; each has its own bytes."""
    rng = random.Random(seed)
    earlier: list[dict[str, Any]] = []
    photos: dict[tuple[str, int], str] = {}
    for _ in range(8):
        paths = sorted({f"{rng.choice(['Ruby', 'Opal'])}/{rng.randrange(30)}" for _ in range(6)})
        crawled = [{"path": path, "gem": path.split("/")[0], "sha256": path} for path in paths]
        numbered = manifest.assign_numbers(crawled, earlier)
        for row in numbered:
            assert photos.setdefault((row["gem"], row["number"]), row["path"]) == row["path"]
        earlier = [*manifest.list_retired(numbered, earlier), *numbered]
    assert len(set(photos.values())) == len(photos)


def test_changes_are_listed_by_path() -> None:
    then, now = rows(a="1", b="2", c="3"), rows(b="2", c="4", d="5")
    assert manifest.changes(now, then) == {"new": ["Ruby/d"], "changed": ["Ruby/c"], "vanished": ["Ruby/a"]}


VALID = {"path": "Ruby/a.jpg", "gem": "Ruby", "sha256": "1", "number": 0}


@pytest.mark.parametrize(
    ("text", "valid_rows"),
    [
        ("", 0),
        ("no JSON", 0),
        (json.dumps(VALID)[:-5], 0),
        (json.dumps(VALID), 1),
        (json.dumps(VALID | {"number": "0"}), 0),
        (json.dumps(VALID | {"number": None}), 0),
        (json.dumps(VALID | {"path": 7}), 0),
        (json.dumps(VALID | {"gem": ["Ruby"]}), 0),
        (json.dumps({"path": "Ruby/a.jpg"}), 0),
        ("[]\n7\nnull\n" + json.dumps(VALID), 1),
        (json.dumps(VALID) + "\n" + json.dumps(VALID | {"path": "Ruby/b.jpg"}), 2),  # a number twice
        (json.dumps({key: VALID[key] for key in ("path", "gem", "sha256")}), 1),  # of an older version
    ],
)
def test_the_valid_rows_of_a_damaged_manifest_are_used(tmp_path: Path, text: str, valid_rows: int) -> None:
    (tmp_path / "manifest.jsonl").write_text(text)
    previous = manifest.load_previous(tmp_path)
    assert len(previous) == valid_rows
    crawled = [{"path": f"Ruby/{name}.jpg", "gem": "Ruby", "sha256": "1"} for name in "abc"]
    assert len(set(numbers(manifest.assign_numbers(crawled, previous)).values())) == 3
    manifest.changes(crawled, previous)


@pytest.mark.parametrize(
    ("summaries", "numbered"),
    [
        ([{"source": "a"}, {"retired": [VALID]}], 1),
        ([{"source": "a"}, {"retired": [VALID | {"number": "0"}, 7, None]}], 0),
        ([{"source": "a"}, {"retired": 7}], 0),
        ([{"source": "a"}], 0),
    ],
)
def test_the_numbers_of_earlier_pictures_are_no_source(tmp_path: Path, summaries: list[Any], numbered: int) -> None:
    (tmp_path / "crawl.json").write_text(json.dumps(summaries))
    assert manifest.previous_sources(tmp_path) == ["a"]
    assert manifest.load_retired(tmp_path) == [VALID] * numbered
    (tmp_path / "crawl.json").write_text("[7]")
    assert manifest.previous_sources(tmp_path) == manifest.load_retired(tmp_path) == []


def test_a_missing_or_unreadable_manifest_has_no_rows(tmp_path: Path) -> None:
    assert manifest.load_previous(tmp_path / "nowhere") == []
    (tmp_path / "manifest.jsonl").mkdir()
    assert manifest.load_previous(tmp_path) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.jsonl").write_bytes(b"\xff\xfe")
    assert manifest.load_previous(tmp_path / "other") == []
