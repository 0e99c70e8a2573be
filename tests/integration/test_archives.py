"""Hostile, damaged and ordinary archives, and folders that hold archives."""

import cProfile
import io
import json
import os
import pstats
import shutil
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from loopback import content, jpeg
from PIL import Image

from gemmodel.core import image_folder
from gemmodel.core.errors import DataError
from gemmodel.core.params import Params
from scraper import archives, local_photos, sources

GOOD = {f"Ruby/{i}.jpg": jpeg(i) for i in range(3)} | {
    "Opal/a.PNG": jpeg(100),
    "Opal/deep/b.jpg": jpeg(101),
}
ABSOLUTE, OUTSIDE, LINK, NOT_REGULAR = "an absolute path", "a path that leads outside", "a link", "not a regular file"
DAMAGED, LARGE, LOOSE = "damaged in its archive", "larger than a photo", "photo outside a class folder"
Settings = Callable[..., Params]


@pytest.fixture
def crawl(tmp_path: Path, settings: Settings) -> Callable[..., tuple[dict[str, Any], dict[str, bytes]]]:
    """Crawl a folder or archive; return the report and, by gem and file name, the stored bytes."""

    def run(source: Path, **limits: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        changes = {"crawl.source": "folder", "crawl.folder": str(source)}
        changes |= {f"crawl.{name}": value for name, value in limits.items()}
        params, out = settings(changes).crawl, tmp_path / "project" / "data" / "raw"

        def outside() -> dict[str, bytes]:
            return {name: body for name, body in content(tmp_path).items() if not name.startswith("project/")}

        before = outside()
        report = sources.crawl(params, out, logs=tmp_path / "logs")
        assert outside() == before
        raw = content(out)
        assert {path.name for path in out.parent.iterdir()} == {"raw"}
        rows = [json.loads(line) for line in raw.pop("manifest.jsonl").decode().splitlines()]
        assert raw.pop("crawl.json")
        assert {row["path"] for row in rows} == set(raw)
        assert len(rows) == len(raw) == report["pictures"]
        for gem in {row["gem"] for row in rows}:
            numbers = sorted(row["number"] for row in rows if row["gem"] == gem)
            assert numbers == list(range(len(numbers)))
        return report, {f"{row['gem']}/{row['file']}": raw[row["path"]] for row in rows}

    return run


def write_zip(path: Path, files: Mapping[str | zipfile.ZipInfo, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as packed:
        for name, body in files.items():
            packed.writestr(name, body)
    return path


def write_tar(path: Path, files: Mapping[str, bytes | tuple[bytes, str]]) -> Path:
    """Pack files; a pair is the type and target of a special member."""
    kind = "gz" if path.name.endswith("gz") else path.suffix[1:] if path.suffix in (".xz", ".bz2") else ""
    with tarfile.open(path, f"w:{kind}") as packed:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(body, tuple):
                member.type, member.linkname = body
                packed.addfile(member)
            else:
                member.size = len(body)
                packed.addfile(member, io.BytesIO(body))
    return path


def test_another_folder_gives_what_its_first_crawl_gives(tmp_path: Path, crawl: Any) -> None:
    for folder, seeds in (("first", range(5)), ("second", range(20, 24))):
        (tmp_path / folder / "Ruby").mkdir(parents=True)
        for seed in seeds:
            (tmp_path / folder / "Ruby" / f"{seed}.jpg").write_bytes(jpeg(seed))
    raw = tmp_path / "project" / "data" / "raw"
    crawl(tmp_path / "second")
    expected = content(raw)
    crawl(tmp_path / "first")
    crawl(tmp_path / "second")
    assert content(raw) == expected


def test_photos_keep_their_numbers_after_a_kill_between_two_renames(tmp_path: Path, crawl: Any) -> None:
    folder, raw = tmp_path / "photos", tmp_path / "project" / "data" / "raw"
    for name, body in by_gem(GOOD).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    before, _ = crawl(folder)
    manifest = (raw / "manifest.jsonl").read_bytes()
    (raw.parent / ".raw.new").mkdir()
    raw.rename(raw.parent / ".raw.new" / "old")
    (folder / "Ruby" / "A.jpg").write_bytes(jpeg(50))  # before the others in the alphabet, and still the last number
    after, _ = crawl(folder)
    assert after["pictures"] == before["pictures"] + 1
    assert set(manifest.splitlines()) < set((raw / "manifest.jsonl").read_bytes().splitlines())


HOSTILE = {
    "/etc/cron.jpg": ABSOLUTE,
    "C:\\Windows\\x.jpg": ABSOLUTE,
    "\\\\server\\share\\x.jpg": ABSOLUTE,
    "../escaped.jpg": OUTSIDE,
    "Ruby/../../escaped.jpg": OUTSIDE,
    "Ruby\\..\\..\\escaped.jpg": OUTSIDE,
}
HIDDEN = ["__MACOSX/Ruby/._0.jpg", "__MACOSX/x.jpg", "Ruby/._0.jpg", ".git/x.jpg", "Ruby/.hidden.jpg"]


def by_gem(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{name.split('/')[0]}/{name}": body for name, body in files.items()}


def test_only_good_photos_of_a_hostile_zip_are_stored(tmp_path: Path, crawl: Any) -> None:
    link = zipfile.ZipInfo("Ruby/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    files: dict[Any, bytes] = GOOD | dict.fromkeys(HOSTILE, jpeg(7)) | dict.fromkeys(HIDDEN, jpeg(8))
    files |= {link: b"/etc/passwd", "Ruby/locked.jpg": jpeg(9), "Ruby/crc.jpg": jpeg(10), "loose.jpg": jpeg(11)}
    files |= {"Ruby/notes.txt": b"no photo", "Ruby/big.jpg": bytes(64 * 2**20 + 1), "README": b""}
    path = write_zip(tmp_path / "gems.zip", files)
    data = bytearray(path.read_bytes())
    data[data.index(jpeg(10)) + 200] ^= 255
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # set the flag for encryption
        start = data.rindex(header, 0, data.index(b"Ruby/locked.jpg", data.index(header)))
        data[start + flags] |= 1
    path.write_bytes(data)
    report, photos = crawl(path)
    assert photos == by_gem(GOOD)
    expected = Counter(HOSTILE.values()) + Counter([LINK, DAMAGED, archives.ENCRYPTED, LOOSE, LARGE])
    assert report["failed"] == dict(sorted(expected.items()))
    hidden = {image_folder.HIDDEN: len(HIDDEN)}
    assert report["unmatched_markup"] == hidden | {"file that ends in .txt": 1, "file without a suffix": 1}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "tar.bz2", "tgz"])
def test_only_good_photos_of_a_hostile_tar_are_stored(tmp_path: Path, crawl: Any, suffix: str) -> None:
    special = {
        "Ruby/symbolic.jpg": (tarfile.SYMTYPE, "/etc/passwd"),
        "Ruby/hard.jpg": (tarfile.LNKTYPE, "/etc/passwd"),
        "Ruby/inner.jpg": (tarfile.LNKTYPE, "Ruby/0.jpg"),  # a hard link, as tar packs a file of two names
        "Ruby/dangling.jpg": (tarfile.LNKTYPE, "Ruby/none.jpg"),
        "Ruby/pipe.jpg": (tarfile.FIFOTYPE, ""),
        "Ruby/device.jpg": (tarfile.CHRTYPE, ""),
        "Ruby/block.jpg": (tarfile.BLKTYPE, ""),
    }
    files = GOOD | dict.fromkeys(HOSTILE, jpeg(7)) | dict.fromkeys(HIDDEN, jpeg(8)) | {"loose.jpg": jpeg(11)}
    report, photos = crawl(write_tar(tmp_path / f"gems.{suffix}", files | special))
    assert photos == by_gem(GOOD | {"Ruby/inner.jpg": GOOD["Ruby/0.jpg"]})
    expected = Counter(HOSTILE.values()) + Counter([LINK] * 3 + [NOT_REGULAR] * 3 + [LOOSE])
    assert report["failed"] == dict(sorted(expected.items()))


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.xz"])
def test_a_truncated_archive_is_an_error(tmp_path: Path, crawl: Any, suffix: str) -> None:
    path = tmp_path / f"gems.{suffix}"
    (write_zip if suffix == "zip" else write_tar)(path, GOOD)
    packed = path.read_bytes()
    for size in (0, 100, len(packed) // 3, len(packed) // 2, 3 * len(packed) // 5):
        path.write_bytes(packed[:size])
        with pytest.raises(DataError, match=r"gems\.\S+: not an intact zip or tar"):
            crawl(path)
    assert not (tmp_path / "project" / "data" / "raw").exists()


def test_a_damaged_archive_beside_others_is_left_out_and_named(tmp_path: Path, crawl: Any, merged: Path) -> None:
    for path in (merged / "more.zip", merged / "old.tar.gz"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_zip(merged / "bomb.zip", {"Ruby/1.jpg": bytes(10**6)}, zipfile.ZIP_DEFLATED)
    inner = {"Jade.zip": (merged / "more.zip").read_bytes(), "Ruby/7.jpg": jpeg(7)}
    write_zip(merged / "outer.zip", inner)
    report, photos = crawl(merged)
    assert sorted(photos.values()) == sorted([*GOOD.values(), jpeg(7)])
    reasons = {failure["url"]: failure["reason"] for failure in report["failures"]}
    assert list(reasons) == ["bomb.zip", "more.zip", "old.tar.gz", "outer.zip!/Jade.zip"]
    assert "100 times its size" in reasons.pop("bomb.zip")
    assert all(reason.startswith("not an intact zip or tar") for reason in reasons.values())
    assert any("more.zip" in line and "not an intact" in line for line in local_photos.describe(merged))
    for path in merged.iterdir():
        if path.name not in ("more.zip", "old.tar.gz"):
            path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(DataError, match=r"not an intact zip or tar .*: more\.zip"):
        crawl(merged)


def test_of_files_of_one_name_in_a_tar_the_last_counts(tmp_path: Path, crawl: Any) -> None:
    path = write_tar(tmp_path / "gems.tar", GOOD)
    with tarfile.open(path, "a") as packed:  # as `tar -r` does
        for name, body in (("./Ruby/0.jpg", jpeg(50)), ("Ruby/link.jpg", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            if not body:
                member.type, member.linkname = tarfile.LNKTYPE, "Ruby/0.jpg"
            packed.addfile(member, io.BytesIO(body))
    report, photos = crawl(path)
    assert sorted(photos.values()) == sorted([*({**GOOD, "Ruby/0.jpg": jpeg(50)}).values(), jpeg(50)])
    assert report["failures"] == [{"url": "Ruby/0.jpg", "reason": "an older file of the same name in its archive"}]


def test_a_compressed_tar_is_read_in_its_own_order(tmp_path: Path, crawl: Any, monkeypatch: Any) -> None:
    names = [f"{gem}/{i}.jpg" for i in (2, 0, 1) for gem in ("Ruby", "Opal")]
    path, offsets = write_tar(tmp_path / "gems.tar.gz", {name: jpeg(i) for i, name in enumerate(names)}), []
    extract = tarfile.TarFile.extractfile
    monkeypatch.setattr(
        tarfile.TarFile, "extractfile", lambda tar, member: (offsets.append(member.offset), extract(tar, member))[1]
    )
    crawl(path)
    assert offsets == sorted(offsets)  # going back decompresses all before it again
    rows = (tmp_path / "project" / "data" / "raw" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(row)["file"] for row in rows] == sorted(names)


def test_many_hard_links_and_folders_are_read_in_time(tmp_path: Path) -> None:
    links = {f"Ruby/{i}.jpg": (tarfile.LNKTYPE, "Ruby/a.jpg") for i in range(4000)}
    path = write_tar(tmp_path / "gems.tar", {"Ruby/a.jpg": jpeg(1), "Opal/a.jpg": jpeg(2)} | links)
    profile = cProfile.Profile()
    assert "4002 photos of 2 classes" in profile.runcall(local_photos.describe, path)
    assert pstats.Stats(profile).total_calls < 1000 * len(links)  # of functions; a search for each link makes more
    deep = write_zip(tmp_path / "deep.zip", {f"{gem}/{'d/' * 3000}1.jpg": jpeg(1) for gem in ("Ruby", "Opal")})
    assert "2 photos of 2 classes" in local_photos.describe(deep)


def test_a_tar_with_a_damaged_header_is_an_error(tmp_path: Path, crawl: Any) -> None:
    path = write_tar(tmp_path / "gems.tar", GOOD)
    path.write_bytes(path.read_bytes().replace(b"Opal/a.PNG", b"Opal/b.PNG"))
    with pytest.raises(DataError, match="not an intact zip or tar"):
        crawl(path)


def test_a_picture_of_too_many_pixels_is_a_failure(tmp_path: Path, crawl: Any) -> None:
    huge = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(huge, "PNG")  # 100 megapixels in some kilobytes
    archive = write_zip(tmp_path / "photos.zip", GOOD | {"Ruby/huge.png": huge.getvalue(), "Ruby/text.png": b"text"})
    report, stored = crawl(archive)
    (failure,) = report["failures"]
    assert failure["url"] == "Ruby/huge.png"
    assert "more pixels" in failure["reason"]
    kept = {*GOOD, "Ruby/text.png"}
    assert set(stored) == {
        f"{name.split('/')[0]}/{name}" for name in kept
    }  # what is no image is for the clean stage to reject


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_an_archive_bomb_is_refused(tmp_path: Path, crawl: Any, suffix: str) -> None:
    files = {"Ruby/0.jpg": jpeg(1), "Ruby/bomb.jpg": bytes(100 * 2**20)}
    path = tmp_path / f"gems.{suffix}"
    write_zip(path, files, zipfile.ZIP_DEFLATED) if suffix == "zip" else write_tar(path, files)
    with pytest.raises(DataError, match="would unpack to more than 100 times its size"):
        crawl(path)


def test_a_zip_with_false_sizes_unpacks_no_more_than_it_declares(tmp_path: Path, crawl: Any) -> None:
    path = write_zip(tmp_path / "gems.zip", GOOD | {"Ruby/lie.jpg": bytes(50 * 2**20)}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes().replace((50 * 2**20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    path.write_bytes(data)
    report, photos = crawl(path)
    assert photos == by_gem(GOOD)
    assert report["failed"] == {DAMAGED: 1}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_are_equal_or_differ_in_capitals_get_different_paths(tmp_path: Path, crawl: Any) -> None:
    names = ["Ruby/a.jpg", "Ruby/A.jpg", "ruby/a.jpg", "Ruby/a.jpg", "Ruby/a.jpg", "Ruby/a.JPG", "Ruby/a.jpg/b.jpg",
             "Ruby/a .jpg", "Ruby/a\t.jpg", "Ruby/con.jpg", "Ruby/con_.jpg", "manifest.jsonl/a.jpg", "crawl.json/a.jpg",
             "Ruby/" + "deep/" * 400 + "a.jpg", "Ruby/" + "x" * 250 + ".jpg"]  # fmt: skip
    bodies = [jpeg(i) for i in range(len(names))]
    with zipfile.ZipFile(tmp_path / "gems.zip", "w") as packed:
        for name, body in zip(names, bodies, strict=True):
            packed.writestr(name, body)
    report, _ = crawl(tmp_path / "gems.zip")
    raw = content(tmp_path / "project" / "data" / "raw")
    stored = {path: body for path, body in raw.items() if "/" in path}
    assert sorted(stored.values()) == sorted(bodies)
    assert len({path.casefold() for path in raw}) == len(raw)
    assert report["failed"] == {}


def test_names_that_are_not_text_are_accepted(tmp_path: Path, crawl: Any) -> None:
    latin = "Gr\udcfcn/\udce9.jpg"
    _, photos = crawl(write_tar(tmp_path / "gems.tar", {latin: jpeg(1), "Ruby/a.jpg": jpeg(2)}))
    assert sorted(photos.values()) == sorted([jpeg(1), jpeg(2)])
    folder = tmp_path / "folder"
    for name in (latin, "Ruby/a.jpg"):
        try:
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_bytes(jpeg(3))
        except OSError:
            pytest.skip("this file system rejects such names")
    assert len(crawl(folder)[1]) == 2


def test_a_tar_that_holds_a_zip_is_read_as_a_tar(tmp_path: Path, crawl: Any) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"Jade/evil.jpg": jpeg(1)}).read_bytes()
    report, photos = crawl(write_tar(tmp_path / "gems.tar", GOOD | {"Ruby/inner.zip": inner}))
    assert photos == by_gem(GOOD)
    assert report["failed"] == {"an archive; unpack it beside the photos": 1}


def test_folders_around_the_classes_and_of_a_split_are_skipped(tmp_path: Path, crawl: Any) -> None:
    names = [f"gemstones/{part}/{gem}/{gem.lower()}_1.jpg" for part in ("train", "test") for gem in ("Ruby", "Opal")]
    files = {name: jpeg(i) for i, name in enumerate(names)}
    report, photos = crawl(write_zip(tmp_path / "kaggle.zip", files))
    assert report["by_gem"] == {"Opal": 2, "Ruby": 2}
    assert photos == {f"{name.split('/')[2]}/{name}": body for name, body in files.items()}


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """A folder with class folders and two archives, one of which has a folder around the classes."""
    folder = tmp_path / "photos"
    for name, body in GOOD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    write_zip(folder / "more.zip", {"Ruby/0.jpg": jpeg(200), "Jade/1.jpg": jpeg(201)})
    write_tar(folder / "old.tar.gz", {"backup/Ruby/0.jpg": jpeg(300), "backup/Opal/9.jpg": jpeg(301)})
    return folder


def test_a_folder_and_its_archives_are_merged(merged: Path, crawl: Any) -> None:
    report, photos = crawl(merged)
    assert report["by_gem"] == {"Jade": 1, "Opal": 3, "Ruby": 5}
    assert sorted(photos.values()) == sorted([*GOOD.values(), *(jpeg(n) for n in (200, 201, 300, 301))])
    assert report["failures"] == []
    before = content(merged.parent / "project")
    second, _ = crawl(merged)
    assert content(merged.parent / "project") == before
    assert second["changes"] == {"new": [], "changed": [], "vanished": []}


def test_limits_apply_to_the_merged_photos(merged: Path, crawl: Any) -> None:
    report, _ = crawl(merged, only=["Ruby", "Jade"], max_per_gem=2)
    assert report["by_gem"] == {"Jade": 1, "Ruby": 2}
    with pytest.raises(DataError, match="has no Topaz"):
        crawl(merged, only=["Topaz"])


def test_numbers_stay_when_an_archive_is_added(merged: Path, crawl: Any) -> None:
    def numbers() -> dict[str, int]:
        manifest = merged.parent / "project" / "data" / "raw" / "manifest.jsonl"
        rows = map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
        return {row["path"]: row["number"] for row in rows}

    crawl(merged)
    first = numbers()
    write_zip(merged / "also.zip", {"Ruby/new.jpg": jpeg(400)})
    crawl(merged)
    assert numbers() == first | {"Ruby/also.zip/new.jpg": 5}


def test_special_files_in_a_folder_are_ignored(merged: Path, crawl: Any) -> None:
    os.mkfifo(merged / "Ruby" / "pipe.jpg")
    (merged / "Ruby" / "broken.jpg").symlink_to("nowhere")
    (merged / "Ruby" / "folder.jpg").mkdir()
    assert crawl(merged)[0]["by_gem"]["Ruby"] == 5


def test_files_that_are_not_images_are_left_to_the_clean_stage(merged: Path, crawl: Any) -> None:
    (merged / "Ruby" / "page.jpg").write_text("<html>")
    report, photos = crawl(merged)
    assert report["failures"] == []
    assert photos["Ruby/Ruby/page.jpg"] == b"<html>"


def encrypted(path: Path) -> Path:
    """Set the flag for encryption of every entry."""
    data = bytearray(path.read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = data.find(header)
        while start >= 0:
            data[start + flags] |= 1
            start = data.find(header, start + 4)
    path.write_bytes(data)
    return path


def deflate64(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    for header, method in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        start = data.find(header)
        while start >= 0:
            data[start + method] = 9
            start = data.find(header, start + 4)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("damage", "reason"), [(encrypted, "encrypted"), (deflate64, "Deflate64")])
def test_a_crawl_that_finds_nothing_keeps_the_former_photos(
    tmp_path: Path, crawl: Any, damage: Callable[[Path], Path], reason: str
) -> None:
    crawl(write_zip(tmp_path / "gems.zip", GOOD))
    before = content(tmp_path / "project")
    with pytest.raises(DataError, match=rf"5 x .*{reason}"):
        crawl(damage(write_zip(tmp_path / "other.zip", GOOD)))
    assert content(tmp_path / "project") == before


def test_an_encrypted_archive_in_an_archive_is_listed(tmp_path: Path, crawl: Any) -> None:
    inner = encrypted(write_zip(tmp_path / "inner.zip", {"More.zip": b""})).read_bytes()
    report, photos = crawl(write_tar(tmp_path / "gems.tar", GOOD | {"inner.zip": inner}))
    assert photos == by_gem(GOOD)
    assert [failure["url"] for failure in report["failures"]] == ["inner.zip!/More.zip"]


def test_a_crawl_that_finds_far_less_replaces_nothing_unless_allowed(tmp_path: Path, crawl: Any) -> None:
    crawl(write_zip(tmp_path / "gems.zip", GOOD))
    before = content(tmp_path / "project")
    crawl(tmp_path / "gems.zip", only=["Opal"], max_per_gem=1)  # fewer, as requested
    crawl(tmp_path / "gems.zip")
    assert content(tmp_path / "project") == before
    few = write_zip(tmp_path / "gems.zip", {"Ruby/0.jpg": jpeg(0), "Opal/a.PNG": jpeg(100)})
    with pytest.raises(DataError, match=r"2 photos, the previous one 5.*crawl\.allow_fewer"):
        crawl(few)
    assert content(tmp_path / "project") == before
    assert crawl(few, allow_fewer=True)[0]["pictures"] == 2
    crawl(write_zip(tmp_path / "many.zip", GOOD))
    assert crawl(few)[0]["pictures"] == 2  # of another source: these photos were requested


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8", "Améthyste"),
        ("cp1252", "Grüner Granat"),
        ("cp437", "Améthyste"),
        ("cp850", "Ágata"),
        ("cp866", "Рубин"),
    ],
)
def test_names_in_a_zip_without_the_flag_for_utf_8(tmp_path: Path, crawl: Any, encoding: str, name: str) -> None:
    raw = name.encode(encoding)
    path = write_zip(tmp_path / "gems.zip", {f"{'X' * len(raw)}/1.jpg": jpeg(1), "Opal/1.jpg": jpeg(2)})
    path.write_bytes(path.read_bytes().replace(b"X" * len(raw), raw))
    report, _ = crawl(path)
    assert report["by_gem"] == {"Opal": 1, name: 1}
    assert bool(report["guesses"]) is (encoding != "utf-8")


def test_parts_are_kept_on_request(tmp_path: Path, crawl: Any) -> None:
    names = [f"training_set/{gem}/{i}.jpg" for gem in ("cats", "dogs") for i in range(2)] + ["test_set/cats/7.jpg"]
    path = write_zip(tmp_path / "pets.zip", {name: jpeg(i) for i, name in enumerate(names)})
    manifest = tmp_path / "project" / "data" / "raw" / "manifest.jsonl"
    for parts, expected in (("merge", [None] * 5), ("keep", ["test"] + ["train"] * 4)):
        assert crawl(path, parts=parts)[0]["by_gem"] == {"cats": 3, "dogs": 2}
        rows = sorted(map(json.loads, manifest.read_text().splitlines()), key=lambda row: row["file"])
        assert [row.get("part") for row in rows] == expected


def test_a_limit_takes_photos_of_each_part_that_is_kept(tmp_path: Path, crawl: Any) -> None:
    names = [f"{part}/{gem}/{i}.jpg" for part in ("test", "train", "val") for gem in ("cats", "dogs") for i in range(4)]
    path = write_zip(tmp_path / "pets.zip", {name: jpeg(i) for i, name in enumerate(names) if name != "val/dogs/0.jpg"})
    _, photos = crawl(path, parts="keep", max_per_gem=4)
    cats = ["test/cats/0.jpg", "test/cats/1.jpg", "train/cats/0.jpg", "val/cats/0.jpg"]
    dogs = ["test/dogs/0.jpg", "test/dogs/1.jpg", "train/dogs/0.jpg", "val/dogs/1.jpg"]
    assert sorted(photos) == [*(f"cats/{name}" for name in cats), *(f"dogs/{name}" for name in dogs)]
    _, photos = crawl(path, parts="keep", max_per_gem=11, only=["dogs"])
    assert len(photos) == 11


def test_limits_apply_to_every_spelling_of_a_gem(tmp_path: Path, crawl: Any) -> None:
    names = [
        "train/Ruby/1.jpg",
        "train/Opal/1.jpg",
        "test/ruby/1.jpg",
        "test/OPAL /1.jpg",
        "test/Ame\u0301thyste/1.jpg",
    ]
    path = write_zip(tmp_path / "gems.zip", {name: jpeg(i) for i, name in enumerate(names)})
    report, photos = crawl(path, only=["ruby", "Am\u00e9thyste"])
    assert report["by_gem"] == {"Am\u00e9thyste": 1, "Ruby": 2}
    assert sorted(photos.values()) == sorted([jpeg(0), jpeg(2), jpeg(4)])
