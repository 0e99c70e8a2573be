"""Reading photos: the one way from a file to upright RGB pixels."""

import warnings
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from gemmodel.core.errors import DataError
from gemmodel.images import decode

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's names; for some others it would run Ghostscript
MAX_PIXELS = 89_478_485  # Pillow's own limit, where it would only warn
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}  # for photos that have to be written anew

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


def read(path: Path | IO[bytes]) -> Image.Image:
    """Decodes a photo whole, turned upright by its EXIF orientation, transparency laid on white.

    Args:
        path: the file, open or by its path, in any of folders.FORMATS, whatever its suffix.

    Returns:
        An RGB picture, of an animation the first frame. Its `format` is that of the file; `info["conversions"]` names what
        had to be done to it.

    Raises:
        DataError: the file is no picture, is damaged, or is so large that it may be a decompression bomb.
    """
    try:
        with Image.open(path, formats=decode.FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return _upright_rgb(image)
    except UnidentifiedImageError:
        raise DataError("not an image") from None
    except Image.DecompressionBombError:
        raise DataError(f"more pixels than the {MAX_PIXELS} of a photo") from None
    except DataError:
        raise
    except Exception as error:  # decoders of damaged files raise all kinds
        raise DataError(f"damaged: {error}") from None


def _upright_rgb(image: Image.Image) -> Image.Image:
    file_format = "JPEG" if image.format == "MPO" else image.format  # a JPEG with further views behind it
    treated = []
    if getattr(image, "is_animated", False) and image.format != "MPO":
        treated.append("first frame kept")
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in EXIF_TRANSPOSE:
        image = image.transpose(EXIF_TRANSPOSE[orientation])
        treated.append("turned upright")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        treated.append("transparency laid on white")
    if image.mode.startswith("I;16"):  # Pillow would clip its 16 bits to 8
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        treated.append("16 bits to 8")
    if image.mode in ("I", "F"):
        raise DataError(f"of a kind that no camera makes: {image.mode}, 32 bits a pixel")
    if image.mode != "RGB":
        if image.mode != "RGBA":
            treated.append(f"{image.mode} to RGB")
        image = image.convert("RGB")
    if file_format != "JPEG":
        treated.append(f"{file_format} to JPEG")
    image.format, image.info["conversions"] = file_format, treated
    return image


def load(path: Path | IO[bytes], size: int) -> np.ndarray:
    """Returns a photo as every model sees it.

    Args:
        path: the photo.
        size: side of the square in pixels; the aspect is not kept.

    Returns:
        uint8 array of shape (size, size, 3) in [0, 255].

    Raises:
        DataError: the file cannot be read as a photo.
    """
    return pixels(read(path), size)


def pixels(image: Image.Image, size: int) -> np.ndarray:
    """Returns a picture that `read` gave as `load` would: uint8 array of shape (size, size, 3)."""
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0))


class Header(NamedTuple):
    """What the first bytes of a photo say: Pillow's name of its format, and its size in pixels as stored."""

    format: str
    width: int
    height: int


def header(file: Path | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads a photo's header, without its pixels.

    Raises:
        DataError: the file is not an image, or has more than `max_pixels` pixels.
    """
    try:
        with Image.open(file, formats=decode.FORMATS) as image:
            found = Header(str(image.format), image.width, image.height)
    except Image.DecompressionBombError:
        raise DataError(f"more pixels than the {max_pixels} of a photo") from None
    except Exception:  # decoders of damaged files raise many types
        raise DataError("not an image") from None
    if found.width * found.height > max_pixels:
        raise DataError(f"more pixels than the {max_pixels} of a photo")
    return found
