"""From a file, whatever it is, to upright RGB pixels or an error."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gemmodel.core.errors import DataError
from gemmodel.images import decode

Draw = Callable[..., Image.Image]
# How a camera held so stores an upright picture: the inverse of what the orientation asks for.
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
def test_each_orientation_comes_out_upright(orientation: int) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    read = decode.read(saved(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(read), upright)
    assert ("turned upright" in read.info["conversions"]) == (orientation != 1)


def test_a_photo_that_needs_nothing_is_told_so(draw: Draw) -> None:
    read = decode.read(saved(draw(1), "JPEG"))
    assert (read.mode, read.format, read.info["conversions"]) == ("RGB", "JPEG", [])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, :, 0], pixels[:10, :, 3], pixels[10:, :10, 3] = 200, 255, 128 if mode != "P" else 0
    picture = Image.fromarray(pixels)
    picture = picture.convert("LA") if mode == "LA" else picture.quantize(4) if mode == "P" else picture
    read = decode.read(saved(picture, "PNG"))
    seen = np.asarray(read)
    solid = [200, 0, 0] if mode != "LA" else [60, 60, 60]
    assert read.mode == "RGB"
    np.testing.assert_allclose(seen[:10], np.broadcast_to(solid, (10, 20, 3)), atol=2)
    np.testing.assert_array_equal(seen[10:, 10:], 255)
    if mode == "RGBA":  # half of red, half of white
        np.testing.assert_allclose(seen[10:, :10], np.broadcast_to([227, 127, 127], (10, 10, 3)), atol=2)
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
    np.testing.assert_allclose(np.asarray(read), np.broadcast_to(expected, (24, 32, 3)), atol=3)
    assert read.info["conversions"]


def test_a_palette_keeps_its_colours(draw: Draw) -> None:
    picture = draw(2).quantize(64)
    read = decode.read(saved(picture, "PNG"))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(picture.convert("RGB")))


def promising(width: int, height: int) -> bytes:
    """A small PNG whose head promises so many pixels."""
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
def test_what_is_no_photo_is_refused(tmp_path: Path, draw: Draw, name: str, expected: str) -> None:
    whole = saved(draw(3, size=(300, 200)), "JPEG").getvalue()
    content = {
        "truncated": whole[: len(whole) // 2],
        "html": b"<html><body>moved</body></html>",
        "empty": b"",
        "noise": bytes(range(256)) * 8,
        "bomb": promising(60000, 60000),
        "large": promising(10000, 10000),
    }
    path = tmp_path / "photo.jpg"
    if name == "folder":
        path.mkdir()
    elif name in content:
        path.write_bytes(content[name])
    with pytest.raises(DataError, match=expected):
        decode.read(path)


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_exif_block_that_pillow_cannot_write_back_does_not_matter(draw: Draw, orientation: int) -> None:
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
def test_a_model_sees_squares_of_bytes(tmp_path: Path, draw: Draw, size: int) -> None:
    draw(5, size=(300, 100)).save(tmp_path / "wide.jpg")
    pixels = decode.load(tmp_path / "wide.jpg", size)
    assert (pixels.shape, pixels.dtype) == ((size, size, 3), np.uint8)
    assert pixels.std() > 10
    np.testing.assert_allclose(pixels.mean(axis=(0, 1)), np.asarray(draw(5, size=(300, 100))).mean(axis=(0, 1)), atol=3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_kept(draw: Draw, kind: str) -> None:
    frames = [draw(seed) for seed in (1, 2, 3)]
    read = decode.read(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert "first frame kept" in read.info["conversions"]
    np.testing.assert_allclose(np.asarray(read).astype(int), np.asarray(frames[0]), atol=60)
    assert np.abs(np.asarray(read).astype(int) - np.asarray(frames[0])).mean() < 10
    assert "first frame kept" not in decode.read(saved(frames[0], kind)).info["conversions"]


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_short_is_damaged(draw: Draw, kind: str, share: float) -> None:
    whole = saved(draw(3, size=(300, 200)), kind).getvalue()
    with pytest.raises(DataError, match=r"damaged|not an image"):
        decode.read(io.BytesIO(whole[: int(share * len(whole))]))


@pytest.mark.photos
def test_a_real_photo_cut_short_is_damaged(real_gems: Path) -> None:
    for path in sorted(real_gems.glob("*/*_0.jpg"))[:10]:
        content = path.read_bytes()
        for share in (0.5, 0.98):
            with pytest.raises(DataError, match="damaged"):
                decode.read(io.BytesIO(content[: int(share * len(content))]))


def test_nothing_is_handed_to_a_program_that_runs_what_a_file_says(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(tmp_path / "stone.jpg", "EPS")  # Pillow would start Ghostscript for it
    with pytest.raises(DataError, match="not an image"):
        decode.read(tmp_path / "stone.jpg")
