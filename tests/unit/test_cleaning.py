"""Cleaning: each photo once, readable, and under one name."""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from gemmodel.clean import cleaning
from gemmodel.core import files, hashing
from gemmodel.core.errors import DataError
from gemmodel.core.params import Params
from sample_site.gems import BY_NAME, GEMS
from sample_site.render.scene import render, shape_of

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
        numbers: Counter[str] = Counter()
        lines = []
        for name in files:
            gem = name.split("/")[0]
            lines.append({"path": name, "gem": gem, "number": numbers[gem]})
            numbers[gem] += 1
        files.write_jsonl(raw / "manifest.jsonl", lines)
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
        (lambda picture: jpeg(picture.crop((0, 0, 304, 228))), "near-duplicate"),
        (lambda picture: jpeg(ImageOps.mirror(picture.crop((16, 6, 320, 234))).resize((200, 150))), "near-duplicate"),
    ],
    ids=["copy", "smaller", "much smaller", "recompressed", "mirrored", "another format", "cropped", "all of it"],
)
@pytest.mark.parametrize("gem", ["Ruby", "Peridot", "Turquoise"])
def test_a_twin_leaves_and_the_largest_stays(
    tmp_path: Path, clean: Clean, gem: str, spoil: Callable[[Image.Image], bytes], reason: str
) -> None:
    picture = render(BY_NAME[gem], 1).resize((320, 240))
    report = clean({"Gem/b.jpg": jpeg(picture), "Gem/z.jpg": spoil(picture)})
    assert report["rejected"] == {reason: 1}
    assert report["listed"] == [{"source": "Gem/z.jpg", "reason": reason, "duplicates": ["Gem/b.jpg"]}]
    assert kept(tmp_path / "clean") == ["Gem/gem_0.jpg"]


def test_the_largest_stays_wherever_it_stands_in_the_alphabet(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    picture = draw(1, size=(400, 300))
    sizes = {"Gem/a.jpg": (200, 150), "Gem/m.jpg": (400, 300), "Gem/x.jpg": (300, 225)}
    report = clean({name: jpeg(picture.resize(size)) for name, size in sizes.items()})
    assert kept(tmp_path / "clean") == ["Gem/gem_1.jpg"]
    assert report["rejected"] == {"near-duplicate": 2}


def test_different_pictures_stay(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    report = clean({f"Gem/{seed}.jpg": jpeg(draw(seed)) for seed in range(12)})
    assert (report["kept"], report["files"], report["rejected"], report["listed"]) == (12, 12, {}, [])


@pytest.mark.parametrize("number", range(3))
def test_one_picture_in_two_colours_is_two_stones(tmp_path: Path, clean: Clean, number: int) -> None:
    red, green, blue = render(BY_NAME["Ruby"], number).split()
    emerald, sapphire = Image.merge("RGB", (green, red, blue)), Image.merge("RGB", (blue, green, red))
    files = {"Ruby/1.jpg": render(BY_NAME["Ruby"], number), "Emerald/1.jpg": emerald, "Sapphire/1.jpg": sapphire}
    report = clean({name: jpeg(picture) for name, picture in files.items()})
    assert report["rejected"] == {}
    assert kept(tmp_path / "clean") == ["Emerald/emerald_0.jpg", "Ruby/ruby_0.jpg", "Sapphire/sapphire_0.jpg"]


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
    assert clean(pictures)["rejected"] == {}
    assert len(kept(tmp_path / "clean")) == len(pictures)


@pytest.mark.parametrize("copy", [lambda p: jpeg(p), lambda p: jpeg(ImageOps.mirror(p).resize((200, 150)), 70)])
def test_a_photo_under_two_names_teaches_neither(
    tmp_path: Path, clean: Clean, copy: Callable[[Image.Image], bytes]
) -> None:
    photo, other = (render(BY_NAME["Ruby"], number).resize((320, 240)) for number in range(2))
    report = clean({"Ruby/1.jpg": jpeg(photo), "Spinel/2.jpg": copy(photo), "Ruby/3.jpg": jpeg(other)})
    assert kept(tmp_path / "clean") == ["Ruby/ruby_1.jpg"]
    assert report["rejected"] == {"stands under several gems": 2}
    listed = {row["source"]: row for row in report["listed"]}
    assert {row["reason"] for row in listed.values()} == {"stands under several gems: Ruby, Spinel"}
    assert listed["Ruby/1.jpg"]["duplicates"] == ["Spinel/2.jpg"]
    assert listed["Spinel/2.jpg"]["duplicates"] == ["Ruby/1.jpg"]


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
    assert report["kept"] == 4
    assert report["conversions"] == {
        "L to RGB": 1,
        "PNG to JPEG": 1,
        "transparency laid on white": 1,
        "turned upright": 1,
        "wrong suffix": 1,
    }
    assert kept(tmp_path / "clean") == [f"Gem/gem_{number}.jpg" for number in range(4)]
    assert (tmp_path / "clean" / "Gem" / "gem_0.jpg").read_bytes() == files["Gem/plain.JPEG"]
    for name in kept(tmp_path / "clean"):
        with Image.open(tmp_path / "clean" / name) as picture:
            assert (picture.format, picture.mode, picture.getexif().get(0x0112, 1)) == ("JPEG", "RGB", 1)
            assert picture.size == ((120, 160) if "gem_3" in name else (160, 120))


def test_the_manifest_tells_the_fate_of_each_file(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    clean({"Gem/1.jpg": jpeg(draw(1)), "Gem/2.jpg": jpeg(draw(1)), "Gem/3.jpg": b"<html>"})
    rows = {row["source"]: row for row in files.read_jsonl(tmp_path / "clean" / "manifest.jsonl")}
    assert rows["Gem/1.jpg"]["path"] == "Gem/gem_0.jpg"
    assert [rows[f"Gem/{n}.jpg"]["number"] for n in (1, 2, 3)] == [0, 1, 2]
    assert all({"source", "gem", "sha256", "number", "mineral_class"} <= set(row) for row in rows.values())
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
            "Gem/flat.png": png(Image.new("RGB", (200, 150), (90, 20, 160))),
            "Gem/page.jpg": b"<html>moved</html>",
            "Gem/tiny.jpg": jpeg(draw(2, size=(400, 63))),
        }
    )
    assert kept(tmp_path / "clean") == ["Gem/gem_2.jpg"]
    assert report["rejected"] == {"damaged": 1, "not an image": 2, "one flat colour": 1, "too small": 1}
    assert [row["source"] for row in report["listed"]] == [
        "Gem/cut.jpg",
        "Gem/empty.jpg",
        "Gem/flat.png",
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
    files.write_jsonl(tmp_path / "raw" / "manifest.jsonl", [{"path": f"Gem/{n}.jpg", "number": n} for n in (1, 2)])
    with pytest.raises(DataError, match=r"Gem.2\.jpg"):
        cleaning.clean(tmp_path / "raw", tmp_path / "clean", settings().clean)


def test_names_are_the_gem_and_the_number_of_the_crawl(tmp_path: Path, settings: Settings, draw: Draw) -> None:
    raw, out = tmp_path / "raw", tmp_path / "clean"
    (raw / "Tigers Eye").mkdir(parents=True)
    lines = [{"path": f"Tigers Eye/{name}", "number": n} for n, name in ((7, "a.jpg"), (0, "A.png"), (12, "b.JPEG"))]
    for line in lines:
        draw(line["number"]).save(raw / str(line["path"]))
    files.write_jsonl(raw / "manifest.jsonl", lines)
    cleaning.clean(raw, out, settings().clean)
    first = {f"Tigers Eye/tigers_eye_{number}.jpg" for number in (0, 7, 12)}
    assert set(kept(out)) == first
    contents = {name: (out / name).read_bytes() for name in first}
    draw(20).save(raw / "Tigers Eye" / "0.jpg")  # stands first in the alphabet, came last
    files.write_jsonl(raw / "manifest.jsonl", [{"path": "Tigers Eye/0.jpg", "number": 13}, *lines])
    cleaning.clean(raw, out, settings().clean)
    assert set(kept(out)) == first | {"Tigers Eye/tigers_eye_13.jpg"}
    assert {name: (out / name).read_bytes() for name in first} == contents


@pytest.mark.parametrize("line", [{}, {"number": None}])
def test_a_manifest_without_numbers_is_told_with_the_remedy(
    tmp_path: Path, settings: Settings, draw: Draw, line: dict[str, Any]
) -> None:
    (tmp_path / "raw" / "Gem").mkdir(parents=True)
    draw(1).save(tmp_path / "raw" / "Gem" / "1.jpg")
    files.write_jsonl(tmp_path / "raw" / "manifest.jsonl", [{"path": "Gem/1.jpg", **line}])
    with pytest.raises(DataError, match=r"manifest\.jsonl: Gem/1\.jpg has no number.*`dvc repro -f crawl`"):
        cleaning.clean(tmp_path / "raw", tmp_path / "clean", settings().clean)
    assert not (tmp_path / "clean").exists()


def test_one_number_twice_overwrites_no_photo(tmp_path: Path, settings: Settings, draw: Draw) -> None:
    (tmp_path / "raw" / "Gem").mkdir(parents=True)
    for n in (1, 2):
        draw(n).save(tmp_path / "raw" / "Gem" / f"{n}.jpg")
    files.write_jsonl(tmp_path / "raw" / "manifest.jsonl", [{"path": f"Gem/{n}.jpg", "number": 0} for n in (1, 2)])
    with pytest.raises(DataError, match=r"two files become Gem/gem_0\.jpg"):
        cleaning.clean(tmp_path / "raw", tmp_path / "clean", settings().clean)


def test_each_defect_is_treated_and_counted_by_its_kind(
    tmp_path: Path, settings: Settings, clean: Clean, draw: Draw
) -> None:
    frames = [draw(seed).quantize(64) for seed in (1, 2, 3)]
    moving, sixteen = io.BytesIO(), io.BytesIO()
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    deep = (np.asarray(draw(4).convert("L")).astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(sixteen, "PNG")
    report = clean(
        {
            "Gem/a.gif": moving.getvalue(),
            "Gem/b.png": sixteen.getvalue(),
            "Gem/c.jpg": jpeg(draw(5).convert("CMYK")),
            "Gem/d.png": jpeg(draw(6)),  # a JPEG behind another name: its bytes stay
            "Gem/e.jpg": jpeg(draw(7, size=(3000, 1500))),
        }
    )
    assert (report["kept"], report["rejected"]) == (5, {})
    rows = {row["source"][4]: row["conversions"] for row in files.read_jsonl(tmp_path / "clean" / "manifest.jsonl")}
    assert rows == {
        "a": ["first frame kept", "P to RGB", "GIF to JPEG"],
        "b": ["16 bits to 8", "L to RGB", "PNG to JPEG"],
        "c": ["CMYK to RGB"],
        "d": ["wrong suffix"],
        "e": ["scaled down"],
    }
    assert report["conversions"] == dict(sorted(Counter(kind for kinds in rows.values() for kind in kinds).items()))
    out = tmp_path / "clean" / "Gem"
    assert (out / "gem_3.jpg").read_bytes() == jpeg(draw(6))
    most = settings().clean.max_side
    with Image.open(out / "gem_4.jpg") as picture:
        assert picture.size == (most, most // 2)


def test_the_number_of_workers_changes_nothing(tmp_path: Path, settings: Settings, clean: Clean, draw: Draw) -> None:
    report = clean({f"Gem/{seed}.png": png(draw(seed // 2, size=(150 + seed, 120))) for seed in range(8)})
    assert report["rejected"] == {"near-duplicate": 4}
    assert cleaning.clean(tmp_path / "raw", tmp_path / "alone", settings().clean, workers=1) == report
    assert kept(tmp_path / "alone") == kept(tmp_path / "clean")
    for name in [*kept(tmp_path / "clean"), "manifest.jsonl"]:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()


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
    digests = [hashing.sha256(tmp_path / "clean" / name) for name in kept(tmp_path / "clean")]
    assert len(digests) == len(set(digests)) == report["kept"]
    assert report["kept"] > 0.8 * len(files)
