"""Folders of class folders: which images lie in them, and how many."""

import os
from pathlib import Path

from gemmodel.core.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def list_images(folder: Path) -> dict[str, list[Path]]:
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
