"""Cleaning: each photo once, readable, and under one name."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from gemmodel.data import cleaning, folders
from gemmodel.errors import DataError
from gemmodel.params import Params
from scraper.sample_site.gems import GEMS
from scraper.sample_site.pictures import BY_NAME
from scraper.sample_site.render import render, shape_of

Draw = Callable[..., Image.Image]
Settings = Callable[..., Params]
Clean = Callable[[dict[str, bytes]], dict[str, Any]]


def jpeg(picture: Image.Image, quality: int = 92, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def clean(tmp_path: Path, settings: Settings) -> Clean:
    """Clean raw files, given by path, into tmp_path/clean, and return the report."""

    def cleaned(files: dict[str, bytes]) -> dict[str, Any]:
        raw = tmp_path / "raw"
        for name, content in files.items():
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            (raw / name).write_bytes(content)
        folders.write_lines(raw / "manifest.jsonl", [{"path": name, "gem": name.split("/")[0]} for name in files])
        return cleaning.clean(raw, tmp_path / "clean", settings().clean)

    return cleaned


def kept(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix != ".jsonl" and path.is_file()
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda picture: jpeg(picture), "exact copy"),
        (lambda picture: jpeg(picture.resize((210, 160), Image.Resampling.LANCZOS)), "near-duplicate"),
        (lambda picture: jpeg(picture.resize((90, 67), Image.Resampling.BILINEAR), 60), "near-duplicate"),
        (lambda picture: jpeg(picture, 40), "near-duplicate"),
        (lambda picture: jpeg(ImageOps.mirror(picture), 80), "near-duplicate"),
        (lambda picture: png(picture.resize((200, 150))), "near-duplicate"),
    ],
    ids=["copy", "smaller", "much smaller", "recompressed", "mirrored", "another format"],
)
@pytest.mark.parametrize("gem", ["Ruby", "Peridot", "Turquoise"])
def test_a_twin_leaves_and_the_largest_stays(
    tmp_path: Path, clean: Clean, gem: str, spoil: Callable[[Image.Image], bytes], reason: str
) -> None:
    picture = render(BY_NAME[gem], 1).resize((320, 240))
    report = clean({"Gem/b.jpg": jpeg(picture), "Gem/z.jpg": spoil(picture)})
    assert report["set_aside"] == {reason: 1}
    assert report["listed"] == [{"source": "Gem/z.jpg", "reason": reason, "twins": ["Gem/b.jpg"]}]
    assert kept(tmp_path / "clean") == ["Gem/b.jpg"]


def test_the_largest_stays_wherever_it_stands_in_the_alphabet(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    picture = draw(1, size=(400, 300))
    sizes = {"Gem/a.jpg": (200, 150), "Gem/m.jpg": (400, 300), "Gem/x.jpg": (300, 225)}
    report = clean({name: jpeg(picture.resize(size)) for name, size in sizes.items()})
    assert kept(tmp_path / "clean") == ["Gem/m.jpg"]
    assert report["set_aside"] == {"near-duplicate": 2}


def test_different_pictures_stay(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    report = clean({f"Gem/{seed}.jpg": jpeg(draw(seed)) for seed in range(12)})
    assert (report["kept"], report["files"], report["set_aside"], report["listed"]) == (12, 12, {}, [])


@pytest.mark.parametrize("number", range(3))
def test_one_picture_in_two_colours_is_two_stones(tmp_path: Path, clean: Clean, number: int) -> None:
    red, green, blue = render(BY_NAME["Ruby"], number).split()
    emerald, sapphire = Image.merge("RGB", (green, red, blue)), Image.merge("RGB", (blue, green, red))
    files = {"Ruby/1.jpg": render(BY_NAME["Ruby"], number), "Emerald/1.jpg": emerald, "Sapphire/1.jpg": sapphire}
    report = clean({name: jpeg(picture) for name, picture in files.items()})
    assert report["set_aside"] == {}
    assert kept(tmp_path / "clean") == sorted(files)


def test_two_gems_of_the_same_cut_stay_apart(tmp_path: Path, clean: Clean) -> None:
    cut = "round"
    gems = [gem for gem in GEMS if cut in {shape_of(gem, n) for n in range(6) if gem.cuts}]
    pictures = {
        f"{gem.name}/{number}.jpg": jpeg(render(gem, number))
        for gem in gems[:4]
        for number in range(6)
        if shape_of(gem, number) == cut
    }
    assert len({name.split("/")[0] for name in pictures}) >= 2
    assert clean(pictures)["set_aside"] == {}
    assert kept(tmp_path / "clean") == sorted(pictures)


@pytest.mark.parametrize("copy", [lambda p: jpeg(p), lambda p: jpeg(ImageOps.mirror(p).resize((200, 150)), 70)])
def test_a_photo_under_two_names_teaches_neither(
    tmp_path: Path, clean: Clean, copy: Callable[[Image.Image], bytes]
) -> None:
    photo, other = (render(BY_NAME["Ruby"], number).resize((320, 240)) for number in range(2))
    report = clean({"Ruby/1.jpg": jpeg(photo), "Spinel/2.jpg": copy(photo), "Ruby/3.jpg": jpeg(other)})
    assert kept(tmp_path / "clean") == ["Ruby/3.jpg"]
    assert report["set_aside"] == {"stands under two gems": 2}
    listed = {row["source"]: row for row in report["listed"]}
    assert {row["reason"] for row in listed.values()} == {"stands under Ruby and Spinel"}
    assert listed["Ruby/1.jpg"]["twins"] == ["Spinel/2.jpg"]
    assert listed["Spinel/2.jpg"]["twins"] == ["Ruby/1.jpg"]


def test_a_jpeg_keeps_its_bytes_and_all_else_becomes_one(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "Gem/plain.JPEG": jpeg(draw(1)),
        "Gem/grey.jpg": jpeg(draw(2).convert("L")),
        "Gem/alpha.jpg": png(draw(3).convert("RGBA")),
        "Gem/turned.jpg": jpeg(draw(4), exif=exif),
    }
    report = clean(files)
    assert (report["kept"], report["treated"]) == (4, 3)
    assert kept(tmp_path / "clean") == ["Gem/alpha.jpg", "Gem/grey.jpg", "Gem/plain.jpg", "Gem/turned.jpg"]
    assert (tmp_path / "clean" / "Gem" / "plain.jpg").read_bytes() == files["Gem/plain.JPEG"]
    for name in kept(tmp_path / "clean"):
        with Image.open(tmp_path / "clean" / name) as picture:
            assert (picture.format, picture.mode, picture.getexif().get(0x0112, 1)) == ("JPEG", "RGB", 1)
            assert picture.size == ((120, 160) if "turned" in name else (160, 120))


def test_the_manifest_tells_the_fate_of_each_file(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    clean({"Gem/1.jpg": jpeg(draw(1)), "Gem/2.jpg": jpeg(draw(1)), "Gem/3.jpg": b"<html>"})
    rows = {row["source"]: row for row in folders.read_lines(tmp_path / "clean" / "manifest.jsonl")}
    assert rows["Gem/1.jpg"]["path"] == "Gem/1.jpg"
    assert rows["Gem/1.jpg"]["sha256"] == hashlib.sha256(jpeg(draw(1))).hexdigest()
    assert rows["Gem/2.jpg"]["reason"] == "exact copy"
    assert rows["Gem/3.jpg"]["reason"] == "not an image"
    assert "path" not in rows["Gem/2.jpg"] and "path" not in rows["Gem/3.jpg"]


def test_bad_files_are_listed_and_do_not_stop_it(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    whole = jpeg(draw(1, size=(400, 300)))
    report = clean(
        {
            "Gem/cut.jpg": whole[: len(whole) // 2],
            "Gem/empty.jpg": b"",
            "Gem/good.jpg": whole,
            "Gem/page.jpg": b"<html>moved</html>",
            "Gem/tiny.jpg": jpeg(draw(2, size=(400, 63))),
        }
    )
    assert kept(tmp_path / "clean") == ["Gem/good.jpg"]
    assert report["set_aside"] == {"damaged": 1, "not an image": 2, "too small": 1}
    assert [row["source"] for row in report["listed"]] == [
        "Gem/cut.jpg",
        "Gem/empty.jpg",
        "Gem/page.jpg",
        "Gem/tiny.jpg",
    ]
    assert "400 x 63" in report["listed"][-1]["reason"]


@pytest.mark.parametrize("files", [{"Gem/a.jpg": b"", "Gem/b.jpg": b"<html>"}, {}])
def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path: Path, clean: Clean, files: dict[str, bytes]) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match=rf"raw: none of its {len(files)} files is a usable photo"):
        clean(files)
    assert [path.name for path in tmp_path.iterdir() if path.name != "params.yaml"] == ["raw"]


def test_a_file_that_only_the_manifest_knows_is_named(tmp_path: Path, settings: Settings, draw: Draw) -> None:
    (tmp_path / "raw" / "Gem").mkdir(parents=True)
    draw(1).save(tmp_path / "raw" / "Gem" / "1.jpg")
    folders.write_lines(tmp_path / "raw" / "manifest.jsonl", [{"path": "Gem/1.jpg"}, {"path": "Gem/2.jpg"}])
    with pytest.raises(DataError, match=r"Gem.2\.jpg"):
        cleaning.clean(tmp_path / "raw", tmp_path / "clean", settings().clean)


def test_names_that_differ_by_suffix_or_case_alone_both_survive(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    files = {"Gem/a.jpg": jpeg(draw(1)), "Gem/a.png": png(draw(2)), "Gem/A.jpeg": jpeg(draw(3))}
    assert clean(files)["kept"] == 3
    names = kept(tmp_path / "clean")
    assert len({name.lower() for name in names}) == 3
    assert all(name.endswith(".jpg") for name in names)


@pytest.mark.photos
def test_no_copy_is_left_of_real_photos(tmp_path: Path, clean: Clean, real_gems: Path) -> None:
    by_hash: dict[str, list[str]] = defaultdict(list)
    files = {}
    for folder in sorted(path for path in real_gems.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            by_hash[hashlib.sha256(path.read_bytes()).hexdigest()].append(f"{folder.name}/{path.name}")
    copies = {name.split("/")[0] for names in by_hash.values() if len(names) > 1 for name in names}
    assert copies, "the public set has byte-identical files"
    for gem in sorted(copies)[:5]:
        files |= {f"{gem}/{path.name}": path.read_bytes() for path in sorted((real_gems / gem).iterdir())}
    pairs = [found for names in by_hash.values() if len(found := [n for n in names if n in files]) > 1]
    assert pairs
    report = clean(files)
    aside = {row["source"]: row["reason"] for row in report["listed"]}
    for pair in pairs:
        gems = {name.split("/")[0] for name in pair}
        left = [name for name in pair if name not in aside]
        assert len(left) <= 1
        assert not (len(gems) > 1 and left)
    digests = [folders.sha256(tmp_path / "clean" / name) for name in kept(tmp_path / "clean")]
    assert len(digests) == len(set(digests)) == report["kept"]
    assert report["kept"] > 0.8 * len(files)
