"""Reading photos: the only way from a file to upright RGB pixels."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from gemmodel.core.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's names; for some others it would run Ghostscript
MAX_PIXELS = 89_478_485  # Pillow's own limit, where it would only warn
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}  # for photos that have to be written again

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
    except Exception:  # decoders of damaged headers raise all kinds
        raise DataError("not an image") from None


def read(file: Path | IO[bytes]) -> Image.Image:
    """Decodes a photo whole, turns it upright by its EXIF orientation and lays transparency on white.

    Args:
        file: the file, open or by its path, in any of FORMATS, whatever its suffix.

    Returns:
        An RGB image; of an animation the first frame. Its `format` is that of the file; `info["conversions"]` lists
        what was done to it.

    Raises:
        DataError: the file is no image, is damaged, or is so large that it may be a decompression bomb.
    """
    try:
        with _opened(file, MAX_PIXELS) as image:
            image.load()
            return _upright_rgb(image)
    except DataError:
        raise
    except Exception as error:  # decoders of damaged files raise all kinds
        raise DataError(f"damaged: {error}") from None


@contextmanager
def _opened(file: Path | IO[bytes], max_pixels: int) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise Image.DecompressionBombError
            yield image
    except UnidentifiedImageError:
        raise DataError("not an image") from None
    except Image.DecompressionBombError:
        raise TooManyPixelsError(f"more pixels than the {max_pixels} of a photo") from None


def _upright_rgb(image: Image.Image) -> Image.Image:
    file_format = "JPEG" if image.format == "MPO" else image.format  # a JPEG with further views behind it
    conversions = []
    if getattr(image, "is_animated", False) and image.format != "MPO":
        conversions.append("first frame kept")
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in EXIF_TRANSPOSE:
        image = image.transpose(EXIF_TRANSPOSE[orientation])
        conversions.append("turned upright")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        conversions.append("transparency laid on white")
    if image.mode.startswith("I;16"):  # Pillow would clip its 16 bits to 8
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        conversions.append("16 bits to 8")
    if image.mode in ("I", "F"):
        raise DataError(f"of a kind that no camera makes: {image.mode}, 32 bits per pixel")
    if image.mode != "RGB":
        if image.mode != "RGBA":
            conversions.append(f"{image.mode} to RGB")
        image = image.convert("RGB")
    if file_format != "JPEG":
        conversions.append(f"{file_format} to JPEG")
    image.format, image.info["conversions"] = file_format, conversions
    return image


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
