"""Splitting: every photo is in exactly one part, and in the same part each time."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemmodel.clean import cleaning
from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError, ParameterError
from gemmodel.core.params import Params
from gemmodel.split import splitting, test_list

Settings = Callable[..., Params]
PARTS = ("train", "val", "test")


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Load the shipped parameters but for some keys, with a test list of the test's own."""
    (tmp_path / "test_list.txt").touch()
    return lambda changes=None: settings({"split.test_list": str(tmp_path / "test_list.txt")} | (changes or {}))


def add(clean: Path, name: str, numbers: range, **row: Any) -> list[dict[str, Any]]:
    """Add files to a clean folder, and rows to its manifest, which it returns."""
    (clean / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in numbers:
        text = f"{name} {number}"
        rows.append({"source": f"{name}/{number:02}.png", "sha256": hashlib.sha256(text.encode()).hexdigest()} | row)
        if "reason" not in row:
            rows[-1]["path"] = f"{name}/{number:02}.jpg"
            (clean / rows[-1]["path"]).write_text(text)
    with (clean / "manifest.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return rows


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Three classes of 10, 20 and 37 files."""
    for name, count in (("Agate", 10), ("Ruby", 20), ("Star Ruby", 37)):
        add(tmp_path / "clean", name, range(count))
    return tmp_path / "clean"


def report_and_parts(clean: Path, out: Path, params: Params) -> tuple[dict[str, Any], dict[str, set[str]]]:
    parts = {part: out / part for part in PARTS}
    report = splitting.split(clean, parts, out / "folds.csv", params.split)
    names = {p: {f.relative_to(out / p).as_posix() for f in (out / p).rglob("*") if f.is_file()} for p in PARTS}
    assert report["photos"] == {part: len(files) for part, files in names.items()}
    return report, names


def split(clean: Path, out: Path, params: Params) -> dict[str, set[str]]:
    return report_and_parts(clean, out, params)[1]


def test_each_photo_is_in_one_part_with_its_bytes(clean: Path, tmp_path: Path, settings: Settings) -> None:
    parts = split(clean, tmp_path / "split", settings())
    everything = {path.relative_to(clean).as_posix() for path in clean.rglob("*.jpg")}
    assert parts["train"] | parts["val"] | parts["test"] == everything
    assert sum(map(len, parts.values())) == len(everything) == 67
    for part, names in parts.items():
        assert {name.split("/")[0] for name in names} == {"Agate", "Ruby", "Star Ruby"}
        assert all((tmp_path / "split" / part / name).read_bytes() == (clean / name).read_bytes() for name in names)
    sizes = {part: sum(name.startswith("Ruby/") for name in files) for part, files in parts.items()}
    assert sizes == {"train": 16, "val": 2, "test": 2}


def test_the_split_depends_on_its_seed_only(clean: Path, tmp_path: Path, settings: Settings) -> None:
    first = split(clean, tmp_path / "first", settings())
    assert split(clean, tmp_path / "second", settings()) == first
    assert split(clean, tmp_path / "third", settings({"split.seed": 7})) != first
    assert split(clean, tmp_path / "fourth", settings({"base.seed": 7})) == first


def test_a_second_split_replaces_the_first(clean: Path, tmp_path: Path, settings: Settings) -> None:
    first = split(clean, tmp_path / "split", settings())
    second = split(clean, tmp_path / "split", settings({"split.seed": 7}))
    assert sum(map(len, second.values())) == 67
    assert first != second
    assert sorted(path.name for path in (tmp_path / "split").iterdir()) == sorted([*PARTS, "folds.csv"])


def test_fractions_apply_to_each_class(clean: Path, tmp_path: Path, settings: Settings) -> None:
    fractions = {"split.train": 0.5, "split.val": 0.25, "split.test": 0.25}
    parts = split(clean, tmp_path / "split", settings(fractions))
    assert {part: len(files) for part, files in parts.items()} == {"train": 33, "val": 16, "test": 18}


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_class_that_is_too_small_is_an_error_with_its_name(
    clean: Path, tmp_path: Path, settings: Settings, count: int
) -> None:
    (clean / "Benitoite").mkdir()
    for number in range(count):
        (clean / "Benitoite" / f"{number}.jpg").touch()
    with pytest.raises(DataError, match=rf"Benitoite: {count} photos are too few"):
        split(clean, tmp_path / "split", settings())
    assert not (tmp_path / "split").exists()


def test_a_single_class_is_an_error(tmp_path: Path, settings: Settings) -> None:
    add(tmp_path / "clean", "Ruby", range(20))
    with pytest.raises(DataError, match="Ruby"):
        split(tmp_path / "clean", tmp_path / "split", settings())


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (0.5, 0.2, 0.2), (0, 0, 0)])
def test_fractions_that_do_not_add_up_to_1_are_an_error(
    clean: Path, tmp_path: Path, settings: Settings, fractions: tuple[float, ...]
) -> None:
    changes = dict(zip(("split.train", "split.val", "split.test"), fractions, strict=True))
    with pytest.raises(ParameterError, match=r"split\.train \+ split\.val \+ split\.test is .*; it must be 1"):
        split(clean, tmp_path / "split", settings(changes))


def test_a_class_that_is_too_small_is_dropped_and_reported(clean: Path, tmp_path: Path, settings: Settings) -> None:
    before = split(clean, tmp_path / "before", settings())
    add(clean, "Benitoite", range(4))
    report, parts = report_and_parts(clean, tmp_path / "split", settings({"split.small_classes": "drop"}))
    assert report["dropped"] == {"Benitoite": 4}
    assert parts == before
    assert "dropped Benitoite (4 photos)" in splitting.summary(report)


def test_a_single_class_that_is_not_dropped_is_an_error(clean: Path, tmp_path: Path, settings: Settings) -> None:
    fractions = {"split.train": 0.94, "split.val": 0.03, "split.test": 0.03}
    with pytest.raises(DataError, match="Star Ruby is the only class with enough photos"):
        split(clean, tmp_path / "split", settings(fractions | {"split.small_classes": "drop"}))


def pin(clean: Path, out: Path, tmp_path: Path) -> int:
    return test_list.write(out / "test", clean, tmp_path / "test_list.txt")


def photos_of(parts: dict[str, set[str]], part: str, *gems: str) -> set[str]:
    return {name for name in parts[part] if name.split("/")[0] in gems}


def test_a_pinned_test_part_stays_when_photos_are_added(clean: Path, tmp_path: Path, settings: Settings) -> None:
    before = split(clean, tmp_path / "split", settings())
    assert pin(clean, tmp_path / "split", tmp_path) == len(before["test"])
    add(clean, "Ruby", range(20, 70))
    add(clean, "Topaz", range(20))
    report, after = report_and_parts(clean, tmp_path / "split", settings())
    assert photos_of(after, "test", "Agate", "Ruby", "Star Ruby") == before["test"]
    assert report["test_list"] == {
        "listed": len(before["test"]),
        "replaced_by_duplicate": [],
        "rejected": [],
        "missing": [],
        "new_classes": ["Topaz"],
    }
    assert report["classes"]["Ruby"] == {"train": 60, "val": 8, "test": 2}  # 68 photos at 8 to 1
    assert report["classes"]["Topaz"] == {"train": 16, "val": 2, "test": 2}
    assert sum(map(len, after.values())) == 67 + 70
    for name in before["test"]:
        assert (tmp_path / "split" / "test" / name).read_bytes() == (clean / name).read_bytes()


def test_a_pinned_test_part_does_not_depend_on_the_seed(clean: Path, tmp_path: Path, settings: Settings) -> None:
    before = split(clean, tmp_path / "split", settings())
    pin(clean, tmp_path / "split", tmp_path)
    after = split(clean, tmp_path / "split", settings({"split.seed": 7}))
    assert after["test"] == before["test"]
    assert after["train"] != before["train"]


def test_the_test_part_of_the_publisher_stays_the_test_part(clean: Path, tmp_path: Path, settings: Settings) -> None:
    rows = [*add(clean, "Topaz", range(30), part="train"), *add(clean, "Topaz", range(30, 37), part="test")]
    duplicate = {"reason": "exact copy", "duplicates": ["Topaz/03.png"]}
    add(clean, "Topaz", range(37, 38), part="test", **duplicate)  # its copy in the publisher's training part
    report, parts = report_and_parts(clean, tmp_path / "split", settings())
    expected = {row["path"] for row in rows if row["part"] == "test"} | {"Topaz/03.jpg"}
    assert photos_of(parts, "test", "Topaz") == expected
    assert report["test_list"]["listed"] == 8
    assert report["test_list"]["replaced_by_duplicate"] == ["Topaz/37.png"]


def test_a_listed_photo_is_replaced_by_its_duplicate(clean: Path, tmp_path: Path, settings: Settings) -> None:
    before = split(clean, tmp_path / "split", settings())
    pin(clean, tmp_path / "split", tmp_path)
    copied, missing, ambiguous = sorted(photos_of(before, "test", "Star Ruby"))[:3]
    rows = {row.get("path"): row for row in files.read_jsonl(clean / "manifest.jsonl")}
    for name in (copied, missing, ambiguous):
        (clean / name).unlink()
    gone = {name: rows.pop(name) for name in (copied, missing, ambiguous)}
    for name, reason, duplicate in (
        (copied, "near-duplicate", "Star Ruby/99.png"),
        (ambiguous, "under several gems: Ruby, Star Ruby", "Ruby/98.png"),
    ):
        del gone[name]["path"]
        rows[name] = gone[name] | {"reason": reason, "duplicates": [duplicate]}
    (clean / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    add(clean, "Star Ruby", range(99, 100))
    add(clean, "Ruby", range(98, 99), reason="under several gems: Ruby, Star Ruby")
    report, after = report_and_parts(clean, tmp_path / "split", settings())
    assert after["test"] == before["test"] - {copied, missing, ambiguous} | {"Star Ruby/99.jpg"}
    assert report["test_list"] | {"listed": 0} == {
        "listed": 0,
        "replaced_by_duplicate": [gone[copied]["source"]],
        "rejected": [gone[ambiguous]["source"]],
        "missing": [gone[missing]["source"]],
        "new_classes": [],
    }
    assert "(1 replaced by duplicate, 1 rejected, 1 missing)" in splitting.summary(report)


def test_a_test_list_of_other_photos_changes_nothing(clean: Path, tmp_path: Path, settings: Settings) -> None:
    before = split(clean, tmp_path / "split", settings())
    (tmp_path / "test_list.txt").write_text(f"{'0' * 64}\tOpal/1.jpg\n")
    report, after = report_and_parts(clean, tmp_path / "split", settings())
    assert after == before
    assert report["test_list"] == {"listed": 1, "replaced_by_duplicate": [], "rejected": [], "missing": ["Opal/1.jpg"]}


def test_a_class_whose_photos_are_all_listed_is_an_error(clean: Path, tmp_path: Path, settings: Settings) -> None:
    split(clean, tmp_path / "split", settings())
    pin(clean, tmp_path / "split", tmp_path)
    listed = {path.name for path in (tmp_path / "split" / "test" / "Ruby").iterdir()}
    for path in (clean / "Ruby").iterdir():
        if path.name not in listed:
            path.unlink()
    with pytest.raises(DataError, match=r"Ruby: 2 photos are too few .* with 2 of them on the test list"):
        split(clean, tmp_path / "split", settings())


@pytest.mark.parametrize("text", ["Ruby/01.jpg\n", "0123\tRuby/01.jpg\n", f"{'0' * 64} Ruby/01.jpg\n"])
def test_a_malformed_line_of_the_test_list_is_an_error_with_its_number(
    clean: Path, tmp_path: Path, settings: Settings, text: str
) -> None:
    params = settings()
    (tmp_path / "test_list.txt").write_text(f"# comment\n{text}")
    with pytest.raises(DataError, match=r"test_list\.txt:2: "):
        split(clean, tmp_path / "split", params)


def test_a_missing_test_list_is_an_error(clean: Path, tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt: no such file"):
        split(clean, tmp_path / "split", settings({"split.test_list": "nowhere.txt"}))


@pytest.mark.photos
def test_the_test_part_of_real_gems_stays_when_fifty_photos_are_added(
    real_gems: Path, cats_dogs: Path, tmp_path: Path, settings: Settings
) -> None:
    params = settings()

    def cleaned(sources: dict[str, list[Path]]) -> Path:
        raw, lines = tmp_path / "raw", []
        for gem, paths in sources.items():
            for number, path in enumerate(paths):  # new photos have the last numbers, as in a crawl
                lines.append({"path": f"{gem}/{path.name}", "number": number})
                files.copy(path, raw / gem / path.name)
        files.write_jsonl(raw / "manifest.jsonl", lines)
        cleaning.clean(raw, tmp_path / "clean", params.clean)
        return tmp_path / "clean"

    sources = {name: paths for name, paths in image_folder.list_images(real_gems).items() if name.startswith("Am")}
    assert len(sources) > 1
    before = split(cleaned(sources), tmp_path / "split", params)
    bytes_before = {name: (tmp_path / "split" / "test" / name).read_bytes() for name in before["test"]}
    pin(tmp_path / "clean", tmp_path / "split", tmp_path)
    gem = next(iter(sources))
    cats = image_folder.list_images(cats_dogs)
    sources[gem] = sources[gem] + next(iter(cats.values()))[:50]
    report, after = report_and_parts(cleaned(sources), tmp_path / "split", params)
    assert {name: (tmp_path / "split" / "test" / name).read_bytes() for name in after["test"]} == bytes_before
    assert report["classes"][gem]["train"] > sum(name.startswith(f"{gem}/") for name in before["train"]) + 35


def test_large_classes_are_undersampled_only_in_train(clean: Path, tmp_path: Path, settings: Settings) -> None:
    before = split(clean, tmp_path / "before", settings())
    report, parts = report_and_parts(clean, tmp_path / "split", settings({"split.max_per_class": 12}))
    assert Counter(name.split("/")[0] for name in parts["train"]) == {"Agate": 8, "Ruby": 12, "Star Ruby": 12}
    assert report["undersampled"] == {"Ruby": 4, "Star Ruby": 17}
    assert parts["train"] < before["train"]
    assert (parts["val"], parts["test"]) == (before["val"], before["test"])
    assert split(clean, tmp_path / "split", settings({"split.max_per_class": 12})) == parts
    other = split(clean, tmp_path / "split", settings({"split.max_per_class": 12, "split.seed": 7}))
    assert other["train"] != parts["train"]


def test_folds_are_stratified_and_seeded() -> None:
    labels = np.repeat(["Agate", "Ruby", "Opal"], [50, 23, 3])
    fold = splitting.folds(labels, 5, seed=1)
    assert Counter(fold.tolist()) == {0: 16, 1: 15, 2: 15, 3: 15, 4: 15}
    for name in ("Agate", "Ruby"):
        sizes = np.bincount(fold[labels == name], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(splitting.folds(labels, 5, seed=1), fold)
    assert (splitting.folds(labels, 5, seed=2) != fold).any()


def test_more_folds_than_photos_are_an_error() -> None:
    with pytest.raises(ParameterError, match=r"split\.folds is 5; the largest class has 4 photos"):
        splitting.folds(["Agate"] * 3 + ["Ruby"] * 4, 5, seed=1)


def test_the_folds_file_lists_the_photos_of_train_and_val_in_order(
    clean: Path, tmp_path: Path, settings: Settings
) -> None:
    split(clean, tmp_path / "split", settings({"split.folds": 3}))
    written = (tmp_path / "split" / "folds.csv").read_bytes()
    rows = list(csv.DictReader(written.decode().splitlines()))
    expected = [
        {"part": part, "file": path.relative_to(tmp_path / "split" / part).as_posix(), "gem": gem}
        for part in ("train", "val")
        for gem, paths in image_folder.list_images(tmp_path / "split" / part).items()
        for path in paths
    ]
    fold = [row.pop("fold") for row in rows]
    assert rows == expected
    assert set(fold) == {"0", "1", "2"}
    split(clean, tmp_path / "again", settings({"split.folds": 3}))
    assert (tmp_path / "again" / "folds.csv").read_bytes() == written
