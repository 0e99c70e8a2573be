"""Names from anywhere become names of files, and pictures keep their numbers."""

import json
import random
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest

from scraper import manifest, safe_names

ODD = [
    "", ".", "..", "...", " ", "/", "\\", "../..", "C:\\x", "a/../b", "CON", "con.txt", "nul.jpg", "AUX ",
    "LPT9.", "COM1", "a\0b", "a\nb", "\x7f", "\x85\x9f", "\u2028", "\u202egpj.a", "x" * 1000, "é" * 300,
    "💎" * 100, "a" * 79 + "💎", "红宝石", "manifest.jsonl", "Crawl.JSON", "a. ", ". a", "<>:\"|?*", "caf\udce9.jpg",
    "\ud800", "~", "-", "CON" + " " * 300, "." * 300, "x" * 160, "x" * 161, "\u0301", "ﬀ", "İ", "ß", "ẞ", "SS",
    "ss", "con/", "n\u0303", "ñ", "Ñ", "AUX ?", "a?\u0301", "K", "\u212a", "k",
]  # fmt: skip
SIGNS = 'aAbB.- /\\:\0\n\x7f\u202e\u200déÉe\u0301💎红\udce9*?"<>|%~Kk\u212aß'


def names(seed: int, number: int = 300) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(SIGNS, k=chance.choice([1, 2, 3, 8, 90, 300]))) for _ in range(number)]


def is_safe(name: str) -> bool:
    return (
        0 < len(name.encode()) <= 255
        and name not in (".", "..")
        and name == name.strip(" .")
        and not set(name) & set('/\\<>:"|?*')
        and not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name)
        and not PureWindowsPath(name).is_reserved()
        and name == unicodedata.normalize("NFC", name)
    )


@pytest.mark.parametrize("name", ODD)
def test_any_name_becomes_one_that_every_disk_takes(name: str) -> None:
    assert is_safe(safe_names.safe_name(name)), safe_names.safe_name(name)
    assert safe_names.safe_name(name) == safe_names.safe_name(name)
    url = f"http://host/{name}?{name}"
    assert is_safe(safe_names.file_name(url)), safe_names.file_name(url)
    path = safe_names.safe_path("Ruby", PurePosixPath("photos", name, (name.replace("/", "") or "x") + ".jpg"))
    assert path.startswith("Ruby/")
    assert path.endswith(".jpg")
    assert all(is_safe(part) for part in path.split("/")), path


@pytest.mark.parametrize("seed", range(5))
def test_drawn_names_become_safe_too(seed: int) -> None:
    for name in names(seed):
        assert is_safe(safe_names.safe_name(name)), (name, safe_names.safe_name(name))
        assert is_safe(safe_names.file_name(f"http://host/{name}")), (name, safe_names.file_name(f"http://host/{name}"))
        for part in safe_names.safe_path("Ruby", PurePosixPath(name, f"x{name}.PNG"), apart=name).split("/"):
            assert is_safe(part), (name, part)


@pytest.mark.parametrize("name", ["Ruby", "Tiger's Eye", "Grün", "红宝石", "Opal (fire)", "a-b_c.d"])
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert safe_names.safe_name(name) == name


def test_a_path_of_any_depth_stays_short() -> None:
    path = safe_names.safe_path("Ruby", PurePosixPath(*["x" * 200] * 500, "1.jpg"))
    assert len(path) < 2000


def test_each_gem_has_a_folder_of_its_own() -> None:
    crafted = ["Ruby", "ruby", *(f"{gem}-{manifest._short_hash(gem)}" for gem in ("Ruby", "ruby"))]
    gems = [*ODD, *crafted, *(name for seed in range(5) for name in names(seed))]
    folders = safe_names.folder_names(gems)
    assert set(folders) == set(gems)
    assert all(is_safe(name) for name in folders.values())
    alike = [unicodedata.normalize("NFC", name.casefold()) for name in folders.values()]
    assert len(set(alike)) == len(set(gems))
    assert not {"manifest.jsonl", "crawl.json"} & set(alike)
    random.Random(1).shuffle(gems)
    assert safe_names.folder_names(gems) == folders


def test_a_picture_keeps_its_suffix_and_another_address_gives_another_name() -> None:
    assert safe_names.file_name("http://host/" + "x" * 500 + ".JPG").endswith(".jpg")
    urls = [f"http://host/{kind}/a.jpg{query}" for kind in "ab" for query in ("", "?1", "#1")]
    assert len({safe_names.file_name(url) for url in urls}) == len(urls)


def lines(**pictures: str) -> list[dict[str, Any]]:
    """Return manifest lines of one gem: SHA-256 by file name, `_` for `.`."""
    return [{"path": f"Ruby/{name}", "gem": "Ruby", "sha256": sha256} for name, sha256 in pictures.items()]


def numbers(numbered: list[dict[str, Any]]) -> dict[str, int]:
    return {PurePosixPath(found["path"]).name: found["number"] for found in numbered}


def test_pictures_are_numbered_from_nought_and_for_ever() -> None:
    first = manifest.assign_numbers(lines(b="2", a="1", c="3"), [])
    assert numbers(first) == {"a": 0, "b": 1, "c": 2}
    assert numbers(manifest.assign_numbers(lines(aa="9", a="1", b="2", c="3"), first)) == {
        "aa": 3,
        "a": 0,
        "b": 1,
        "c": 2,
    }
    assert numbers(manifest.assign_numbers(lines(b="2", c="3"), first)) == {"b": 1, "c": 2}
    assert numbers(manifest.assign_numbers(lines(z="1", b="2", c="3", d="4"), first)) == {
        "z": 0,
        "b": 1,
        "c": 2,
        "d": 3,
    }
    assert numbers(manifest.assign_numbers(lines(a="8", b="2", c="3"), first)) == {"a": 0, "b": 1, "c": 2}


def test_a_folder_that_is_renamed_keeps_its_numbers() -> None:
    """As Ruby's is, once the list names a RUBY."""
    first = manifest.assign_numbers(lines(a="1", b="2"), [])
    later = [found | {"path": found["path"].replace("Ruby/", "Ruby-1/")} for found in lines(a="1", b="2", c="3")]
    assert numbers(manifest.assign_numbers(later, first)) == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("seed", range(30))
def test_numbers_are_never_given_twice(seed: int) -> None:
    chance = random.Random(seed)
    known: list[dict[str, Any]] = []
    for _ in range(8):
        drawn = {
            f"{chance.choice(['Ruby', 'Opal'])}/{chance.randrange(12)}": str(chance.randrange(9)) for _ in range(8)
        }
        now = [{"path": path, "gem": path.split("/")[0], "sha256": sha256} for path, sha256 in drawn.items()]
        after = manifest.assign_numbers(now, known)
        assert {found["path"] for found in after} == set(drawn)
        given = [(found["gem"], found["number"]) for found in after]
        assert len(set(given)) == len(given)
        before = {found["path"]: found["number"] for found in known}
        assert all(before.get(found["path"], found["number"]) == found["number"] for found in after)
        assert manifest.assign_numbers(now, after) == after
        known = after


def test_changes_are_told_by_path() -> None:
    then, now = lines(a="1", b="2", c="3"), lines(b="2", c="4", d="5")
    assert manifest.changes(now, then) == {"new": ["Ruby/d"], "changed": ["Ruby/c"], "vanished": ["Ruby/a"]}


GOOD = {"path": "Ruby/a.jpg", "gem": "Ruby", "sha256": "1", "number": 0}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("", 0),
        ("no JSON", 0),
        (json.dumps(GOOD)[:-5], 0),
        (json.dumps(GOOD), 1),
        (json.dumps(GOOD | {"number": "0"}), 0),
        (json.dumps(GOOD | {"number": None}), 0),
        (json.dumps(GOOD | {"path": 7}), 0),
        (json.dumps(GOOD | {"gem": ["Ruby"]}), 0),
        (json.dumps({"path": "Ruby/a.jpg"}), 0),
        ("[]\n7\nnull\n" + json.dumps(GOOD), 1),
        (json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"path": "Ruby/b.jpg"}), 2),  # a number twice
        (json.dumps({key: GOOD[key] for key in ("path", "gem", "sha256")}), 1),  # of an older version
    ],
)
def test_a_damaged_manifest_is_used_as_far_as_it_goes(tmp_path: Path, text: str, left: int) -> None:
    (tmp_path / "manifest.jsonl").write_text(text)
    old = manifest.load_previous(tmp_path)
    assert len(old) == left
    now = [{"path": f"Ruby/{name}.jpg", "gem": "Ruby", "sha256": "1"} for name in "abc"]
    assert len(set(numbers(manifest.assign_numbers(now, old)).values())) == 3
    manifest.changes(now, old)


def test_a_manifest_that_is_no_file_is_none(tmp_path: Path) -> None:
    assert manifest.load_previous(tmp_path / "nowhere") == []
    (tmp_path / "manifest.jsonl").mkdir()
    assert manifest.load_previous(tmp_path) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.jsonl").write_bytes(b"\xff\xfe")
    assert manifest.load_previous(tmp_path / "other") == []
