"""Names from anywhere become file names that every file system accepts."""

import random
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from scraper import safe_names

UNSAFE_NAMES = [
    "", ".", "..", "...", " ", "/", "\\", "../..", "C:\\x", "a/../b", "CON", "con.txt", "nul.jpg", "AUX ",
    "LPT9.", "COM1", "a\0b", "a\nb", "\x7f", "\x85\x9f", "\u2028", "\u202egpj.a", "x" * 1000, "é" * 300,
    "💎" * 100, "a" * 79 + "💎", "红宝石", "manifest.jsonl", "Crawl.JSON", "a. ", ". a", "<>:\"|?*", "caf\udce9.jpg",
    "\ud800", "~", "-", "CON" + " " * 300, "." * 300, "x" * 160, "x" * 161, "\u0301", "ﬀ", "İ", "ß", "ẞ", "SS",
    "ss", "con/", "n\u0303", "ñ", "Ñ", "AUX ?", "a?\u0301", "K", "\u212a", "k",
]  # fmt: skip
CHARACTERS = 'aAbB.- /\\:\0\n\x7f\u202e\u200déÉe\u0301💎红\udce9*?"<>|%~Kk\u212aß'


def random_names(seed: int, count: int = 300) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(CHARACTERS, k=rng.choice([1, 2, 3, 8, 90, 300]))) for _ in range(count)]


def is_safe(name: str) -> bool:
    return (
        0 < len(name.encode()) <= 255
        and name not in (".", "..")
        and name == name.strip(" .")
        and not set(name) & set('/\\<>:"|?*')
        and not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name)
        and not PureWindowsPath(name).is_reserved()
        and name == unicodedata.normalize("NFC", name)
    )


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_any_name_becomes_safe(name: str) -> None:
    assert is_safe(safe_names.safe_name(name)), safe_names.safe_name(name)
    assert safe_names.safe_name(name) == safe_names.safe_name(name)
    url = f"http://host/{name}?{name}"
    assert is_safe(safe_names.file_name(url)), safe_names.file_name(url)
    path = safe_names.safe_path("Ruby", PurePosixPath("photos", name, (name.replace("/", "") or "x") + ".jpg"))
    assert path.startswith("Ruby/")
    assert path.endswith(".jpg")
    assert all(is_safe(part) for part in path.split("/")), path


@pytest.mark.parametrize("seed", range(5))
def test_random_names_become_safe(seed: int) -> None:
    for name in random_names(seed):
        assert is_safe(safe_names.safe_name(name)), (name, safe_names.safe_name(name))
        assert is_safe(safe_names.file_name(f"http://host/{name}")), (name, safe_names.file_name(f"http://host/{name}"))
        for part in safe_names.safe_path("Ruby", PurePosixPath(name, f"x{name}.PNG"), salt=name).split("/"):
            assert is_safe(part), (name, part)


@pytest.mark.parametrize("name", ["Ruby", "Tiger's Eye", "Grün", "红宝石", "Opal (fire)", "a-b_c.d"])
def test_a_safe_name_does_not_change(name: str) -> None:
    assert safe_names.safe_name(name) == name


def test_a_path_of_any_depth_stays_short() -> None:
    path = safe_names.safe_path("Ruby", PurePosixPath(*["x" * 200] * 500, "1.jpg"))
    assert len(path) < 2000


def test_each_gem_gets_its_own_folder() -> None:
    colliding = ["Ruby", "ruby"]
    colliding += safe_names.folder_names(colliding).values()  # names with the hashes that would resolve the collision
    gems = [*UNSAFE_NAMES, *colliding, *(name for seed in range(5) for name in random_names(seed))]
    folders = safe_names.folder_names(gems)
    assert set(folders) == set(gems)
    assert all(is_safe(name) for name in folders.values())
    keys = {unicodedata.normalize("NFC", name.casefold()) for name in folders.values()}
    assert len(keys) == len(set(gems))
    assert not {"manifest.jsonl", "crawl.json"} & keys
    random.Random(1).shuffle(gems)
    assert safe_names.folder_names(gems) == folders


def test_a_file_name_keeps_its_suffix_and_is_unique_per_url() -> None:
    assert safe_names.file_name("http://host/" + "x" * 500 + ".JPG").endswith(".jpg")
    urls = [f"http://host/{folder}/a.jpg{query}" for folder in "ab" for query in ("", "?1", "#1")]
    assert len({safe_names.file_name(url) for url in urls}) == len(urls)
