"""Cleaning: readable photos, each of them once and under one gem."""

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

    def cleaned(contents: dict[str, bytes]) -> dict[str, Any]:
        raw = tmp_path / "raw"
        for name, content in contents.items():
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            (raw / name).write_bytes(content)
        numbers: Counter[str] = Counter()
        lines = []
        for name in contents:
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
    ("copy", "reason"),
    [
        (jpeg, "exact copy"),
        (lambda picture: jpeg(picture.resize((210, 160), Image.Resampling.LANCZOS)), "near-duplicate"),
        (lambda picture: jpeg(picture.resize((90, 67), Image.Resampling.BILINEAR), 60), "near-duplicate"),
        (lambda picture: jpeg(picture, 40), "near-duplicate"),
        (lambda picture: jpeg(ImageOps.mirror(picture), 80), "near-duplicate"),
        (lambda picture: png(picture.resize((200, 150))), "near-duplicate"),
        (lambda picture: jpeg(picture.crop((0, 0, 304, 228))), "near-duplicate"),
        (lambda picture: jpeg(ImageOps.mirror(picture.crop((16, 6, 320, 234))).resize((200, 150))), "near-duplicate"),
    ],
    ids=[
        "copy",
        "smaller",
        "much smaller",
        "recompressed",
        "mirrored",
        "another format",
        "cropped",
        "mirrored, cropped and smaller",
    ],
)
@pytest.mark.parametrize("gem", ["Ruby", "Peridot", "Turquoise"])
def test_a_duplicate_is_rejected_and_the_largest_is_kept(
    tmp_path: Path, clean: Clean, gem: str, copy: Callable[[Image.Image], bytes], reason: str
) -> None:
    picture = render(BY_NAME[gem], 1).resize((320, 240))
    report = clean({"Gem/b.jpg": jpeg(picture), "Gem/z.jpg": copy(picture)})
    assert report["rejected"] == {reason: 1}
    assert report["rejected_files"] == [{"source": "Gem/z.jpg", "reason": reason, "duplicates": ["Gem/b.jpg"]}]
    assert kept(tmp_path / "clean") == ["Gem/gem_0.jpg"]


def test_the_largest_is_kept_whatever_its_name(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    picture = draw(1, size=(400, 300))
    sizes = {"Gem/a.jpg": (200, 150), "Gem/m.jpg": (400, 300), "Gem/x.jpg": (300, 225)}
    report = clean({name: jpeg(picture.resize(size)) for name, size in sizes.items()})
    assert kept(tmp_path / "clean") == ["Gem/gem_1.jpg"]
    assert report["rejected"] == {"near-duplicate": 2}


def test_different_photos_are_kept(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    report = clean({f"Gem/{seed}.jpg": jpeg(draw(seed)) for seed in range(12)})
    assert (report["kept"], report["files"], report["rejected"], report["rejected_files"]) == (12, 12, {}, [])


@pytest.mark.parametrize("seed", range(3))
def test_one_cut_in_several_colours_is_several_stones(tmp_path: Path, clean: Clean, seed: int) -> None:
    red, green, blue = render(BY_NAME["Ruby"], seed).split()
    emerald, sapphire = Image.merge("RGB", (green, red, blue)), Image.merge("RGB", (blue, green, red))
    pictures = {"Ruby/1.jpg": render(BY_NAME["Ruby"], seed), "Emerald/1.jpg": emerald, "Sapphire/1.jpg": sapphire}
    report = clean({name: jpeg(picture) for name, picture in pictures.items()})
    assert report["rejected"] == {}
    assert kept(tmp_path / "clean") == ["Emerald/emerald_0.jpg", "Ruby/ruby_0.jpg", "Sapphire/sapphire_0.jpg"]


def test_gems_of_the_same_cut_are_not_duplicates(tmp_path: Path, clean: Clean) -> None:
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
def test_a_photo_under_two_gems_is_rejected_from_both(
    tmp_path: Path, clean: Clean, copy: Callable[[Image.Image], bytes]
) -> None:
    photo, other = (render(BY_NAME["Ruby"], number).resize((320, 240)) for number in range(2))
    report = clean({"Ruby/1.jpg": jpeg(photo), "Spinel/2.jpg": copy(photo), "Ruby/3.jpg": jpeg(other)})
    assert kept(tmp_path / "clean") == ["Ruby/ruby_1.jpg"]
    assert report["rejected"] == {"under several gems": 2}
    rejected = {row["source"]: row for row in report["rejected_files"]}
    assert {row["reason"] for row in rejected.values()} == {"under several gems: Ruby, Spinel"}
    assert rejected["Ruby/1.jpg"]["duplicates"] == ["Spinel/2.jpg"]
    assert rejected["Spinel/2.jpg"]["duplicates"] == ["Ruby/1.jpg"]


def test_a_jpeg_keeps_its_bytes_and_other_files_are_converted(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = {
        "Gem/plain.JPEG": jpeg(draw(1)),
        "Gem/grey.jpg": jpeg(draw(2).convert("L")),
        "Gem/alpha.jpg": png(draw(3).convert("RGBA")),
        "Gem/turned.jpg": jpeg(draw(4), exif=exif),
    }
    report = clean(contents)
    assert report["kept"] == 4
    assert report["converted"] == {
        "L to RGB": 1,
        "PNG to JPEG": 1,
        "transparency laid on white": 1,
        "turned upright": 1,
        "wrong suffix": 1,
    }
    assert kept(tmp_path / "clean") == [f"Gem/gem_{number}.jpg" for number in range(4)]
    assert (tmp_path / "clean" / "Gem" / "gem_0.jpg").read_bytes() == contents["Gem/plain.JPEG"]
    for name in kept(tmp_path / "clean"):
        with Image.open(tmp_path / "clean" / name) as picture:
            assert (picture.format, picture.mode, picture.getexif().get(0x0112, 1)) == ("JPEG", "RGB", 1)
            assert picture.size == ((120, 160) if "gem_3" in name else (160, 120))


def test_the_manifest_has_one_row_per_raw_file(tmp_path: Path, clean: Clean, draw: Draw) -> None:
    clean({"Gem/1.jpg": jpeg(draw(1)), "Gem/2.jpg": jpeg(draw(1)), "Gem/3.jpg": b"<html>"})
    rows = {row["source"]: row for row in files.read_jsonl(tmp_path / "clean" / "manifest.jsonl")}
    assert rows["Gem/1.jpg"]["path"] == "Gem/gem_0.jpg"
    assert [rows[f"Gem/{n}.jpg"]["number"] for n in (1, 2, 3)] == [0, 1, 2]
    assert all({"source", "gem", "sha256", "number", "mineral_class"} <= set(row) for row in rows.values())
    assert rows["Gem/1.jpg"]["sha256"] == hashlib.sha256(jpeg(draw(1))).hexdigest()
    assert rows["Gem/2.jpg"]["reason"] == "exact copy"
    assert rows["Gem/3.jpg"]["reason"] == "not an image"
    assert "path" not in rows["Gem/2.jpg"] and "path" not in rows["Gem/3.jpg"]


def test_unusable_files_are_rejected_and_listed(tmp_path: Path, clean: Clean, draw: Draw) -> None:
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
    assert [row["source"] for row in report["rejected_files"]] == [
        "Gem/cut.jpg",
        "Gem/empty.jpg",
        "Gem/flat.png",
        "Gem/page.jpg",
        "Gem/tiny.jpg",
    ]
    assert "400 x 63" in report["rejected_files"][-1]["reason"]


@pytest.mark.parametrize("contents", [{"Gem/a.jpg": b"", "Gem/b.jpg": b"<html>"}, {}])
def test_without_a_usable_photo_there_is_an_error_and_no_output(
    tmp_path: Path, clean: Clean, contents: dict[str, bytes]
) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(DataError, match=rf"raw: none of its {len(contents)} files is a usable photo"):
        clean(contents)
    assert [path.name for path in tmp_path.iterdir() if path.name != "params.yaml"] == ["raw"]


def test_a_missing_file_of_the_manifest_is_named(tmp_path: Path, settings: Settings, draw: Draw) -> None:
    (tmp_path / "raw" / "Gem").mkdir(parents=True)
    draw(1).save(tmp_path / "raw" / "Gem" / "1.jpg")
    files.write_jsonl(tmp_path / "raw" / "manifest.jsonl", [{"path": f"Gem/{n}.jpg", "number": n} for n in (1, 2)])
    with pytest.raises(DataError, match=r"Gem.2\.jpg"):
        cleaning.clean(tmp_path / "raw", tmp_path / "clean", settings().clean)


def test_file_names_are_the_gem_and_the_number_of_the_raw_manifest(
    tmp_path: Path, settings: Settings, draw: Draw
) -> None:
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
    draw(20).save(raw / "Tigers Eye" / "0.jpg")  # alphabetically first, but added last
    files.write_jsonl(raw / "manifest.jsonl", [{"path": "Tigers Eye/0.jpg", "number": 13}, *lines])
    cleaning.clean(raw, out, settings().clean)
    assert set(kept(out)) == first | {"Tigers Eye/tigers_eye_13.jpg"}
    assert {name: (out / name).read_bytes() for name in first} == contents


@pytest.mark.parametrize("line", [{}, {"number": None}])
def test_a_manifest_without_numbers_is_an_error_with_a_remedy(
    tmp_path: Path, settings: Settings, draw: Draw, line: dict[str, Any]
) -> None:
    (tmp_path / "raw" / "Gem").mkdir(parents=True)
    draw(1).save(tmp_path / "raw" / "Gem" / "1.jpg")
    files.write_jsonl(tmp_path / "raw" / "manifest.jsonl", [{"path": "Gem/1.jpg", **line}])
    with pytest.raises(DataError, match=r"manifest\.jsonl: Gem/1\.jpg has no number.*`dvc repro -f crawl`"):
        cleaning.clean(tmp_path / "raw", tmp_path / "clean", settings().clean)
    assert not (tmp_path / "clean").exists()


def test_two_photos_of_one_number_are_an_error(tmp_path: Path, settings: Settings, draw: Draw) -> None:
    (tmp_path / "raw" / "Gem").mkdir(parents=True)
    for n in (1, 2):
        draw(n).save(tmp_path / "raw" / "Gem" / f"{n}.jpg")
    files.write_jsonl(tmp_path / "raw" / "manifest.jsonl", [{"path": f"Gem/{n}.jpg", "number": 0} for n in (1, 2)])
    with pytest.raises(DataError, match=r"two files become Gem/gem_0\.jpg"):
        cleaning.clean(tmp_path / "raw", tmp_path / "clean", settings().clean)


def test_each_conversion_is_counted_by_its_kind(tmp_path: Path, settings: Settings, clean: Clean, draw: Draw) -> None:
    frames = [draw(seed).quantize(64) for seed in (1, 2, 3)]
    animation, sixteen_bits = io.BytesIO(), io.BytesIO()
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    grey = (np.asarray(draw(4).convert("L")).astype(np.uint16) << 8) + 77
    Image.fromarray(grey).save(sixteen_bits, "PNG")
    report = clean(
        {
            "Gem/a.gif": animation.getvalue(),
            "Gem/b.png": sixteen_bits.getvalue(),
            "Gem/c.jpg": jpeg(draw(5).convert("CMYK")),
            "Gem/d.png": jpeg(draw(6)),  # a JPEG with a wrong suffix keeps its bytes
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
    assert report["converted"] == dict(sorted(Counter(kind for kinds in rows.values() for kind in kinds).items()))
    out = tmp_path / "clean" / "Gem"
    assert (out / "gem_3.jpg").read_bytes() == jpeg(draw(6))
    max_side = settings().clean.max_side
    with Image.open(out / "gem_4.jpg") as picture:
        assert picture.size == (max_side, max_side // 2)


def test_a_photo_with_other_bytes_than_the_crawl_stored_is_named(
    tmp_path: Path, settings: Settings, clean: Clean, draw: Draw
) -> None:
    contents = {f"Gem/{seed}.jpg": jpeg(draw(seed)) for seed in range(3)}
    clean(contents)
    rows = files.read_jsonl(tmp_path / "raw" / "manifest.jsonl")
    rows = [row | {"sha256": hashlib.sha256(contents[row["path"]]).hexdigest()} for row in rows]
    files.write_jsonl(tmp_path / "raw" / "manifest.jsonl", rows)
    cleaning.clean(tmp_path / "raw", tmp_path / "clean", settings().clean)
    before = {name: (tmp_path / "clean" / name).read_bytes() for name in kept(tmp_path / "clean")}
    for name in ("Gem/1.jpg", "Gem/2.jpg"):  # one bit in the pixels: the photos can still be read
        content = bytearray(contents[name])
        content[-20] ^= 1
        (tmp_path / "raw" / name).write_bytes(content)
    with pytest.raises(DataError, match=r"raw/Gem/1\.jpg and 1 more: .*`gemmodel doctor --cache`"):
        cleaning.clean(tmp_path / "raw", tmp_path / "clean", settings().clean)
    assert {name: (tmp_path / "clean" / name).read_bytes() for name in kept(tmp_path / "clean")} == before


def test_the_result_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, settings: Settings, clean: Clean, draw: Draw
) -> None:
    report = clean({f"Gem/{seed}.png": png(draw(seed // 2, size=(150 + seed, 120))) for seed in range(8)})
    assert report["rejected"] == {"near-duplicate": 4}
    assert cleaning.clean(tmp_path / "raw", tmp_path / "one_worker", settings().clean, workers=1) == report
    assert kept(tmp_path / "one_worker") == kept(tmp_path / "clean")
    for name in [*kept(tmp_path / "clean"), "manifest.jsonl"]:
        assert (tmp_path / "one_worker" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()


@pytest.mark.photos
def test_no_exact_copies_of_real_photos_are_kept(tmp_path: Path, clean: Clean, real_gems: Path) -> None:
    by_hash: dict[str, list[str]] = defaultdict(list)
    contents = {}
    for folder in sorted(path for path in real_gems.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            by_hash[hashlib.sha256(path.read_bytes()).hexdigest()].append(f"{folder.name}/{path.name}")
    copies = {name.split("/")[0] for names in by_hash.values() if len(names) > 1 for name in names}
    assert copies, "the public set has byte-identical files"
    for gem in sorted(copies)[:5]:
        contents |= {f"{gem}/{path.name}": path.read_bytes() for path in sorted((real_gems / gem).iterdir())}
    pairs = [pair for names in by_hash.values() if len(pair := [name for name in names if name in contents]) > 1]
    assert pairs
    report = clean(contents)
    rejected = {row["source"]: row["reason"] for row in report["rejected_files"]}
    for pair in pairs:
        gems = {name.split("/")[0] for name in pair}
        kept_names = [name for name in pair if name not in rejected]
        assert len(kept_names) <= 1
        assert not (len(gems) > 1 and kept_names)
    digests = [hashing.sha256(tmp_path / "clean" / name) for name in kept(tmp_path / "clean")]
    assert len(digests) == len(set(digests)) == report["kept"]
    assert report["kept"] > 0.8 * len(contents)
