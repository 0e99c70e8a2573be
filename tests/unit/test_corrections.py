"""Cleaning applies the table of corrections."""

import hashlib
import io
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gemmodel.clean import cleaning, corrections
from gemmodel.core import files
from gemmodel.core.errors import DataError
from gemmodel.core.params import Params

Draw = Callable[..., Image.Image]
Clean = Callable[[str], dict[str, Any]]
FILES = {  # seed of the drawing, by raw path; Ruby/b.jpg and Spinel/b.jpg are the same photo
    "Ruby/a.jpg": 1, "Ruby/b.jpg": 2, "Ruby/c.jpg": 3, "Spinel/a.jpg": 4, "Spinel/b.jpg": 2, "Spinel/c.jpg": 5,
}  # fmt: skip


def jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92)
    return file.getvalue()


@pytest.fixture
def clean(tmp_path: Path, draw: Draw, settings: Callable[..., Params]) -> Clean:
    """Clean six raw files with a table of corrections."""

    def cleaned(table: str) -> dict[str, Any]:
        (tmp_path / "corrections.csv").write_text(table, encoding="utf-8")
        lines = []
        for i, (name, seed) in enumerate(FILES.items()):
            (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "raw" / name).write_bytes(jpeg(draw(seed, size=(320, 240))))
            gem = name.split("/")[0]
            mineral_class = {"Ruby": "Corundum", "Spinel": "Spinel"}[gem]
            lines.append({"path": name, "gem": gem, "number": i % 3, "mineral_class": mineral_class})
        files.write_jsonl(tmp_path / "raw" / "manifest.jsonl", lines)
        params = settings({"clean.corrections": str(tmp_path / "corrections.csv")}).clean
        return cleaning.clean(tmp_path / "raw", tmp_path / "clean", params, workers=1)

    return cleaned


def kept(root: Path) -> list[str]:
    return sorted(path.relative_to(root / "clean").as_posix() for path in (root / "clean").rglob("*.jpg"))


def sha256(root: Path, name: str) -> str:
    return hashlib.sha256((root / "raw" / name).read_bytes()).hexdigest()


def test_without_corrections_a_photo_under_two_gems_is_rejected(clean: Clean, tmp_path: Path) -> None:
    report = clean("")
    assert kept(tmp_path) == ["Ruby/ruby_0.jpg", "Ruby/ruby_2.jpg", "Spinel/spinel_0.jpg", "Spinel/spinel_2.jpg"]
    assert (report["corrected"], report["unknown_corrections"]) == ({}, [])


@pytest.mark.parametrize("by_hash", [True, False])
def test_a_photo_is_moved_to_its_right_gem_and_another_is_dropped(clean: Clean, tmp_path: Path, by_hash: bool) -> None:
    clean("photo,gem\n")
    photos = [sha256(tmp_path, name) for name in ("Ruby/a.jpg", "Ruby/c.jpg")]
    if not by_hash:
        photos = ["Ruby/ruby_0.jpg", "Ruby/ruby_2.jpg"]
    report = clean(f"photo,gem,path\n{photos[0]},Spinel,ignored\n{photos[1]}, drop,\n")
    assert kept(tmp_path) == ["Spinel/ruby_0.jpg", "Spinel/spinel_0.jpg", "Spinel/spinel_2.jpg"]
    assert report["corrected"] == {"Ruby/a.jpg": "Spinel", "Ruby/c.jpg": "drop"}
    assert report["rejected"] == {"dropped by hand": 1, "under several gems": 2}
    rows = {row["source"]: row for row in map(json.loads, (tmp_path / "clean/manifest.jsonl").open())}
    moved = rows["Ruby/a.jpg"]
    assert (moved["gem"], moved["path"], moved["mineral_class"]) == ("Spinel", "Spinel/ruby_0.jpg", "Spinel")


@pytest.mark.parametrize("table", ["Spinel/spinel_1.jpg,Ruby\n", "Spinel/spinel_1.jpg,drop\n", "{hash},Ruby\n"])
def test_a_correction_resolves_a_photo_under_two_gems(clean: Clean, tmp_path: Path, table: str) -> None:
    clean("")
    report = clean("photo,gem\n" + table.format(hash=sha256(tmp_path, "Ruby/b.jpg")))
    assert "under several gems" not in report["rejected"]
    assert sum(name.startswith("Ruby/") for name in kept(tmp_path)) == 3


def test_a_correction_without_a_photo_is_listed(clean: Clean, tmp_path: Path) -> None:
    report = clean("photo,gem\nOpal/opal_7.jpg,Agate\n")
    assert (report["corrected"], report["unknown_corrections"]) == ({}, ["Opal/opal_7.jpg"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("Ruby/ruby_0.jpg,Spinel\n", "first line must be photo,gem"),
        ("photo,gem\nRuby/ruby_0.jpg,Spinell\n", "ruby_0.jpg is corrected to Spinell"),
        ("photo,gem\nRuby/ruby_0.jpg,\n", "a line needs both"),
        ("photo,gem\nRuby/ruby_0.jpg,Spinel\nRuby/ruby_0.jpg,drop\n", "ruby_0.jpg is both Spinel and drop"),
    ],
)
def test_a_malformed_table_is_an_error(clean: Clean, table: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        clean(table)


def test_a_photo_with_two_corrections_is_an_error(clean: Clean, tmp_path: Path) -> None:
    clean("")
    with pytest.raises(DataError, match=r"ruby_0.jpg is both Spinel and drop"):
        clean(f"photo,gem\nRuby/ruby_0.jpg,Spinel\n{sha256(tmp_path, 'Ruby/a.jpg')},drop\n")


def test_a_missing_table_and_one_that_is_not_text_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        corrections.read(tmp_path / "none.csv")
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        corrections.read(tmp_path / "table.csv")


def test_a_class_called_as_the_keyword_is_refused_where_the_keyword_is_used() -> None:
    photos = [("a" * 64, "drop/1.jpg"), ("b" * 64, "Ruby/1.jpg")]
    with pytest.raises(DataError, match="a class is called drop"):
        corrections.match({"Ruby/1.jpg": "drop"}, photos, {"drop", "Ruby"})
    assert corrections.match({"drop/1.jpg": "Ruby"}, photos, {"drop", "Ruby"}) == ({0: "Ruby"}, [])


def test_names_are_compared_without_capitals_unicode_form_and_spaces() -> None:
    nfc, nfd = "Am\u00e9thyste", "Ame\u0301thyste"
    photos = [("a" * 64, f"{nfc}/1.jpg"), ("b" * 64, "Ruby/2.jpg"), ("c" * 64, "Ruby/3.jpg")]
    table = {f"{nfd.upper()}/1.JPG": "ruby ", "B" * 64: nfd, "ruby/3.jpg": "Drop", "opal/4.jpg": "drop"}
    assert corrections.match(table, photos, {nfc, "Ruby"}) == ({0: "Ruby", 1: nfc, 2: "drop"}, ["opal/4.jpg"])
    with pytest.raises(DataError, match="is both Ruby and drop"):
        corrections.match({"Ruby/2.jpg": "drop", "RUBY/2.jpg": "ruby"}, photos, {nfc, "Ruby"})


def test_photos_of_one_name_are_both_kept(tmp_path: Path, draw: Draw, settings: Callable[..., Params]) -> None:
    """Two gems whose files have the same names; one photo is moved to the other gem, two of both to a third."""
    raw, lines = tmp_path / "raw", []
    for i, (gem, number) in enumerate([*product(["Rose Quartz", "Rose_Quartz"], range(3)), ("Ruby", 0)]):
        path = raw / gem / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(draw(i, size=(320, 240))))
        lines.append({"path": path.relative_to(raw).as_posix(), "gem": gem, "number": number})
    files.write_jsonl(raw / "manifest.jsonl", lines)
    table = "photo,gem\nRose Quartz/rose_quartz_1.jpg,Rose_Quartz\n"
    table += "".join(f"{gem}/rose_quartz_2.jpg,Ruby\n" for gem in ("Rose Quartz", "Rose_Quartz"))
    (tmp_path / "corrections.csv").write_text(table, encoding="utf-8")
    params = settings({"clean.corrections": str(tmp_path / "corrections.csv")}).clean
    report = cleaning.clean(raw, tmp_path / "clean", params, workers=1)
    assert report["kept"] == len(kept(tmp_path)) == 7
    rows = files.read_jsonl(tmp_path / "clean" / "manifest.jsonl")
    for row in rows:  # each has its own photo
        assert hashlib.sha256((tmp_path / "clean" / row["path"]).read_bytes()).hexdigest() == row["sha256"]
    moved = {row["source"]: row["path"] for row in rows if row["source"].split("/")[0] != row["path"].split("/")[0]}
    digest = sha256(tmp_path, "Rose Quartz/1.jpg")[:8]
    assert moved.pop("Rose Quartz/1.jpg") == f"Rose_Quartz/rose_quartz_1-{digest}.jpg"
    assert [path.split("/")[0] for path in moved.values()] == ["Ruby", "Ruby"]
