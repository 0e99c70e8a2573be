"""Image folders: one folder per class, the images in it, and the spellings of a class's name."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

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
HIDDEN = "a file of the operating system or of a tool"
UNREADABLE = "a folder that cannot be read"
SYSTEM_NAMES = {
    "__macosx", "$recycle.bin", "system volume information", "@eadir", "thumbs.db", "desktop.ini", ".ds_store", ".git",
    ".svn", ".hg", ".dvc", ".cache", ".thumbnails", ".trash", ".trashes", ".spotlight-v100", ".fseventsd", ".idea",
    ".ipynb_checkpoints", ".vscode", ".venv", ".gitignore", ".gitkeep", ".gitattributes", ".keep", ".dvcignore",
}  # fmt: skip


def is_hidden(name: str) -> bool:
    """Returns whether a path leads to what an operating system or a tool made. A folder may begin with a dot."""
    *folders, last = PurePosixPath(name).parts or ("",)
    return last.startswith(".") or any(part.casefold() in SYSTEM_NAMES for part in (*folders, last))


def is_image(path: PurePath) -> bool:
    """Returns whether a file has the suffix of an image, and is none that an operating system made (`._1.jpg`)."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path.name)


def walk(folder: Path, left_out: list[tuple[Path, str]]) -> Iterator[tuple[Path, list[Path]]]:
    """Yields each folder below a folder, itself included, and the files in it, also through links to folders.

    A folder is read once. What is reached without a link comes first, so that a link to it is the one left out.

    Args:
        folder: where to begin.
        left_out: gets the paths and reasons of what is neither a file nor a folder that is read.
    """
    folders, links, seen = [folder], list[Path](), set()
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        try:
            status = current.stat()
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            left_out.append((current, f"{UNREADABLE}: {error.strerror}"))
            continue
        if (status.st_dev, status.st_ino) in seen:
            left_out.append((current, "a folder that is read already, under another name"))
            continue
        seen.add((status.st_dev, status.st_ino))
        files = []
        for entry in entries:
            path, is_link = Path(entry.path), entry.is_symlink()
            if path.is_dir() if is_link else entry.is_dir():
                if entry.name.casefold() in SYSTEM_NAMES:
                    left_out.append((path, HIDDEN))
                elif not is_link:
                    folders.append(path)
                elif path.resolve() in {above.resolve() for above in path.absolute().parents}:
                    left_out.append((path, "a link to a folder above it"))
                else:
                    links.append(path)
            elif path.is_file() if is_link else entry.is_file():
                files.append(path)
            else:
                left_out.append((path, "a link to nothing" if is_link and not path.exists() else "not a regular file"))
        yield current, files


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
        entry.name: sorted(path for path in entry.rglob("*") if path.is_file() and is_image(path))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)  # a path's order depends on the system
        if entry.is_dir() and not entry.name.startswith(".")
    }
    classes = {name: paths for name, paths in classes.items() if paths}
    if not classes:
        raise DataError(f"{folder}: no photos in its class folders; they must end in {', '.join(SUFFIXES)}")
    return classes


def list_samples(folder: Path, classes: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    """Lists the photos of a part with their class indices.

    Args:
        folder: one folder per class.
        classes: the class names in the order of their indices.

    Returns:
        The paths, and int32 labels of shape (photos,).

    Raises:
        DataError: the folder holds a class that is not among the names.
    """
    photos = list_images(folder)
    if unknown := sorted(set(photos) - set(classes)):
        raise DataError(
            f"{folder}: {', '.join(unknown)} is not a class of the training part; run `dvc repro` for all parts"
        )
    pairs = [(path, index) for index, name in enumerate(classes) for path in photos.get(name, [])]
    return [path for path, _ in pairs], np.array([index for _, index in pairs], np.int32)


def tree(folder: Path) -> list[str]:
    """Returns the folders below a folder as indented lines with their numbers of photos; the last line is the total.

    Photos behind links to folders are counted, hidden files (`is_hidden`) are not.

    Raises:
        DataError: the folder does not exist or holds no photos.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    total, lines = 0, []
    for path, files in sorted(walk(folder, [])):
        count = sum(map(is_image, files))
        total += count
        depth = len(path.relative_to(folder).parts)
        lines.append(f"{'    ' * depth}{path.name or path}/{f'  {count}' if count else ''}")
    if not total:
        raise DataError(f"{folder}: no photos in it; they must end in {', '.join(SUFFIXES)}")
    return [*lines, f"{total} photos"]


def readable(name: str) -> str:
    """Returns a name with escapes for bytes that are not text, which file names may hold."""
    return name.encode(errors="backslashreplace").decode()


def class_key(name: str) -> str:
    """Returns a key that is the same for two spellings of a class: other capitals, Unicode forms or spaces."""
    visible = "".join(
        char for char in readable(name) if char.isspace() or unicodedata.category(char) not in ("Cc", "Cf")
    )
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).casefold()).split())


def class_names(counts: Mapping[str, int]) -> dict[str, str]:
    """Returns the name of the class of each spelling: the spelling of most photos, composed and without outer spaces.

    Args:
        counts: the number of photos by spelling.
    """
    best: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        best.setdefault(class_key(name), " ".join(unicodedata.normalize("NFC", name).split()) or "unnamed")
    return {name: best[class_key(name)] for name in counts}


def matcher(names: Iterable[str]) -> Callable[[str], str | None]:
    """Returns a function that finds the one of some names, or paths of them, that another spelling stands for.

    It returns None for a spelling of none of them, and for one of several unless it is equal to one.
    """
    exact = set(names)
    by_key: dict[str, list[str]] = {}
    for name in exact:
        by_key.setdefault(class_key(name), []).append(name)

    def find(name: str) -> str | None:
        same = by_key.get(class_key(name), [])
        return name if name in exact else same[0] if len(same) == 1 else None

    return find
