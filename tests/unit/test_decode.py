"""Decoding: from any file to upright RGB pixels, or an error."""

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gemmodel.core.errors import DataError
from gemmodel.images import decode
from gemmodel.images.colour import P3, build_profile
from tests.conftest import ROOT

Draw = Callable[..., Image.Image]
# How a camera in this orientation stores an upright image: the inverse of the EXIF orientation.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def saved(picture: Image.Image, kind: str, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_turned_upright(orientation: int) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    read = decode.read(saved(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(read), upright)
    assert ("turned upright" in read.info["conversions"]) == (orientation != 1)


@pytest.mark.parametrize(
    ("kind", "value", "turned"), [(1, b"\6\0\0\0", 1), (7, b"\6\0\0\0", 1), (11, b"\0\0\xc0\x7f", 0)]
)
def test_an_orientation_of_another_type_is_no_damage(draw: Draw, kind: int, value: bytes, turned: bool) -> None:
    """BYTE and UNDEFINED, which mean it; and a FLOAT that is no number."""
    entry = struct.pack("<HHI", 0x0112, kind, 1) + value
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4)
    read = decode.read(saved(draw(1, size=(40, 30)), "JPEG", exif=exif))
    assert read.size == ((30, 40) if turned else (40, 30))
    assert ("turned upright" in read.info["conversions"]) == turned


def test_a_plain_jpeg_needs_no_conversion(draw: Draw) -> None:
    read = decode.read(saved(draw(1), "JPEG"))
    assert (read.mode, read.format, read.info["conversions"]) == ("RGB", "JPEG", [])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    rgba = np.zeros((20, 20, 4), np.uint8)
    rgba[:, :, 0], rgba[:10, :, 3], rgba[10:, :10, 3] = 200, 255, 128 if mode != "P" else 0
    picture = Image.fromarray(rgba)
    picture = picture.convert("LA") if mode == "LA" else picture.quantize(4) if mode == "P" else picture
    read = decode.read(saved(picture, "PNG"))
    pixels = np.asarray(read)
    solid = [200, 0, 0] if mode != "LA" else [60, 60, 60]
    assert read.mode == "RGB"
    np.testing.assert_allclose(pixels[:10], np.broadcast_to(solid, (10, 20, 3)), atol=2)  # quantised to a palette
    np.testing.assert_array_equal(pixels[10:, 10:], 255)
    if mode == "RGBA":  # half of red, half of white
        np.testing.assert_allclose(pixels[10:, :10], np.broadcast_to([227, 127, 127], (10, 10, 3)), atol=1)  # rounded
    assert {"transparency laid on white", "PNG to JPEG"} <= set(read.info["conversions"])


@pytest.mark.parametrize(
    ("kind", "mode", "colour", "expected"),
    [
        ("JPEG", "CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("JPEG", "L", 90, (90, 90, 90)),
        ("PNG", "1", 1, (255, 255, 255)),
        ("PNG", "I;16", 128 * 257, (128, 128, 128)),
        ("TIFF", "I;16", 30 * 257, (30, 30, 30)),
        ("GIF", "RGB", (10, 200, 30), (10, 200, 30)),
        ("WEBP", "RGB", (10, 200, 30), (10, 200, 30)),
        ("BMP", "RGB", (10, 200, 30), (10, 200, 30)),
    ],
)
def test_each_mode_keeps_its_colour(kind: str, mode: str, colour: Any, expected: tuple[int, ...]) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    read = decode.read(saved(Image.new(mode, (32, 24), colour), kind, **options))
    assert (read.mode, read.size) == ("RGB", (32, 24))
    np.testing.assert_allclose(np.asarray(read), np.broadcast_to(expected, (24, 32, 3)), atol=3)  # JPEG is lossy
    assert read.info["conversions"]


def test_a_palette_keeps_its_colours(draw: Draw) -> None:
    picture = draw(2).quantize(64)
    read = decode.read(saved(picture, "PNG"))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(picture.convert("RGB")))


def claiming(width: int, height: int) -> bytes:
    """Return a small PNG whose header claims another size."""
    whole = saved(Image.new("RGB", (4, 4)), "PNG").getvalue()
    head = b"IHDR" + struct.pack(">II", width, height) + whole[24:29]
    return whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("truncated", "damaged"),
        ("html", "not an image"),
        ("empty", "not an image"),
        ("noise", "not an image"),
        ("bomb", "more pixels"),
        ("large", "more pixels"),
        ("missing", "damaged"),
        ("folder", "damaged"),
    ],
)
def test_an_unusable_file_is_an_error(tmp_path: Path, draw: Draw, name: str, expected: str) -> None:
    whole = saved(draw(3, size=(300, 200)), "JPEG").getvalue()
    content = {
        "truncated": whole[: len(whole) // 2],
        "html": b"<html><body>moved</body></html>",
        "empty": b"",
        "noise": bytes(range(256)) * 8,
        "bomb": claiming(60000, 60000),
        "large": claiming(10000, 10000),
    }
    path = tmp_path / "photo.jpg"
    if name == "folder":
        path.mkdir()
    elif name in content:
        path.write_bytes(content[name])
    with pytest.raises(DataError, match=expected):
        decode.read(path)


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_exif_block_that_pillow_cannot_write_is_no_obstacle(draw: Draw, orientation: int) -> None:
    # Two entries of little-endian TIFF: the orientation, and a date and time that is a float.
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack("<HHIf", 0x0132, 11, 1, 2.0)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
    picture = draw(4, size=(60, 40))
    plain = saved(picture, "JPEG").getvalue()
    broken = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    with Image.open(io.BytesIO(broken)) as image, pytest.raises(AttributeError):
        image.getexif().tobytes()
    read = decode.read(io.BytesIO(broken))
    expected = Image.open(io.BytesIO(plain))
    expected = expected.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else expected
    np.testing.assert_array_equal(np.asarray(read), np.asarray(expected))


@pytest.mark.parametrize("size", [16, 64])
def test_load_returns_squares_of_bytes(tmp_path: Path, draw: Draw, size: int) -> None:
    draw(5, size=(300, 100)).save(tmp_path / "wide.jpg")
    pixels = decode.load(tmp_path / "wide.jpg", size)
    assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
    assert pixels.std() > 10
    # Grey levels: JPEG is lossy, and the edges weigh differently after resizing.
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), np.asarray(draw(5, size=(300, 100))).mean(axis=(0, 1)), atol=3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_kept(draw: Draw, kind: str) -> None:
    frames = [draw(seed) for seed in (1, 2, 3)]
    read = decode.read(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert "first frame kept" in read.info["conversions"]
    # GIF has 256 colours, and WebP is lossy; the other frames differ by some 50 grey levels on average.
    assert np.abs(np.asarray(read).astype(int) - np.asarray(frames[0])).mean() < 10
    assert "first frame kept" not in decode.read(saved(frames[0], kind)).info["conversions"]


@pytest.mark.parametrize("fraction", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_file_is_damaged(draw: Draw, kind: str, fraction: float) -> None:
    whole = saved(draw(3, size=(300, 200)), kind).getvalue()
    with pytest.raises(DataError, match=r"damaged|not an image"):
        decode.read(io.BytesIO(whole[: int(fraction * len(whole))]))


@pytest.mark.photos
def test_a_truncated_real_photo_is_damaged(real_gems: Path) -> None:
    for path in sorted(real_gems.glob("*/*_0.jpg"))[:10]:
        content = path.read_bytes()
        for fraction in (0.5, 0.98):
            with pytest.raises(DataError, match="damaged"):
                decode.read(io.BytesIO(content[: int(fraction * len(content))]))


def test_postscript_is_not_run(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "stone.jpg", "EPS")  # Pillow would start Ghostscript for it
    with pytest.raises(DataError, match="not an image"):
        decode.read(tmp_path / "stone.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_the_header_has_format_and_size_whatever_the_suffix(tmp_path: Path, draw: Draw, kind: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(draw(1, size=(60, 40)), kind).getvalue())
    assert decode.header(path) == (kind, 60, 40)
    with path.open("rb") as file:
        assert decode.header(file) == (kind, 60, 40)
        assert decode.read(file).size == (60, 40), "an open file is read from its start"


def test_the_header_is_read_without_the_pixels(draw: Draw) -> None:
    whole = saved(draw(3, size=(300, 200)), "JPEG").getvalue()
    assert decode.header(io.BytesIO(whole[: len(whole) // 2])) == ("JPEG", 300, 200)


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>", b"\x89PNG\r\n\x1a\n" + bytes(20), b"BM" + bytes(30)])
def test_a_file_without_an_image_header_is_not_an_image(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^not an image$"):
        decode.header(io.BytesIO(content))


@pytest.mark.parametrize("side", [10_000, 60_000])  # above Pillow's warning, and above its error
def test_a_header_of_too_many_pixels_is_an_error(side: int) -> None:
    with pytest.raises(DataError, match=f"more pixels than the {decode.MAX_PIXELS} of a photo"):
        decode.header(io.BytesIO(claiming(side, side)))


def test_the_limit_of_pixels_is_an_argument(draw: Draw) -> None:
    file = saved(draw(1, size=(60, 40)), "PNG")
    assert decode.header(file, max_pixels=2400) == ("PNG", 60, 40)
    with pytest.raises(DataError, match="more pixels than the 2399 of a photo"):
        decode.header(file, max_pixels=2399)


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path: Path, draw: Draw) -> None:
    photo = saved(draw(1), "JPEG", progressive=True).getvalue()
    last_scan = photo[photo.rindex(b"\xff\xda") : -2]
    end = photo[-2:]
    assert decode.read(io.BytesIO(photo[:-2] + 80 * last_scan + end)).size == (160, 120)
    bomb = tmp_path / "bomb.jpg"
    bomb.write_bytes(photo[:-2] + 400 * last_scan + end)
    for read in (decode.read, lambda path: decode.thumbnail(path, 16), decode.header):
        with pytest.raises(DataError, match="JPEG of 410 scans, which takes long to decode; a photo has at most 100"):
            read(bomb)
    attached = photo + 400 * last_scan  # as the film behind a phone's photo may look
    assert decode.read(io.BytesIO(attached)).size == (160, 120)


def test_a_photo_that_takes_too_much_memory_is_refused(draw: Draw) -> None:
    photo = bytearray(saved(draw(1), "JPEG", progressive=True).getvalue())
    size = photo.index(b"\xff\xc2") + 5
    photo[size : size + 4] = struct.pack(">HH", 7000, 8000)
    with pytest.raises(
        DataError, match="JPEG of 8000 x 7000 pixels, which takes 560 MB to decode, more than 512; save"
    ):
        decode.read(io.BytesIO(photo))


@pytest.mark.parametrize("profile", [False, True])
def test_photos_of_phones_with_48_megapixels_are_read(draw: Draw, profile: bool) -> None:
    """Turned, and with a profile. Most of the photo's pixels are missing, which JPEG decoders fill with grey."""
    exif = Image.Exif()
    exif[0x0112] = 6
    profiles = {"icc_profile": build_profile("Display P3", P3)} if profile else {}
    photo = bytearray(saved(draw(1), "JPEG", exif=exif, **profiles).getvalue())
    size = photo.index(b"\xff\xc0") + 5
    photo[size : size + 4] = struct.pack(">HH", 6048, 8064)
    read = decode.read(io.BytesIO(photo))
    assert read.size == (6048, 8064)
    assert read.info["conversions"] == ["turned upright", *[decode.TO_SRGB][:profile]]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process as Linux has them")
@pytest.mark.parametrize(("limit", "error"), [("RLIMIT_AS", "MemoryError"), ("RLIMIT_NOFILE", "OSError")])
def test_a_shortage_says_nothing_of_the_photo(run: Any, draw: Draw, tmp_path: Path, limit: str, error: str) -> None:
    draw(1).save(tmp_path / "small.jpg")
    draw(1, size=(4000, 3000)).save(tmp_path / "photo.jpg")
    code = f"""
import resource
from pathlib import Path
from gemmodel.core.errors import DataError, cli_errors
from gemmodel.images import decode
decode.read(Path("small.jpg"))  # what it imports and allocates once
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + 8 * 2**20 if {limit!r} == "RLIMIT_AS" else 3
resource.setrlimit(resource.{limit}, (limit, resource.getrlimit(resource.{limit})[1]))
with cli_errors("clean"):
    try:
        decode.read(Path("photo.jpg"))
    except DataError as error:
        print("rejected:", error)
"""
    ended = run("-c", code, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    expected = "not enough memory; close other" if error == "MemoryError" else "photo.jpg: Too many open files"
    assert ended.stderr.startswith(f"clean: {expected}")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may read all files")
def test_a_photo_that_may_not_be_read_is_no_damaged_one(draw: Draw, tmp_path: Path) -> None:
    draw(1).save(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        decode.read(tmp_path / "photo.jpg")


def test_a_photo_that_takes_too_long_is_refused(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    file = saved(draw(1, size=(1600, 1200)), "PNG")
    monkeypatch.setattr(decode, "MAX_SECONDS", 0.0)
    with pytest.raises(DataError, match="takes more than 0 s to decode"):
        decode.read(file)


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "HEIF"])
def test_a_large_photo_is_the_same_from_a_process_of_its_own(
    draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind not in decode.FORMATS:
        pytest.skip("HEIC is not read here")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = draw(1, size=(120, 80))
    if kind == "WEBP":
        picture.putalpha(100)
    file = saved(picture, kind, exif=exif)
    (tmp_path / "photo").write_bytes(file.getvalue())
    expected = decode.read(file)
    monkeypatch.setattr(decode, "MAX_AT_ONCE_PIXELS", 0)
    for source in (file, tmp_path / "photo"):
        read = decode.read(source)
        np.testing.assert_array_equal(np.asarray(read), np.asarray(expected))
        assert (read.format, read.info) == (expected.format, expected.info)
    with pytest.raises(DataError, match=r"damaged: |not an image"):
        decode.read(io.BytesIO(file.getvalue()[: len(file.getvalue()) // 2]))


def test_a_decoder_that_reads_the_file_at_once_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2100, 3), dtype=np.uint8)
    file = saved(Image.fromarray(np.tile(noise, (2, 1, 1))), "JPEG2000")  # takes 3 s of a fast core
    monkeypatch.setattr(decode, "MAX_AT_ONCE_PIXELS", 0)
    monkeypatch.setattr(decode, "MAX_SECONDS", 1.0)
    with pytest.raises(DataError, match="JPEG2000 that takes more than 1 s or 512 MB to decode; save it as JPEG"):
        decode.read(file)


def test_damaged_photos_give_an_image_or_one_line_in_bounded_time_and_memory(run: Any, tmp_path: Path) -> None:
    ended = run(ROOT / "tests" / "fuzz.py", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.startswith("2000 files: at most ")
