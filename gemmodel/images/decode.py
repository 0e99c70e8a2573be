"""Reading photos: the only way from a file to upright sRGB pixels.

A file may be made to take hours or all memory. What bounds it: docs/security.md.
"""

import errno
import io
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import IO, Any, NamedTuple, cast

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError, features

from gemmodel.core import image_folder
from gemmodel.core.errors import DataError
from gemmodel.images import colour

try:
    import pillow_heif
except ImportError:
    HEIC_IS_READ = False
else:
    pillow_heif.register_heif_opener()
    HEIC_IS_READ = True

FORMATS = tuple(name for name in image_folder.FORMATS if name != "HEIF" or HEIC_IS_READ)
MAX_PIXELS = 89_478_485  # Pillow's own limit, where it would only warn
MAX_SCANS = (
    100  # of a JPEG; a progressive one has 10. Each scan goes through all pixels, and an empty one takes 10 bytes
)
MAX_SECONDS = 10.0  # of a core, for one photo; a photo of MAX_PIXELS takes 1
MAX_MEMORY = 512_000_000  # bytes, while a photo is decoded
BYTES_PER_PIXEL = 4  # of an image in Pillow, measured; and what decoders hold beside it, above those of a baseline JPEG
DECODER_BYTES = {"WEBP": 12, "AVIF": 6, "JPEG2000": 16, "HEIF": 4}
PROGRESSIVE_BYTES = 6  # all coefficients of a progressive JPEG
# Decoders of these take the file in one call, which nothing in this process can end. Above so many pixels, more than
# most phones' photos have, they run in a process of their own. Below it noise takes at most 7 s, as JPEG 2000.
AT_ONCE_FORMATS = ("WEBP", "AVIF", "JPEG2000", "HEIF", "TIFF")
MAX_AT_ONCE_PIXELS = 13_000_000
BAND = 256  # rows: what needs several copies of an image is done in bands of it
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

SHORTAGES = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)

JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}  # for photos that have to be written again
PngImagePlugin.MAX_TEXT_CHUNK = colour.MAX_BYTES  # also of a PNG's profile; above it Pillow refuses the photo
TO_SRGB = "colour profile to sRGB"  # the conversion of a photo's colours

# Photos that are not read in every installation: how they begin, from an offset, and what is said of them.
AS_JPEG = "save it as JPEG or PNG"
HEIC_BRANDS = (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")
HEIC = 4, HEIC_BRANDS, f"HEIC, which needs `pip install -e '.[heic]'`; or {AS_JPEG}"
AVIF = 4, (b"ftypavi",), f"AVIF, which this Pillow was built without; install its wheel, or {AS_JPEG}"
JPEG_XL = 0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), f"JPEG XL, which is not read; {AS_JPEG}"

JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # that is no part of a scan's data
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"

# What undoes each EXIF orientation. ImageOps.exif_transpose also rewrites the EXIF block, and fails on a broken one.
EXIF_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class TooManyPixelsError(DataError):
    """An image has more pixels than are accepted; it may be a decompression bomb."""


class TooMuchMemoryError(DataError):
    """Decoding an image would take more than MAX_MEMORY."""


class _TimeLimited:
    """A file that fails once its reader has used MAX_SECONDS of a core; not where a decoder reads all at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell, self.close = file, file.seek, file.tell, file.close
        self.end = time.thread_time() + MAX_SECONDS

    def read(self, length: int = -1) -> bytes:
        if time.thread_time() > self.end:
            raise DataError(f"takes more than {MAX_SECONDS:.0f} s to decode; {AS_JPEG} again")
        return self.file.read(length)


class Header(NamedTuple):
    """What the header of an image file says: Pillow's name of its format, and its size in pixels."""

    format: str
    width: int
    height: int


def header(file: Path | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads the header of an image file, without decoding its pixels.

    Args:
        file: the file, open or by its path, whatever its suffix.
        max_pixels: the most that are accepted, width times height.

    Raises:
        TooManyPixelsError: it has more pixels than `max_pixels`.
        DataError: the file is not in one of FORMATS, or its header is damaged.
    """
    try:
        with _opened(file, max_pixels) as image:
            return Header(str(image.format), image.width, image.height)
    except DataError:
        raise
    except Exception as error:  # decoders of damaged headers raise all kinds
        if is_shortage(error):
            raise
        raise DataError("not an image") from None


def read(file: Path | IO[bytes]) -> Image.Image:
    """Decodes a photo whole, in sRGB: turned upright by its EXIF orientation, and transparency laid on white.

    Args:
        file: the file, open or by its path, in any of FORMATS, whatever its suffix.

    Returns:
        An RGB image without the file's metadata; of an animation the first frame. Its `format` is that of the file.
        `info["conversions"]` lists what was done to it, and `info["colour_profile"]` names the profile of the file;
        None without one.

    Raises:
        DataError: the file is no image, is damaged, or would take more memory or time than a photo.
    """
    with _decoding(file) as image:
        return _to_rgb_in_time(file, image)


def thumbnail(file: Path | IO[bytes], side: int) -> Image.Image:
    """Returns what `read` does, scaled down to fit a square; a JPEG is decoded no larger than necessary."""
    with _decoding(file) as image:
        if image.format == "JPEG":
            image.thumbnail((side, side))
        image = _to_rgb_in_time(file, image)
        image.thumbnail((side, side))
        return image


def _to_rgb_in_time(file: Path | IO[bytes], image: Image.Image) -> Image.Image:
    """Returns what `to_rgb` does for an open image, in a process that can be ended where it may take long."""
    if image.format not in AT_ONCE_FORMATS or image.width * image.height <= MAX_AT_ONCE_PIXELS:
        return to_rgb(image)
    code = "import json, sys; path, limit = json.loads(sys.argv[1]); sys.path[:] = path; "
    code += "from gemmodel.images import decode; decode.decode_stdin(limit)"
    command = [sys.executable, "-c", code, json.dumps([sys.path, MAX_SECONDS])]
    content = file.read_bytes() if isinstance(file, Path) else _start(file, None)
    pixels = bytearray(3 * image.width * image.height)
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # less memory, and a faster start
    ) as process:
        assert process.stdin and process.stdout
        timer = Timer(10 * MAX_SECONDS, process.kill)  # where the system knows no limit of a process
        timer.start()
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(content)
                process.stdin.close()
            header = json.loads(process.stdout.readline() or "{}")
            whole = "size" in header and process.stdout.readinto(pixels) == len(pixels)  # type: ignore[attr-defined]
        finally:
            timer.cancel()
            process.kill()
    if "error" in header:
        raise DataError(header["error"])
    if not whole:
        raise DataError(
            f"{image.format} that takes more than {MAX_SECONDS:.0f} s or {MAX_MEMORY / 1e6:.0f} MB to decode; {AS_JPEG}"
        )
    decoded = Image.frombuffer("RGB", tuple(header["size"]), pixels, "raw", "RGB", 0, 1)
    decoded.format, decoded.info = header["format"], header["info"]
    return decoded


def decode_stdin(max_seconds: float) -> None:
    """Writes the photo on standard input as a line of JSON and its RGB pixels, or a line with its error.

    The process ends after `max_seconds` of all its cores, or where it takes twice MAX_MEMORY.
    """
    with suppress(ImportError):  # on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (round(max_seconds), round(max_seconds)))
        resource.setrlimit(resource.RLIMIT_DATA, (2 * MAX_MEMORY, 2 * MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = sys.stdout.buffer
    try:
        with _decoding(io.BytesIO(sys.stdin.buffer.read())) as image:
            decoded = to_rgb(image)
    except DataError as error:
        out.write(json.dumps({"error": str(error)}).encode())
        return
    header = {"size": decoded.size, "format": decoded.format, "info": decoded.info}
    out.write(json.dumps(header).encode() + b"\n")
    for box in _bands(decoded.size):
        out.write(decoded.crop(box).tobytes())


@contextmanager
def _decoding(file: Path | IO[bytes]) -> Iterator[Image.Image]:
    try:
        with _opened(file, MAX_PIXELS) as image:
            needed = image.width * image.height * _bytes_per_pixel(image)
            if needed > MAX_MEMORY:
                raise TooMuchMemoryError(
                    f"{image.format} of {image.width} x {image.height} pixels, which takes {needed / 1e6:.0f} MB to "
                    f"decode, more than {MAX_MEMORY / 1e6:.0f}; save it smaller"
                    f"{'' if image.format in ('JPEG', 'MPO') else ', or as JPEG'}"
                )
            yield image
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None
    except Exception as error:  # decoders of damaged files raise all kinds
        if is_shortage(error):
            raise
        raise DataError(f"damaged: {error}") from None


def is_shortage(error: Exception) -> bool:
    """Returns whether the machine lacks memory or open files for now, which says nothing about the photo."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SHORTAGES)


def _bytes_per_pixel(image: Image.Image) -> int:
    """Returns how much memory `read` takes for an image that is open; each conversion to RGB makes a copy."""
    transparent = image.has_transparency_data
    converted = image.mode != "RGB" or transparent
    turned = image.format != "PNG" and _orientation(image) in EXIF_TRANSPOSE  # a PNG would be decoded for it
    copies = 1 + converted + turned
    decoder = PROGRESSIVE_BYTES if image.info.get("progressive") else DECODER_BYTES.get(str(image.format), 0)
    return BYTES_PER_PIXEL * copies + decoder + (2 if transparent else 0)


def _orientation(image: Image.Image) -> Any:
    """Returns the EXIF orientation; cameras and programs also write other types than the integer of the standard."""
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value[0] if isinstance(value, bytes) and value else value


@contextmanager
def _opened(file: Path | IO[bytes], max_pixels: int) -> Iterator[Image.Image]:
    with ExitStack() as stack:
        stream = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
        try:
            image = stack.enter_context(_open(stream))
            if image.width * image.height > max_pixels:
                raise Image.DecompressionBombError
            if image.format == "TIFF" and image.tag_v2.get(254, 0) & 1:  # type: ignore[attr-defined]
                raise DataError(f"raw photo: only a small preview of it can be read (DNG, NEF); {AS_JPEG}")
            if image.format in ("JPEG", "MPO"):
                _check_scans(stream)
            yield image
        except UnidentifiedImageError:
            raise DataError(_not_read(stream)) from None
        except Image.DecompressionBombError:
            raise TooManyPixelsError(f"more pixels than the {max_pixels} of a photo") from None


def _check_scans(stream: IO[bytes]) -> None:
    """Raises an error for a JPEG of more than MAX_SCANS scans; the position in the stream stays."""
    before = stream.tell()
    content, position, scans = _start(stream, None), 2, 0
    stream.seek(before)
    if content.count(START_OF_SCAN) <= MAX_SCANS:  # of nearly all photos; the walk takes longer
        return
    while (found := JPEG_MARKER.search(content, position)) and found[0] != END_OF_IMAGE:
        scans += found[0] == START_OF_SCAN
        position = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    if scans > MAX_SCANS:
        raise DataError(f"JPEG of {scans} scans, which takes long to decode; a photo has at most {MAX_SCANS}")


def _open(stream: IO[bytes]) -> Image.Image:
    try:
        return Image.open(cast(IO[bytes], _TimeLimited(stream)), formats=FORMATS)
    except (ValueError, UnidentifiedImageError):  # Pillow refuses a PNG for damaged or large metadata
        if _start(stream, 4) != b"\x89PNG":
            raise
        content = _start(stream, None)
        image = Image.open(io.BytesIO(_png_without_metadata(content)), formats=("PNG",))
        if b"iCCP" in content[:4096]:
            image.info["icc_profile"] = None
        return image


def _start(stream: IO[bytes], length: int | None) -> bytes:
    """Returns the first bytes of a file; None: all of them."""
    stream.seek(0)
    return stream.read(-1 if length is None else length)


def _png_without_metadata(content: bytes) -> bytes:
    kept, position = [content[:8]], 8
    while position < len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4])
        kind = content[position + 4 : position + 8]
        if kind[:1].isupper() or kind == b"tRNS":  # a decoder may leave out others
            kept.append(content[position:end])
        position = end
    return b"".join(kept)


def _not_read(stream: IO[bytes]) -> str:
    """Returns what a file is that no decoder recognises."""
    head = _start(stream, 16)
    missing = [JPEG_XL, *([] if HEIC_IS_READ else [HEIC]), *([] if features.check("avif") else [AVIF])]
    for offset, marks, message in missing:
        if head[offset:].startswith(marks):
            return message
    return "not an image"


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image as `read` does, whatever its mode.

    Args:
        image: as opened by Pillow.

    Raises:
        DataError: it has 32 bits per channel, or is coded for HDR screens.
    """
    file_format = "JPEG" if image.format == "MPO" else image.format  # a JPEG with further views behind it
    conversions = []
    profile = colour.find_profile(image)
    colours, alpha = _split_alpha(image)
    if getattr(image, "is_animated", False) and image.format != "MPO":
        conversions.append("first frame kept")
    orientation = _orientation(image)
    if orientation in EXIF_TRANSPOSE:
        conversions.append("turned upright")
    if colours.mode.startswith("I;16") or (colours.mode == "I" and file_format in ("PNG", "PPM")):
        colours = Image.fromarray((np.asarray(colours) >> 8).astype(np.uint8))  # Pillow would clip 16 bits to 8
        conversions.append("16 bits to 8")
    if colours.mode in ("I", "F"):
        raise DataError(f"of a kind that no camera makes: {colours.mode}, 32 bits per pixel; save it with 8 or 16 bits")
    mode, name = colours.mode, None
    if mode not in colour.SPACES:
        colours = colours.convert("L" if mode == "1" else "RGB")
    if profile is not None and mode != "LAB":  # which is the same everywhere
        colours, name, changed = _to_srgb(colours, profile)
        if changed:
            conversions.append(TO_SRGB)
    if colours.mode != "RGB":
        colours = colours.convert("RGB")
    if alpha:
        for box in _bands(colours.size):
            band = colours.crop(box)
            band.putalpha(alpha.crop(box))
            colours.paste(Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB"), box)
        conversions.append("transparency laid on white")
    elif mode != "RGB":
        conversions.append(f"{mode} to RGB")
    if orientation in EXIF_TRANSPOSE:
        colours = colours.transpose(EXIF_TRANSPOSE[orientation])
    if file_format != "JPEG":
        conversions.append(f"{file_format} to JPEG")
    colours.format, colours.info = file_format, {"conversions": conversions, "colour_profile": name}
    return colours


def _to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, str, bool]:
    """Returns what `colour.to_srgb` does, and whether colours changed; RGB is changed in place."""
    if image.mode != "RGB":
        converted, name = colour.to_srgb(image, profile)
        return converted, name, converted is not image
    for box in _bands(image.size):
        band = image.crop(box)
        converted, name = colour.to_srgb(band, profile)
        if converted is band:
            return image, name, False
        image.paste(converted, box)
    return image, name, True


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Returns an image's colours and its opacity, mode L; None for an image without transparency."""
    tiles = getattr(image, "tile", None)
    image.load()
    if not image.has_transparency_data:
        return image, None
    key: Any = image.info.get("transparency")
    if image.mode in ("P", "PA", "RGBa"):
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    # A PNG or GIF names one colour that is transparent, in samples of as many bits as it stores.
    raw_mode = tiles[0].args if tiles else image.mode  # how the file stores them
    if raw_mode == "RGB;16B":
        key = tuple(sample >> 8 for sample in key)
    else:
        key = np.multiply(key, {"L;2": 85, "L;4": 17}.get(raw_mode, 1))
    alpha = Image.new("L", image.size)
    for box in _bands(image.size):
        band = image.crop(box)
        pixels = np.asarray(band.convert("L") if band.mode == "1" else band)
        transparent = (pixels == key).reshape(band.height, band.width, -1).all(axis=2)
        alpha.paste(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)), box)
    return image, alpha


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yields the boxes of an image's bands, from the top."""
    width, height = size
    for top in range(0, height, BAND):
        yield 0, top, width, min(top + BAND, height)


def load(file: Path | IO[bytes], size: int) -> np.ndarray:
    """Returns a photo as every model sees it.

    Args:
        file: the photo, open or by its path.
        size: side of the square in pixels; the aspect ratio is not kept.

    Returns:
        uint8 array of shape (size, size, 3) in [0, 255].

    Raises:
        DataError: the file cannot be read as a photo.
    """
    return pixels(read(file), size)


def pixels(image: Image.Image, size: int) -> np.ndarray:
    """Returns an image from `read` as `load` would return it: uint8 array of shape (size, size, 3)."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0))
