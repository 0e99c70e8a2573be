"""Archives that mean harm, are damaged, or are simply packed as people pack them; and folders that hold some."""

import io
import json
import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from loopback import content, jpeg

from gemmodel.core import params
from gemmodel.core.errors import DataError
from scraper import local_photos, sources

GOOD = {f"Ruby/{number}.jpg": jpeg(number) for number in range(3)} | {
    "Opal/a.PNG": jpeg(100),
    "Opal/deep/b.jpg": jpeg(101),
}
ABSOLUTE, OUTSIDE, LINK, SPECIAL = "an absolute path", "a path that leads outside", "a link", "no ordinary file"
DAMAGED, LARGE, LOOSE = "damaged in its archive, or locked", "larger than a photo", "photo in no gem's folder"
Settings = Callable[..., params.Params]


@pytest.fixture
def taken(tmp_path: Path, settings: Settings) -> Callable[..., tuple[dict[str, Any], dict[str, bytes]]]:
    """Crawl a folder or archive; return the report and, by gem and file name, the stored bytes."""

    def take(source: Path, **limits: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        crawl = {"crawl.source": "folder", "crawl.folder": str(source)}
        crawl |= {f"crawl.{name}": value for name, value in limits.items()}
        loaded, out = settings(crawl).crawl, tmp_path / "project" / "data" / "raw"

        def around() -> dict[str, bytes]:
            return {name: body for name, body in content(tmp_path).items() if not name.startswith("project/")}

        before = around()
        report = sources.crawl(loaded, out, logs=tmp_path / "logs")
        assert around() == before
        raw = content(out)
        assert {path.name for path in out.parent.iterdir()} == {"raw"}
        lines = [json.loads(line) for line in raw.pop("manifest.jsonl").decode().splitlines()]
        assert raw.pop("crawl.json")
        assert {line["path"] for line in lines} == set(raw)
        assert len(lines) == len(raw) == report["pictures"]
        for gem in {line["gem"] for line in lines}:
            numbers = sorted(line["number"] for line in lines if line["gem"] == gem)
            assert numbers == list(range(len(numbers)))
        return report, {f"{line['gem']}/{line['file']}": raw[line["path"]] for line in lines}

    return take


def write_zip(path: Path, files: Mapping[str | zipfile.ZipInfo, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as packed:
        for name, body in files.items():
            packed.writestr(name, body)
    return path


def write_tar(path: Path, files: Mapping[str, bytes | tuple[bytes, str]]) -> Path:
    """Pack files; a pair is a member's type and where it leads."""
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


HOSTILE = {
    "/etc/cron.jpg": ABSOLUTE,
    "C:\\Windows\\x.jpg": ABSOLUTE,
    "\\\\server\\share\\x.jpg": ABSOLUTE,
    "../escaped.jpg": OUTSIDE,
    "Ruby/../../escaped.jpg": OUTSIDE,
    "Ruby\\..\\..\\escaped.jpg": OUTSIDE,
}
SKIPPED = ["__MACOSX/Ruby/._0.jpg", "__MACOSX/x.jpg", "Ruby/._0.jpg", ".git/x.jpg", "Ruby/.hidden.jpg"]


def by_gem(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{name.split('/')[0]}/{name}": body for name, body in files.items()}


def test_a_hostile_zip_gives_its_good_photos_only(tmp_path: Path, taken: Any) -> None:
    link = zipfile.ZipInfo("Ruby/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    files: dict[Any, bytes] = GOOD | dict.fromkeys(HOSTILE, jpeg(7)) | dict.fromkeys(SKIPPED, jpeg(8))
    files |= {link: b"/etc/passwd", "Ruby/locked.jpg": jpeg(9), "Ruby/crc.jpg": jpeg(10), "loose.jpg": jpeg(11)}
    files |= {"Ruby/notes.txt": b"no photo", "Ruby/big.jpg": bytes(64 * 2**20 + 1), "README": b""}
    made = write_zip(tmp_path / "gems.zip", files)
    data = bytearray(made.read_bytes())
    place = data.index(jpeg(10))
    data[place + 200] ^= 255
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the bit that says: encrypted
        place = data.rindex(header, 0, data.index(b"Ruby/locked.jpg", data.index(header)))
        data[place + flags] |= 1
    made.write_bytes(data)
    report, photos = taken(made)
    assert photos == by_gem(GOOD)
    expected = Counter(HOSTILE.values()) + Counter([LINK, DAMAGED, DAMAGED, LOOSE, LARGE])
    assert report["failed"] == dict(sorted(expected.items()))
    assert report["unmatched_markup"] == {"file that is no photo by its name": 2}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "tar.bz2", "tgz"])
def test_a_hostile_tar_gives_its_good_photos_only(tmp_path: Path, taken: Any, suffix: str) -> None:
    special = {
        "Ruby/symbolic.jpg": (tarfile.SYMTYPE, "/etc/passwd"),
        "Ruby/hard.jpg": (tarfile.LNKTYPE, "/etc/passwd"),
        "Ruby/inner.jpg": (tarfile.LNKTYPE, "Ruby/0.jpg"),
        "Ruby/pipe.jpg": (tarfile.FIFOTYPE, ""),
        "Ruby/device.jpg": (tarfile.CHRTYPE, ""),
        "Ruby/block.jpg": (tarfile.BLKTYPE, ""),
    }
    files = GOOD | dict.fromkeys(HOSTILE, jpeg(7)) | dict.fromkeys(SKIPPED, jpeg(8)) | {"loose.jpg": jpeg(11)}
    report, photos = taken(write_tar(tmp_path / f"gems.{suffix}", files | special))
    assert photos == by_gem(GOOD)
    expected = Counter(HOSTILE.values()) + Counter([LINK] * 3 + [SPECIAL] * 3 + [LOOSE])
    assert report["failed"] == dict(sorted(expected.items()))


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.xz"])
def test_a_cut_archive_ends_in_one_line(tmp_path: Path, taken: Any, suffix: str) -> None:
    path = tmp_path / f"gems.{suffix}"
    (write_zip if suffix == "zip" else write_tar)(path, GOOD)
    whole = path.read_bytes()
    for part in (0, 100, len(whole) // 3, len(whole) // 2, 3 * len(whole) // 5):
        path.write_bytes(whole[:part])
        with pytest.raises(DataError, match=r"gems\.\S+: no whole zip or tar"):
            taken(path)
    assert not (tmp_path / "project" / "data" / "raw").exists()


def test_a_tar_with_a_damaged_header_is_not_taken_for_a_shorter_one(tmp_path: Path, taken: Any) -> None:
    path = write_tar(tmp_path / "gems.tar", GOOD)
    path.write_bytes(path.read_bytes().replace(b"Opal/a.PNG", b"Opal/b.PNG"))
    with pytest.raises(DataError, match="no whole zip or tar"):
        taken(path)


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_what_would_unpack_to_far_more_than_it_weighs_is_refused(tmp_path: Path, taken: Any, suffix: str) -> None:
    files = {"Ruby/0.jpg": jpeg(1), "Ruby/bomb.jpg": bytes(100 * 2**20)}
    path = tmp_path / f"gems.{suffix}"
    write_zip(path, files, zipfile.ZIP_DEFLATED) if suffix == "zip" else write_tar(path, files)
    with pytest.raises(DataError, match="would unpack to more than 100 times its size"):
        taken(path)


def test_a_zip_that_lies_of_its_sizes_gives_no_more_than_it_says(tmp_path: Path, taken: Any) -> None:
    path = write_zip(tmp_path / "gems.zip", GOOD | {"Ruby/lie.jpg": bytes(50 * 2**20)}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes().replace((50 * 2**20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    path.write_bytes(data)
    report, photos = taken(path)
    assert photos == by_gem(GOOD)
    assert report["failed"] == {DAMAGED: 1}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_equal_names_and_such_as_differ_in_capitals_are_kept_apart(tmp_path: Path, taken: Any) -> None:
    names = ["Ruby/a.jpg", "Ruby/A.jpg", "ruby/a.jpg", "Ruby/a.jpg", "Ruby/a.jpg", "Ruby/a.JPG", "Ruby/a.jpg/b.jpg",
             "Ruby/a .jpg", "Ruby/a\t.jpg", "Ruby/con.jpg", "Ruby/con_.jpg", "manifest.jsonl/a.jpg", "crawl.json/a.jpg",
             "Ruby/" + "deep/" * 400 + "a.jpg", "Ruby/" + "x" * 250 + ".jpg"]  # fmt: skip
    bodies = [jpeg(number) for number in range(len(names))]
    with zipfile.ZipFile(tmp_path / "gems.zip", "w") as packed:
        for name, body in zip(names, bodies, strict=True):
            packed.writestr(name, body)
    report, _ = taken(tmp_path / "gems.zip")
    raw = content(tmp_path / "project" / "data" / "raw")
    stored = {path: body for path, body in raw.items() if "/" in path}
    assert sorted(stored.values()) == sorted(bodies)
    assert len({path.casefold() for path in raw}) == len(raw)
    assert report["failed"] == {}


def test_names_that_are_no_text_are_taken_too(tmp_path: Path, taken: Any) -> None:
    latin = "Gr\udcfcn/\udce9.jpg"
    _, photos = taken(write_tar(tmp_path / "gems.tar", {latin: jpeg(1), "Ruby/a.jpg": jpeg(2)}))
    assert sorted(photos.values()) == sorted([jpeg(1), jpeg(2)])
    folder = tmp_path / "folder"
    for name in (latin, "Ruby/a.jpg"):
        try:
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_bytes(jpeg(3))
        except OSError:
            pytest.skip("this disk takes no such names")
    assert len(taken(folder)[1]) == 2


def test_a_tar_that_holds_a_zip_is_a_tar(tmp_path: Path, taken: Any) -> None:
    inner = write_zip(tmp_path / "inner.zip", {"Jade/evil.jpg": jpeg(1)}).read_bytes()
    report, photos = taken(write_tar(tmp_path / "gems.tar", GOOD | {"Ruby/inner.zip": inner}))
    assert photos == by_gem(GOOD)
    assert report["unmatched_markup"] == {"file that is no photo by its name": 1}


def test_the_parts_of_a_split_and_folders_around_are_looked_through(tmp_path: Path, taken: Any) -> None:
    names = [f"gemstones/{part}/{gem}/{gem.lower()}_1.jpg" for part in ("train", "test") for gem in ("Ruby", "Opal")]
    files = {name: jpeg(number) for number, name in enumerate(names)}
    report, photos = taken(write_zip(tmp_path / "kaggle.zip", files))
    assert report["by_gem"] == {"Opal": 2, "Ruby": 2}
    assert photos == {f"{name.split('/')[2]}/{name}": body for name, body in files.items()}


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """A folder with class folders and two archives of more, one with a folder around all."""
    folder = tmp_path / "photos"
    for name, body in GOOD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    write_zip(folder / "more.zip", {"Ruby/0.jpg": jpeg(200), "Jade/1.jpg": jpeg(201)})
    write_tar(folder / "old.tar.gz", {"backup/Ruby/0.jpg": jpeg(300), "backup/Opal/9.jpg": jpeg(301)})
    return folder


def test_a_folder_and_its_archives_are_merged(merged: Path, taken: Any) -> None:
    report, photos = taken(merged)
    assert report["by_gem"] == {"Jade": 1, "Opal": 3, "Ruby": 5}
    assert sorted(photos.values()) == sorted([*GOOD.values(), *(jpeg(n) for n in (200, 201, 300, 301))])
    assert report["failures"] == []
    before = content(merged.parent / "project")
    again, _ = taken(merged)
    assert content(merged.parent / "project") == before
    assert again["changes"] == {"new": [], "changed": [], "vanished": []}


def test_limits_hold_over_all_collections(merged: Path, taken: Any) -> None:
    report, _ = taken(merged, only=["Ruby", "Jade"], max_per_gem=2)
    assert report["by_gem"] == {"Jade": 1, "Ruby": 2}
    with pytest.raises(DataError, match="has no Topaz"):
        taken(merged, only=["Topaz"])


def test_a_number_stays_when_an_archive_comes_or_goes(merged: Path, taken: Any) -> None:
    def numbers() -> dict[str, int]:
        manifest = merged.parent / "project" / "data" / "raw" / "manifest.jsonl"
        lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        return {line["path"]: line["number"] for line in lines}

    taken(merged)
    first = numbers()
    write_zip(merged / "also.zip", {"Ruby/new.jpg": jpeg(400)})
    taken(merged)
    assert numbers() == first | {"Ruby/also.zip/new.jpg": 5}


def test_special_files_of_a_folder_are_no_photos(merged: Path, taken: Any) -> None:
    os.mkfifo(merged / "Ruby" / "pipe.jpg")
    (merged / "Ruby" / "broken.jpg").symlink_to("nowhere")
    (merged / "Ruby" / "folder.jpg").mkdir()
    assert taken(merged)[0]["by_gem"]["Ruby"] == 5
    assert local_photos.LARGEST == 64 * 2**20
