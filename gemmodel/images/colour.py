"""Colour: from a photo's own colour space to sRGB, which all later steps expect."""

import io
import struct
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms

from gemmodel.core.errors import DataError

MAX_BYTES = 4 * 2**20  # of a profile; those of printing presses have up to 3 MB
MAX_NAME = 60  # characters of a profile's name in reports
TOLERANCE = 2  # grey levels: a profile that changes no colour by more is one of the many that describe sRGB
MIN_WHITE = 128  # grey levels that a photo's white must have in sRGB, or the profile is broken
IGNORED = "ignored"  # how the name of a profile begins that was not applied
UNUSABLE = f"{IGNORED}: broken or larger than {MAX_BYTES // 2**20} MB"

D50, D65 = (0.3457, 0.3585), (0.3127, 0.3290)  # white points in CIE xy; D50 is that of all profiles
SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # red, green and blue in CIE xy
P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
BT2020 = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
CODED = {9: ("BT.2020", BT2020), 12: ("Display P3", P3)}  # by their number in ITU-T H.273; the others are near sRGB
HDR = {16: "PQ", 18: "HLG"}  # transfer functions there of more than 100 % white

SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # a profile's colour space by the mode of the photo
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION  # with relative colorimetry: Photoshop's default


class Profile(NamedTuple):
    """A profile's name, and its transform to sRGB from one mode; None where there is nothing to transform."""

    name: str
    transform: ImageCms.ImageCmsTransform | None


def find_profile(image: Image.Image) -> bytes | None:
    """Returns the ICC profile that describes a photo's colours, empty where it cannot be read; None for sRGB.

    A photo without an embedded profile may name its colour space in another way: a camera's Adobe RGB in the EXIF
    block (DCF 2.0), a phone's Display P3 by code points (AVIF, HEIF, PNG), gamma and primaries of a PNG.

    Args:
        image: as opened, not loaded yet.

    Raises:
        DataError: the photo is coded for HDR screens.
    """
    if "icc_profile" in image.info:
        embedded = image.info["icc_profile"]
        return embedded if isinstance(embedded, bytes) else b""
    if image.format in ("AVIF", "HEIF", "PNG"):
        primaries, transfer = _code_points(image)
        if transfer in HDR:
            raise DataError(
                f"HDR photo: its colours ({HDR[transfer]}) are those of HDR screens; save it as an SDR JPEG"
            )
        if primaries:
            return build_profile(*CODED[primaries]) if primaries in CODED else None
    if image.format == "PNG" and "srgb" not in image.info:
        return _png_profile(image.info.get("gamma"), image.info.get("chromaticity"))
    if b"R03" in image.info.get("exif", b""):
        with suppress(Exception):  # a broken EXIF block names no colour space
            if str(image.getexif().get_ifd(ExifTags.IFD.Interop).get(1, "")).startswith("R03"):
                return build_profile("Adobe RGB by EXIF", ADOBE, gamma=563 / 256)
    return None


def to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, str]:
    """Converts a photo to sRGB by its profile.

    A profile that is broken, larger than MAX_BYTES or of another colour space than the photo changes nothing.

    Args:
        image: of mode RGB, L or CMYK; others are returned as they are.
        profile: of `find_profile`.

    Returns:
        The photo, RGB if its colours changed and else the same object; and the profile's name, which begins with
        IGNORED where it was not applied.
    """
    name, transform = _profile(profile, image.mode) if len(profile) <= MAX_BYTES else Profile(UNUSABLE, None)
    if transform is None:
        return image, name
    if image.mode == "L" and transform.input_mode == "RGB":
        image = image.convert("RGB")
    return transform.apply(image), name


@lru_cache(maxsize=32)  # most photos of a collection have one of a few profiles
def _profile(content: bytes, mode: str) -> Profile:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = _printable(profile.profile.xcolor_space)
        name = _printable(ImageCms.getProfileDescription(profile))[:MAX_NAME] or "unnamed"
        if mode == "L" and space == "RGB":  # grey is red = green = blue
            mode = "RGB"
        if mode not in SPACES:
            return Profile(name, None)
        if SPACES[mode] != space:
            return Profile(f"{IGNORED}: a profile of {space} in a photo of {SPACES[mode]}", None)
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(profile, srgb, mode, "RGB", intent, flags=FLAGS)
        white = transform.apply(Image.new("RGB", (1, 1), "white").convert(mode))
        if np.asarray(white).min() < MIN_WHITE:
            return Profile(UNUSABLE, None)
        same = mode != "CMYK" and _is_identity(transform, mode)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return Profile(UNUSABLE, None)
    return Profile(name, None if same else transform)


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable()).strip()


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3) if mode == "RGB" else levels[None]
    before = Image.fromarray(colours)
    difference = np.asarray(transform.apply(before)).astype(int) - np.asarray(before.convert("RGB"))
    return bool(np.abs(difference).max() <= TOLERANCE)


def _code_points(image: Image.Image) -> tuple[int, int]:
    """Returns the numbers of primaries and transfer function in the file's header (ITU-T H.273); 0, 0 without them."""
    if nclx := image.info.get("nclx_profile"):  # of pillow-heif
        return int(nclx["color_primaries"]), int(nclx["transfer_characteristics"])
    file = getattr(image, "fp", None)
    if file is None or image.format == "HEIF":
        return 0, 0
    position = file.tell()
    file.seek(0)
    head = file.read(4096)
    file.seek(position)
    mark, layout = (b"cICP", ">BB") if image.format == "PNG" else (b"colrnclx", ">HH")
    start = head.find(mark) + len(mark)
    if start < len(mark) or start + struct.calcsize(layout) > len(head):
        return 0, 0
    primaries, transfer = struct.unpack_from(layout, head, start)
    return primaries, transfer


def _png_profile(gamma: float | None, chromaticity: tuple[float, ...] | None) -> bytes | None:
    """Returns a profile of a PNG's gamma and of its white, red, green and blue in CIE xy; None where they are sRGB."""
    white, primaries = (chromaticity[:2], chromaticity[2:]) if chromaticity else (D65, SRGB)
    other_gamma = gamma is not None and abs(gamma - 1 / 2.2) > 0.02
    if not other_gamma and np.abs(np.subtract((*white, *primaries), (*D65, *SRGB))).max() < 0.005:
        return None
    try:
        return build_profile("PNG gamma and primaries", primaries, white, 1 / gamma if other_gamma and gamma else None)
    except (ArithmeticError, ValueError, np.linalg.LinAlgError, struct.error):
        return b""


@lru_cache(maxsize=32)
def build_profile(
    name: str, primaries: tuple[float, ...], white: tuple[float, ...] = D65, gamma: float | None = None
) -> bytes:
    """Builds an ICC profile of an RGB display (ICC.1:2010, three components with a matrix).

    Args:
        name: its description.
        primaries: red, green and blue in CIE xy, six numbers.
        white: the white point in CIE xy.
        gamma: exponent of the tone curve, 0.5 to 5; None: the tone curve of sRGB.

    Returns:
        The bytes of the profile.

    Raises:
        ValueError: no display has such colours.
    """

    def xyz(x: float, y: float) -> np.ndarray:
        if not (0 < y <= 1 and 0 <= x <= 1):
            raise ValueError(f"{x}, {y} is no colour")
        return np.array([x / y, 1, (1 - x - y) / y])

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    if gamma is not None and not 0.5 <= gamma <= 5:
        raise ValueError(f"a gamma of {gamma}")
    columns = np.stack([xyz(*primaries[i : i + 2]) for i in (0, 2, 4)], 1)
    columns = columns * np.linalg.solve(columns, xyz(*white))
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    scale = (bradford @ xyz(*D50)) / (bradford @ xyz(*white))  # von Kries, as the ICC prescribes
    adapted = np.linalg.inv(bradford) @ np.diag(scale) @ bradford @ columns
    curve = (0, gamma) if gamma else (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    text = name.encode("utf-16-be")
    channels = (b"r", b"g", b"b")
    tags = {
        b"desc": b"mluc" + struct.pack(">4xII2s2sII", 1, 12, b"en", b"US", len(text), 28) + text,
        b"wtpt": b"XYZ " + bytes(4) + fixed(*xyz(*D50)),
        **{channel + b"XYZ": b"XYZ " + bytes(4) + fixed(*adapted[:, i]) for i, channel in enumerate(channels)},
        **{channel + b"TRC": b"para" + struct.pack(">4xHH", curve[0], 0) + fixed(*curve[1:]) for channel in channels},
    }
    directory, body = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        directory += tag + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = 128 + len(directory) + len(body)
    header = struct.pack(">I4x4s4s4s4s", size, b"\x04\x20\0\0", b"mntr", b"RGB ", b"XYZ ")
    header = header.ljust(36, b"\0") + b"acsp" + bytes(28) + fixed(*xyz(*D50))
    return header.ljust(128, b"\0") + directory + body
