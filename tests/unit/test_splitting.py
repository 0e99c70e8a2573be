"""Every photo in exactly one part, the same part each time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gemmodel.data import splitting
from gemmodel.errors import DataError, ParameterError
from gemmodel.params import Params

Settings = Callable[..., Params]
PARTS = ("train", "val", "test")


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Three classes of 10, 20 and 37 files."""
    for name, number in (("Agate", 10), ("Ruby", 20), ("Star Ruby", 37)):
        (tmp_path / "clean" / name).mkdir(parents=True)
        for place in range(number):
            (tmp_path / "clean" / name / f"{place:02}.jpg").write_text(f"{name} {place}")
    (tmp_path / "clean" / "manifest.jsonl").write_text("{}\n")
    return tmp_path / "clean"


def dealt(clean: Path, out: Path, params: Params) -> dict[str, set[str]]:
    counts = splitting.split(clean, {part: out / part for part in PARTS}, params.split)
    found = {p: {f.relative_to(out / p).as_posix() for f in (out / p).rglob("*") if f.is_file()} for p in PARTS}
    assert counts == {part: len(files) for part, files in found.items()}
    return found


def test_each_photo_goes_into_one_part_with_its_bytes(clean: Path, tmp_path: Path, settings: Settings) -> None:
    parts = dealt(clean, tmp_path / "split", settings())
    everything = {path.relative_to(clean).as_posix() for path in clean.rglob("*.jpg")}
    assert parts["train"] | parts["val"] | parts["test"] == everything
    assert sum(map(len, parts.values())) == len(everything) == 67
    for part, files in parts.items():
        assert {name.split("/")[0] for name in files} == {"Agate", "Ruby", "Star Ruby"}
        assert all((tmp_path / "split" / part / name).read_bytes() == (clean / name).read_bytes() for name in files)
    sizes = {part: sum(name.startswith("Ruby/") for name in files) for part, files in parts.items()}
    assert sizes == {"train": 16, "val": 2, "test": 2}


def test_the_seed_alone_decides(clean: Path, tmp_path: Path, settings: Settings) -> None:
    first = dealt(clean, tmp_path / "first", settings())
    assert dealt(clean, tmp_path / "second", settings()) == first
    assert dealt(clean, tmp_path / "third", settings({"split.seed": 7})) != first
    assert dealt(clean, tmp_path / "fourth", settings({"base.seed": 7})) == first


def test_a_second_split_leaves_nothing_of_the_first(clean: Path, tmp_path: Path, settings: Settings) -> None:
    first = dealt(clean, tmp_path / "split", settings())
    second = dealt(clean, tmp_path / "split", settings({"split.seed": 7}))
    assert sum(map(len, second.values())) == 67
    assert first != second
    assert sorted(path.name for path in (tmp_path / "split").iterdir()) == sorted(PARTS)


def test_shares_are_counted_a_class(clean: Path, tmp_path: Path, settings: Settings) -> None:
    shares = {"split.train": 0.5, "split.val": 0.25, "split.test": 0.25}
    parts = dealt(clean, tmp_path / "split", settings(shares))
    assert {part: len(files) for part, files in parts.items()} == {"train": 33, "val": 16, "test": 18}


@pytest.mark.parametrize("number", [1, 2, 9])
def test_a_class_too_small_is_refused_by_name(clean: Path, tmp_path: Path, settings: Settings, number: int) -> None:
    (clean / "Benitoite").mkdir()
    for place in range(number):
        (clean / "Benitoite" / f"{place}.jpg").touch()
    with pytest.raises(DataError, match=rf"Benitoite: {number} photos are too few"):
        dealt(clean, tmp_path / "split", settings())
    assert not (tmp_path / "split").exists()


def test_one_class_alone_is_refused(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "clean" / "Ruby").mkdir(parents=True)
    for place in range(20):
        (tmp_path / "clean" / "Ruby" / f"{place}.jpg").touch()
    with pytest.raises(DataError, match="Ruby"):
        dealt(tmp_path / "clean", tmp_path / "split", settings())


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.2), (0.5, 0.2, 0.2), (0, 0, 0)])
def test_shares_that_are_not_a_whole_are_refused(
    clean: Path, tmp_path: Path, settings: Settings, shares: tuple[float, ...]
) -> None:
    changes = dict(zip(("split.train", "split.val", "split.test"), shares, strict=True))
    with pytest.raises(ParameterError, match=r"split\.train \+ split\.val \+ split\.test is .*; it must be 1"):
        dealt(clean, tmp_path / "split", settings(changes))
