"""Photos that people of the web page name and give to its operator, as class folders that a crawl can read."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from pathvalidate import ValidationError, validate_filename

from gemmodel.core import files, image_folder
from gemmodel.images import decode
from gemmodel.serve.uploads import RefusedError

MAX_PHOTOS = 1000  # that wait for a review; strangers cannot fill a disk
MAX_SIDE = 2048  # pixels, as `clean.max_side`
MAX_NAME = 60  # characters


class FolderFullError(RefusedError):
    """As many photos as are accepted wait for a review."""


def save(photo: bytes, gem: str, folder: Path, *, classes: Sequence[str]) -> Path:
    """Writes a photo to the folder of its gem, without the file's metadata, such as the place where it was taken.

    Args:
        photo: a file in one of decode.FORMATS.
        gem: its name. Of a class in another spelling (`image_folder.class_key`) it is the class.
        folder: of the class folders.
        classes: that the model knows.

    Returns:
        The photo's path. A photo that is there under the same name is not written again.

    Raises:
        FolderFullError: the folder holds MAX_PHOTOS photos.
        RefusedError: the name cannot be that of a folder.
        DataError: the photo cannot be read.
        OSError: the folder cannot be written.
    """
    name = _class_name(gem, classes)
    waiting = sum(path.suffix in image_folder.SUFFIXES for path in folder.rglob("*"))
    if waiting >= MAX_PHOTOS:
        message = f"{waiting} photos wait for a review; none is taken until the operator has moved them"
        raise FolderFullError(message, "feedback_full")
    image = decode.read(io.BytesIO(photo))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    encoded = io.BytesIO()
    image.save(encoded, **decode.JPEG)
    path = folder / name / f"feedback-{hashlib.sha256(photo).hexdigest()[:16]}.jpg"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(path) as new:
            new.write_bytes(encoded.getvalue())
    return path


def _class_name(gem: str, classes: Sequence[str]) -> str:
    name = " ".join(gem.split())
    if known := image_folder.matcher(classes)(name):
        return known
    try:
        validate_filename(name, platform="universal", max_len=MAX_NAME)
    except ValidationError:
        message = f"not a name of a gem; it must have 1 to {MAX_NAME} letters"
        raise RefusedError(message, "not_a_name", letters=MAX_NAME) from None
    if not name[0].isalpha() or not name.isprintable():
        raise RefusedError("not a name of a gem; it must begin with a letter", "not_a_name", letters=MAX_NAME)
    return name
