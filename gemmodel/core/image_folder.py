"""Image folders: one folder per class, and the images in it."""

import os
from pathlib import Path

from gemmodel.core.errors import DataError

# What is read as a photo: Pillow's names of the formats, and their suffixes. Formats without a signature (TGA), of
# documents and icons, and those for which Pillow runs another program (EPS) are left out. HEIF needs the extra `heic`.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),  # Windows saves .jfif; an MPO is a JPEG with views behind it
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)


def list_images(folder: Path) -> dict[str, list[Path]]:
    """Lists the images of each class, by suffix, in a stable order.

    Args:
        folder: holds one folder per class; images may lie deeper inside it. Hidden folders are ignored.

    Returns:
        The images' paths by class name, both sorted; classes without an image are omitted.

    Raises:
        DataError: the folder does not exist or holds no images.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; it must hold one folder of photos per class")
    classes = {
        entry.name: sorted(path for path in entry.rglob("*") if path.is_file() and path.suffix.lower() in SUFFIXES)
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)  # a path's order depends on the system
        if entry.is_dir() and not entry.name.startswith(".")
    }
    classes = {name: paths for name, paths in classes.items() if paths}
    if not classes:
        raise DataError(f"{folder}: no photos in its class folders; they must end in {', '.join(SUFFIXES)}")
    return classes


def tree(folder: Path) -> list[str]:
    """Returns the folders below a folder as indented lines with their numbers of photos; the last line is the total.

    Raises:
        DataError: the folder does not exist or holds no photos.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    total, lines = 0, []
    for name, subfolders, files in os.walk(folder):
        subfolders.sort()
        count = sum(Path(file).suffix.lower() in SUFFIXES for file in files)
        total += count
        path = Path(name)
        depth = len(path.relative_to(folder).parts)
        lines.append(f"{'    ' * depth}{path.name or path}/{f'  {count}' if count else ''}")
    if not total:
        raise DataError(f"{folder}: no photos in it; they must end in {', '.join(SUFFIXES)}")
    return [*lines, f"{total} photos"]
