"""Folders of class folders, and outputs that appear whole or not at all."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gemmodel.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT)  # what a full disk says
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's names; for some others it would run Ghostscript


def photos(folder: Path) -> dict[str, list[Path]]:
    """Lists the pictures of each class, by suffix, in a stable order.

    Args:
        folder: holds one folder a class; pictures may lie deeper inside it.

    Returns:
        The pictures' paths by class name; both sorted; classes without a picture are left out.

    Raises:
        DataError: the folder does not exist or holds no pictures.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it must hold one folder of photos a class")
    found = {
        entry.name: sorted(path for path in entry.rglob("*") if path.is_file() and path.suffix.lower() in SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        raise DataError(f"{folder}: no photos in its class folders; they must end in {', '.join(SUFFIXES)}")
    return found


def tree(folder: Path) -> list[str]:
    """Returns the folders below a folder as lines, indented, with the number of photos in each, and last their sum.

    Raises:
        DataError: the folder does not exist or holds no photos.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    total, lines = 0, []
    for place, below, files in os.walk(folder):
        below.sort()
        number = sum(Path(name).suffix.lower() in SUFFIXES for name in files)
        total += number
        path = Path(place)
        depth = len(path.relative_to(folder).parts)
        lines.append(f"{'    ' * depth}{path.name or path}/{f'  {number}' if number else ''}")
    if not total:
        raise DataError(f"{folder}: no photos in it; they must end in {', '.join(SUFFIXES)}")
    return [*lines, f"{total} photos"]


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Makes an empty folder, without what a killed process left there, that is gone when the context ends."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Gives a folder or file path to write to, and puts it in the target's place once all is written.

    Args:
        target: the folder or file to appear; an older one is replaced. Its parent folder is created.

    Yields:
        A path beside the target, not yet existing. After an error nothing of it is left, and what a killed process
        left there is gone.

    Raises:
        DataError: the disk is full.
    """
    beside = target.parent / f".{target.name}.new"  # DVC runs a stage once at a time: nobody else is writing there
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _tidy(beside, target)
        beside.mkdir()
        try:
            yield beside / target.name
            if target.is_dir() and (beside / target.name).exists():
                os.replace(target, beside / "old")
            os.replace(beside / target.name, target)
        finally:
            _tidy(beside, target)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(f"{target}: no space left on its disk; free some and run this again") from None


def _tidy(beside: Path, target: Path) -> None:
    if (beside / "old").exists() and not target.exists():  # killed between two renames
        os.replace(beside / "old", target)
    shutil.rmtree(beside, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as readable JSON, keys in their order, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Writes one JSON value a line."""
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


def read_lines(path: Path) -> list[Any]:
    """Reads one JSON value a line.

    Raises:
        DataError: the file does not exist, or a line of it is not JSON.
    """
    with _readable(path):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_json(path: Path) -> Any:
    """Reads what `write_json` wrote.

    Raises:
        DataError: the file does not exist or is not JSON.
    """
    with _readable(path):
        return json.loads(path.read_text(encoding="utf-8"))


def copy(source: Path, target: Path) -> None:
    """Copies a file's bytes, without its times and rights, into a folder that is created if need be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal digits.

    Raises:
        DataError: the file does not exist.
    """
    with _readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `dvc repro` makes it, `dvc pull` fetches it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
