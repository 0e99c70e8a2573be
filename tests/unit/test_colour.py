"""Colour: whatever space a photo is stored in, it is read as sRGB."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from gemmodel.clean import cleaning
from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError
from gemmodel.core.params import Params
from gemmodel.figures import tiles
from gemmodel.images import colour, decode
from gemmodel.serve import app

Draw = Callable[..., Image.Image]
P3 = colour.build_profile("Display P3", colour.P3)
ADOBE = colour.build_profile("Adobe RGB (1998)", colour.ADOBE, gamma=563 / 256)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def transform(picture: Image.Image, source: bytes, target: bytes, mode: str = "RGB") -> Image.Image:
    profiles = (ImageCms.ImageCmsProfile(io.BytesIO(profile)) for profile in (source, target))
    out = ImageCms.profileToProfile(picture, *profiles, outputMode=mode, renderingIntent=1)
    assert out is not None
    out.info.clear()
    return out


def saved(picture: Image.Image, kind: str, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    file.seek(0)
    return file


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a).astype(int) - np.asarray(b)).mean())


def icc(tags: dict[bytes, bytes], space: bytes, pcs: bytes, kind: bytes = b"prtr") -> bytes:
    """Returns an ICC profile, version 2, of some tags."""
    tags = {b"desc": b"desc" + struct.pack(">4xI", 5) + b"test\0" + bytes(78)} | tags
    directory, body = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        directory += tag + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4x", 128 + len(directory + body)) + b"\x02\x10\0\0" + kind + space + pcs
    return (head.ljust(36, b"\0") + b"acsp" + bytes(28) + white).ljust(128, b"\0") + directory + body


def press(inks: list[tuple[int, int, int]]) -> bytes:
    """Returns a CMYK profile by the sRGB colours of all 16 combinations of no and full ink, the last ink fastest."""
    lab = transform(Image.fromarray(np.array([inks], np.uint8)), SRGB, lab_profile(), "LAB")
    table = np.asarray(lab).astype(np.uint8)
    table = table.reshape(-1, 3)
    matrix = struct.pack(">9i", *(65536 * np.eye(3, dtype=int).ravel()))
    lut = b"mft1" + struct.pack(">4x3Bx", 4, 3, 2) + matrix + bytes(range(256)) * 4
    lut += (table ^ np.array([0, 128, 128], np.uint8)).astype(np.uint8).tobytes() + bytes(range(256)) * 3
    return icc({b"A2B0": lut, b"wtpt": b"XYZ " + struct.pack(">4x3i", 63190, 65536, 54061)}, b"CMYK", b"Lab ")


def lab_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def grey_profile(gamma: float) -> bytes:
    curve = b"curv" + struct.pack(">4xIH", 1, round(gamma * 256))
    white = b"XYZ " + struct.pack(">4x3i", 63190, 65536, 54061)
    return icc({b"kTRC": curve, b"wtpt": white}, b"GRAY", b"XYZ ", b"mntr")


def emerald() -> Image.Image:
    """Returns smooth greens of all shades; wide colour spaces store them as other numbers."""
    y, x = np.mgrid[0:120, 0:160]
    return Image.fromarray(np.stack([30 + x / 2, 120 + y, 60 + (x + y) / 4], 2).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("profile", [P3, ADOBE], ids=["P3", "Adobe"])
def test_a_photo_of_a_wide_colour_space_is_read_as_srgb(kind: str, profile: bytes) -> None:
    truth = emerald()
    options = {
        "WEBP": {"lossless": True},
        "JPEG": {"quality": 98, "subsampling": 0},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    stored = transform(truth, SRGB, profile)
    read = decode.read(saved(stored, kind, icc_profile=profile, **options.get(kind, {})))
    assert difference(read, truth) < (1.5 if kind != "AVIF" else 2.2)
    assert difference(stored, truth) > 4, "the test tells"
    assert decode.TO_SRGB in read.info["conversions"]
    assert read.info["colour_profile"] == ("Display P3" if profile is P3 else "Adobe RGB (1998)")


def test_a_profile_of_srgb_changes_nothing(draw: Draw) -> None:
    for profile in (SRGB, colour.build_profile("mine", colour.SRGB)):
        plain, tagged = (decode.read(saved(draw(5), "JPEG", icc_profile=content)) for content in (None, profile))
        np.testing.assert_array_equal(np.asarray(plain), np.asarray(tagged))
        assert (plain.info["colour_profile"], tagged.info["conversions"]) == (None, [])
        assert tagged.info["colour_profile"]


def test_no_photo_keeps_its_profile(draw: Draw) -> None:
    for profile in (P3, SRGB, b"broken"):
        read = decode.read(saved(draw(5), "PNG", icc_profile=profile))
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            assert "icc_profile" not in Image.open(saved(read, kind)).info


@pytest.mark.parametrize(
    ("mode", "profile", "name"),
    [
        ("RGB", b"broken", "ignored: broken or larger than 4 MB"),
        ("RGB", P3[:200], "ignored: broken or larger than 4 MB"),
        ("RGB", P3.ljust(colour.MAX_BYTES + 1), "ignored: broken or larger than 4 MB"),
        ("RGB", grey_profile(1.8), "ignored: a profile of GRAY in a photo of RGB"),
        ("RGB", press([(0, 0, 0)] * 16), "ignored: a profile of CMYK in a photo of RGB"),
        ("CMYK", P3, "ignored: a profile of RGB in a photo of CMYK"),
        ("CMYK", press([(0, 0, 0)] * 16), "ignored: broken or larger than 4 MB"),  # its white is black
        ("RGB", P3.replace(b"RGB ", b"v\0B ", 1), "ignored: a profile of vB in a photo of RGB"),
    ],
)
def test_a_profile_that_does_not_fit_is_ignored_and_named(draw: Draw, mode: str, profile: bytes, name: str) -> None:
    picture = draw(5).convert(mode)
    plain, tagged = (decode.read(saved(picture, "JPEG", icc_profile=content)) for content in (None, profile))
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(tagged))
    assert tagged.info["colour_profile"] == name
    assert plain.info["conversions"] == tagged.info["conversions"]


def test_inks_are_read_by_their_profile() -> None:
    inks = [(255, 255, 255), *[(20, 20, 20)] * 7, (60, 120, 190), *[(20, 20, 20)] * 7]
    picture = Image.new("CMYK", (32, 24), (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):
        plain, read = (
            np.asarray(decode.read(saved(picture, kind, icc_profile=profile))) for profile in (None, press(inks))
        )
        np.testing.assert_allclose(plain[0, 0], (0, 255, 255), atol=3)
        np.testing.assert_allclose(read[0, 0], (60, 120, 190), atol=4)


def test_grey_is_read_by_its_profile() -> None:
    picture = Image.new("L", (32, 24), 100)
    expected = 255 * (1.055 * (100 / 255) ** (1.0 / 2.4) - 0.055)  # a gamma of 1
    for kind in ("JPEG", "PNG", "TIFF"):
        read = decode.read(saved(picture, kind, icc_profile=grey_profile(1.0)))
        np.testing.assert_allclose(np.asarray(read)[0, 0], expected, atol=2)
    sixteen = Image.fromarray(np.full((24, 32), 100 * 257, np.uint16))
    read = decode.read(saved(sixteen, "TIFF", icc_profile=grey_profile(1.0)))
    np.testing.assert_allclose(np.asarray(read)[0, 0], expected, atol=2)
    linear = colour.build_profile("linear", colour.SRGB, gamma=1.0)
    read = decode.read(saved(picture, "JPEG", icc_profile=linear))  # a profile of RGB, as many grey photos have
    np.testing.assert_allclose(np.asarray(read)[0, 0], expected, atol=2)


def test_colours_behind_transparency_and_in_palettes_are_converted(draw: Draw) -> None:
    truth = draw(5).quantize(64)
    stored = truth.copy()
    palette = Image.fromarray(np.array(truth.getpalette(), np.uint8).reshape(-1, 1, 3))
    stored.putpalette(np.asarray(transform(palette, SRGB, P3)).tobytes())
    assert difference(decode.read(saved(stored, "PNG", icc_profile=P3)), truth.convert("RGB")) < 1.5
    rgba = transform(draw(5), SRGB, P3)
    rgba.putalpha(Image.new("L", rgba.size, 255))
    rgba.paste((0, 0, 0, 0), (0, 0, 20, 20))
    read = decode.read(saved(rgba, "PNG", icc_profile=P3))
    np.testing.assert_array_equal(np.asarray(read)[:20, :20], 255)
    assert difference(read.crop((20, 20, 120, 120)), draw(5).crop((20, 20, 120, 120))) < 1.5


def test_a_photo_of_a_camera_set_to_adobe_rgb_needs_no_profile(draw: Draw) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03", 2: b"0100"}
    stored = transform(draw(5), SRGB, ADOBE)
    file = saved(stored, "JPEG", quality=98, subsampling=0, exif=exif)
    assert Image.open(file).getexif().get_ifd(0xA005)[1].startswith("R03")
    read = decode.read(file)
    assert difference(read, draw(5)) < 1.5
    assert read.info["colour_profile"] == "Adobe RGB by EXIF"


def png(pixels: bytes, size: tuple[int, int], depth: int, kind: int, *chunks: tuple[bytes, bytes]) -> io.BytesIO:
    """Returns a PNG of rows of samples; the other chunks come before them."""
    width, height = size
    row = len(pixels) // height
    rows = b"".join(b"\0" + pixels[i : i + row] for i in range(0, len(pixels), row))
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return io.BytesIO(content)


GREY, TRUE_COLOUR = 0, 2


@pytest.mark.parametrize(
    ("depth", "kind", "opaque", "transparent", "key", "expected"),
    [
        (16, GREY, b"\x80\x80", b"\x12\x34", b"\x12\x34", 128),
        (16, GREY, b"\x12\x35", b"\x12\x34", b"\x12\x34", 18),  # one of 65,536 levels is transparent
        (8, GREY, b"\x80", b"\x12", b"\0\x12", 128),
        (4, GREY, b"\x88", b"\x33", b"\0\x03", 136),
        (2, GREY, b"\xaa", b"\x55", b"\0\x01", 170),
        (1, GREY, b"\x00", b"\xff", b"\0\x01", 0),
        (8, TRUE_COLOUR, b"\x80\x80\x80", b"\x01\x02\x03", b"\0\x01\0\x02\0\x03", 128),
        (16, TRUE_COLOUR, b"\x80\x80" * 3, b"\x01\x02\x03\x04\x05\x06", b"\x01\x02\x03\x04\x05\x06", 128),
    ],
)
def test_one_colour_of_a_png_is_transparent(
    depth: int, kind: int, opaque: bytes, transparent: bytes, key: bytes, expected: int
) -> None:
    columns = 8
    samples = columns * max(depth, 8) // 8 * (3 if kind == TRUE_COLOUR else 1)
    packed = samples if depth >= 8 else columns * depth // 8
    rows = [sample * (packed // len(sample)) for sample in (opaque, transparent)]
    read = decode.read(png(b"".join(rows), (columns, 2), depth, kind, (b"tRNS", key)))
    pixels = np.asarray(read)
    np.testing.assert_array_equal(pixels[0], expected)
    np.testing.assert_array_equal(pixels[1], 255)
    assert "transparency laid on white" in read.info["conversions"]


def palette(alpha: bool = False) -> Image.Image:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette(
        [0, 0, 0, 255, 200, 100, 50, 128] if alpha else [0, 0, 0, 200, 100, 50], "RGBA" if alpha else "RGB"
    )
    return picture


def with_key(picture: Image.Image, key: Any) -> Image.Image:
    picture.info["transparency"] = key
    return picture


def flat(mode: str, value: Any) -> Callable[[], Image.Image]:
    return lambda: Image.new(mode, (8, 8), value)


def converted(mode: str, value: Any, *modes: str) -> Callable[[], Image.Image]:
    def make() -> Image.Image:
        picture = Image.new(mode, (8, 8), value)
        for other in modes:
            picture = picture.convert(other)
        return picture

    return make


BROWN = (200, 100, 50)
HALF_BROWN, WHITE = (227, 177, 152), (255, 255, 255)  # at an opacity of 128 of 255
MODES: dict[str, list[tuple[Callable[[], Image.Image], tuple[int, int, int]]]] = {
    "1": [(flat("1", 1), WHITE), (flat("1", 0), (0, 0, 0)), (lambda: with_key(Image.new("1", (8, 8), 0), 0), WHITE)],
    "L": [(flat("L", 90), (90, 90, 90)), (lambda: with_key(Image.new("L", (8, 8), 90), 90), WHITE)],
    "LA": [(flat("LA", (90, 128)), (172, 172, 172))],
    "La": [(converted("LA", (90, 128), "La"), (172, 172, 172))],
    "P": [
        (palette, BROWN),
        (lambda: palette(alpha=True), HALF_BROWN),
        (lambda: with_key(palette(), 1), WHITE),
        (lambda: with_key(palette(), 0), BROWN),
        (lambda: with_key(palette(), b"\xff\x80"), HALF_BROWN),
    ],
    "PA": [(lambda: palette().convert("PA"), BROWN)],
    "RGB": [(flat("RGB", BROWN), BROWN), (lambda: with_key(Image.new("RGB", (8, 8), BROWN), BROWN), WHITE)],
    "RGBA": [(flat("RGBA", (*BROWN, 128)), HALF_BROWN), (flat("RGBA", (*BROWN, 0)), WHITE)],
    "RGBa": [(converted("RGBA", (*BROWN, 128), "RGBa"), HALF_BROWN)],
    "RGBX": [(flat("RGBX", (*BROWN, 0)), BROWN)],
    "CMYK": [(flat("CMYK", (0, 255, 255, 0)), (255, 0, 0)), (flat("CMYK", (0, 0, 0, 155)), (100, 100, 100))],
    "YCbCr": [(converted("RGB", BROWN, "YCbCr"), BROWN)],
    "HSV": [(converted("RGB", BROWN, "HSV"), BROWN)],
    "LAB": [(lambda: transform(Image.new("RGB", (8, 8), BROWN), SRGB, lab_profile(), "LAB"), BROWN)],
    "I;16": [(flat("I;16", 100 * 257), (100, 100, 100)), (lambda: with_key(Image.new("I;16", (8, 8), 9), 9), WHITE)],
    "I;16L": [(flat("I;16L", 100 * 257), (100, 100, 100))],
    "I;16B": [(flat("I;16B", 100 * 257), (100, 100, 100))],
    "I;16N": [(flat("I;16N", 100 * 257), (100, 100, 100))],
    "I": [],
    "F": [],
}


def test_each_mode_of_pillow_has_its_colour() -> None:
    assert set(MODES) == set(Image.MODES)
    for mode, examples in MODES.items():
        for make, expected in examples:
            picture = make()
            assert picture.mode == mode
            read = decode.to_rgb(picture)
            assert (read.mode, read.size) == ("RGB", (8, 8))
            np.testing.assert_allclose(np.asarray(read)[4, 4], expected, atol=2, err_msg=mode)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_per_pixel_are_refused_in_words(mode: str) -> None:
    with pytest.raises(DataError, match=f"no camera makes: {mode}, 32 bits per pixel; save it with 8 or 16 bits"):
        decode.read(saved(Image.new(mode, (8, 8)), "TIFF"))


def test_a_16_bit_pgm_is_read() -> None:
    file = io.BytesIO(b"P5 2 2 65535\n" + bytes([100, 100] * 4))
    np.testing.assert_array_equal(np.asarray(decode.read(file)), 100)


def test_a_png_shows_its_gamma_unless_it_is_srgb() -> None:
    linear = 255 * (1.055 * (100 / 255) ** (1 / 2.4) - 0.055)
    p3 = (0.3127, 0.3290, *colour.P3)
    cases: list[tuple[list[tuple[bytes, bytes]], float]] = [
        ([(b"gAMA", struct.pack(">I", 45455))], 100),
        ([(b"gAMA", struct.pack(">I", 100_000))], linear),
        ([(b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")], 100),
        ([(b"gAMA", struct.pack(">I", 1))], 100),  # no display has such a gamma
        ([(b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in p3)))], 100),  # grey stays grey
        ([(b"cHRM", bytes(32))], 100),
    ]
    for chunks, expected in cases:
        read = decode.read(png(bytes([100] * 3 * 64), (8, 8), 8, TRUE_COLOUR, *chunks))
        np.testing.assert_allclose(np.asarray(read)[4, 4], expected, atol=1, err_msg=str(chunks))
    red = png(bytes([200, 30, 30] * 64), (8, 8), 8, TRUE_COLOUR, cases[4][0][0])
    expected_red = np.asarray(transform(Image.new("RGB", (1, 1), (200, 30, 30)), P3, SRGB))[0, 0]
    np.testing.assert_allclose(np.asarray(decode.read(red))[4, 4], expected_red, atol=2)


def test_code_points_name_a_colour_space() -> None:
    expected = np.asarray(transform(Image.new("RGB", (1, 1), (200, 30, 30)), P3, SRGB))[0, 0]
    pixels = bytes([200, 30, 30] * 64)
    read = decode.read(png(pixels, (8, 8), 8, TRUE_COLOUR, (b"cICP", bytes([12, 13, 0, 1]))))
    np.testing.assert_allclose(np.asarray(read)[4, 4], expected, atol=2)
    assert read.info["colour_profile"] == "Display P3"
    with pytest.raises(DataError, match=r"HDR photo: its colours \(PQ\)"):
        decode.read(png(pixels, (8, 8), 8, TRUE_COLOUR, (b"cICP", bytes([9, 16, 0, 1]))))
    avif = saved(Image.new("RGB", (64, 64), (200, 30, 30)), "AVIF", quality=100).getvalue()
    mark = avif.index(b"colrnclx") + 8
    assert decode.read(io.BytesIO(avif)).info["colour_profile"] is None
    avif = avif[:mark] + struct.pack(">HH", 12, 13) + avif[mark + 4 :]
    read = decode.read(io.BytesIO(avif))
    np.testing.assert_allclose(np.asarray(read)[4, 4], expected, atol=4)


def test_a_png_is_read_in_spite_of_its_metadata() -> None:
    pixels = bytes(range(192))
    plain = np.asarray(decode.read(png(pixels, (8, 8), 8, TRUE_COLOUR)))
    huge = zlib.compress(bytes(2 * colour.MAX_BYTES))
    for chunk in (
        (b"iCCP", b"huge\0\0" + huge),
        (b"iCCP", b"broken\0\0" + bytes(20)),
        (b"iCCP", b"method\0\x07" + bytes(20)),
        (b"zTXt", b"huge\0\0" + huge),
        (b"gAMA", b"\0"),
        (b"pHYs", b"\0"),
    ):
        read = decode.read(png(pixels, (8, 8), 8, TRUE_COLOUR, chunk))
        np.testing.assert_array_equal(np.asarray(read), plain)
        assert read.info["colour_profile"] == (colour.UNUSABLE if chunk[0] == b"iCCP" else None)


def test_clean_writes_srgb_once_and_counts_the_profiles(
    tmp_path: Path, settings: Callable[..., Params], draw: Draw
) -> None:
    contents = {
        "p3.jpg": saved(transform(draw(1), SRGB, P3), "JPEG", icc_profile=P3, quality=97, subsampling=0),
        "adobe.png": saved(transform(draw(2), SRGB, ADOBE), "PNG", icc_profile=ADOBE),
        "srgb.jpg": saved(draw(3), "JPEG", icc_profile=SRGB),
        "broken.jpg": saved(draw(4), "JPEG", icc_profile=b"broken"),
        "plain.jpg": saved(draw(5), "JPEG"),
    }
    raw, out = tmp_path / "raw", tmp_path / "clean"
    (raw / "Gem").mkdir(parents=True)
    for name, content in contents.items():
        (raw / "Gem" / name).write_bytes(content.getvalue())
    files.write_jsonl(raw / "manifest.jsonl", [{"path": f"Gem/{name}", "number": i} for i, name in enumerate(contents)])
    report = cleaning.clean(raw, out, settings().clean, workers=1)
    srgb_name = decode.read(contents["srgb.jpg"]).info["colour_profile"]
    assert report["colour_profiles"] == {
        "Adobe RGB (1998)": 1, "Display P3": 1, colour.UNUSABLE: 1, "none": 1, srgb_name: 1,
    }  # fmt: skip
    assert report["converted"] == {"PNG to JPEG": 1, decode.TO_SRGB: 2}
    for i, seed in ((0, 1), (1, 2)):
        path = out / "Gem" / f"gem_{i}.jpg"
        assert "icc_profile" not in Image.open(path).info
        assert difference(decode.read(path), draw(seed)) < 1.5
        assert difference(tiles.thumbnail(path, 60), draw(seed).resize(tiles.thumbnail(path, 60).size)) < 6
    for i, name in ((2, "srgb.jpg"), (3, "broken.jpg"), (4, "plain.jpg")):
        assert (out / "Gem" / f"gem_{i}.jpg").read_bytes() == contents[name].getvalue()


def test_a_thumbnail_is_of_the_photo_as_it_is_read(draw: Draw) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(transform(draw(5, size=(600, 400)), SRGB, P3), "JPEG", icc_profile=P3, exif=exif, quality=95)
    whole, small = decode.read(file), decode.thumbnail(file, 90)
    assert small.size == (60, 90)
    assert difference(small, whole.resize((60, 90), Image.Resampling.BICUBIC)) < 4


def test_heic_without_its_decoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "FORMATS", tuple(name for name in decode.FORMATS if name != "HEIF"))
    monkeypatch.setattr(decode, "HEIC_IS_READ", False)
    for brand in (b"heic", b"heix", b"hevc", b"mif1"):
        file = io.BytesIO(b"\0\0\0\x18ftyp" + brand + bytes(12))
        for reader in (decode.read, decode.header):
            with pytest.raises(DataError, match=r"^HEIC, which needs `pip install -e '\.\[heic\]'`"):
                reader(file)


def test_heic_is_read_with_the_extra() -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    truth = emerald()
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = transform(truth.transpose(Image.Transpose.ROTATE_90), SRGB, P3)
    read = decode.read(saved(stored, "HEIF", quality=100, icc_profile=P3, exif=exif.tobytes(), chroma=444))
    assert (read.size, read.format, read.info["colour_profile"]) == (truth.size, "HEIF", "Display P3")
    assert difference(read, truth) < 2.5
    assert read.info["conversions"][-1] == "HEIF to JPEG"
    coded = saved(
        transform(truth, SRGB, P3), "HEIF", quality=100, chroma=444, color_primaries=12, transfer_characteristics=13
    )
    assert heif.open_heif(io.BytesIO(coded.getvalue())).info["nclx_profile"]["color_primaries"] == 12
    read = decode.read(coded)
    assert (difference(read, truth) < 2.5, read.info["colour_profile"]) == (True, "Display P3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\x0a" + bytes(30), "JPEG XL, which is not read; save it as JPEG or PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30), "JPEG XL, which is not read; save it as JPEG or PNG"),
    ],
)
def test_a_photo_of_a_kind_that_is_not_read_is_named(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode.read(io.BytesIO(content))


def test_the_preview_of_a_raw_photo_is_not_taken_for_the_photo(draw: Draw) -> None:
    with pytest.raises(DataError, match=r"raw photo: only a small preview of it can be read"):
        decode.read(saved(draw(1), "TIFF", tiffinfo={254: 1}))
    assert decode.read(saved(draw(1), "TIFF", tiffinfo={254: 0})).size == draw(1).size


def test_further_formats_are_read(draw: Draw) -> None:
    for kind, options in (("AVIF", {"quality": 90}), ("JPEG2000", {}), ("PPM", {})):
        exif = Image.Exif()
        exif[0x0112] = 6
        file = saved(draw(5), kind, **options | ({"exif": exif} if kind == "AVIF" else {}))
        read = decode.read(file)
        assert (read.format, read.size) == (kind, (120, 160) if kind == "AVIF" else (160, 120))
        assert f"{kind} to JPEG" in read.info["conversions"]
        assert decode.header(file).format == kind


def test_a_jpeg_with_further_views_is_a_jpeg(draw: Draw) -> None:
    views = saved(draw(5), "MPO", save_all=True, append_images=[draw(6)], icc_profile=P3)
    read = decode.read(views)
    assert (read.format, read.info["colour_profile"]) == ("JPEG", "Display P3")
    assert "first frame kept" not in read.info["conversions"]


def test_the_page_accepts_what_browsers_have_types_for() -> None:
    page = (Path(app.__file__).parent / "page" / "index.html").read_text(encoding="utf-8")
    accepted = re.search(r'accept="([^"]+)"', page)
    others = {"HEIF", "JPEG2000", "PPM"}  # an iPhone sends its HEIC photos as JPEG to a page that does not accept them
    assert accepted and set(accepted[1].split(",")) == {Image.MIME[name] for name in set(image_folder.FORMATS) - others}
