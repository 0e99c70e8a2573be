"""Photos that a user has already: a folder with one folder per gem, or a zip or tar archive of one."""

import io
import re
import stat
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from gemmodel.core.errors import DataError
from gemmodel.core.image_folder import SUFFIXES
from gemmodel.core.params import CrawlParams
from gemmodel.images import decode
from scraper import manifest, safe_names
from scraper.spiders.base import TOO_LARGE

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # never names of gems
MAX_BYTES = 64 * 2**20  # of a photo
MAX_UNPACK_RATIO = 100  # photos are compressed already: an archive of them does not unpack to a multiple of its size


@dataclass(frozen=True)
class File:
    """A file in a folder or an archive.

    Attributes:
        name: its path there.
        size: bytes, unpacked.
        read: returns its bytes.
        problem: why it must not be read, or None.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    problem: str | None = None


@dataclass(frozen=True)
class Photo:
    """A photo in a gem's folder; `path` is its path there, by which the gem's photos are sorted."""

    path: PurePosixPath
    file: File


def copy(params: CrawlParams, store: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Copies the photos of `crawl.folder` into a raw folder, under names that are safe on every file system.

    The source holds one folder per gem. Folders around all of them, and the folders of a split (train, test), are
    skipped over. Archives directly inside the source are merged with it. Every photo is copied as it is: a damaged one
    is for the clean stage to reject.

    Args:
        params: the folder or archive, and the limits.
        store: gets one folder per gem.

    Returns:
        The manifest rows, one per photo, and the summary: what was not copied, and why.

    Raises:
        DataError: the folder or archive does not exist, is damaged, or holds no photos of the requested gems.
    """
    source = Path(params.folder)
    failures: list[dict[str, str]] = []
    unmatched: Counter[str] = Counter()
    photos: dict[str, list[Photo]] = defaultdict(list)
    rows = []
    with ExitStack() as stack:
        for prefix, files in _collections(source, stack):
            readable = []
            for file in files:
                if PurePosixPath(file.name).suffix.lower() not in SUFFIXES:
                    unmatched["file without an image suffix"] += 1
                elif file.problem:
                    failures.append({"url": f"{prefix}{file.name}", "reason": file.problem})
                else:
                    readable.append(file)
            for file, gem, path in _by_class(readable):
                named = replace(file, name=f"{prefix}{file.name}")
                if gem:
                    photos[gem].append(Photo(PurePosixPath(prefix.removesuffix("!/"), *path), named))
                else:
                    failures.append({"url": named.name, "reason": "photo outside a gem's folder"})
        if missing := sorted(set(params.only) - set(photos)):
            raise DataError(f"crawl.only: {source} has no {', '.join(missing)}")
        if not photos:
            raise DataError(f"{source}: no photos in its class folders; they must end in {', '.join(SUFFIXES)}")
        chosen = {
            gem: sorted(gem_photos, key=lambda photo: photo.path)[: params.max_per_gem or None]
            for gem, gem_photos in photos.items()
            if not params.only or gem in params.only
        }
        for gem, target, file in tqdm(_targets(chosen), "crawl", unit=" photos", disable=None):
            try:
                body = file.read()
                file_format = _image_format(body)
            except DataError as error:
                failures.append({"url": file.name, "reason": str(error)})
                continue
            (store / target).parent.mkdir(parents=True, exist_ok=True)
            (store / target).write_bytes(body)
            rows.append(manifest.manifest_row(target, gem, body, file_format, file=file.name))
    return rows, {
        "source": source.name,  # not its whole path: the same photos give the same bytes wherever they lie
        "pages": 0,
        "failures": sorted(failures, key=lambda failure: failure["url"]),
        "gems_without_pictures": sorted(set(chosen) - {row["gem"] for row in rows}),
        "unmatched_markup": dict(unmatched),
    }


def _image_format(body: bytes) -> str | None:
    try:
        return decode.header(io.BytesIO(body)).format
    except decode.TooManyPixelsError:
        raise
    except DataError:  # for the clean stage to reject
        return None


def _collections(source: Path, stack: ExitStack) -> Iterator[tuple[str, list[File]]]:
    """Yields the files of the source itself, then of each archive in it, with a prefix for their names."""
    if source.is_file():
        yield "", stack.enter_context(_archive(source))
        return
    if not source.is_dir():
        raise DataError(f"{source}: no such folder or archive; it must hold one folder of photos per class")
    archives = [path for path in sorted(source.iterdir()) if path.is_file() and _is_archive(path)]
    paths = (path for path in sorted(source.rglob("*")) if path.is_file() and path not in archives)
    names = ((path, path.relative_to(source).as_posix()) for path in paths)
    yield "", [_file(path, safe_names.readable(name)) for path, name in names if not _hidden(name)]
    for path in archives:
        yield f"{safe_names.readable(path.name)}!/", stack.enter_context(_archive(path))


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES)


def _hidden(name: str) -> bool:
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in PurePosixPath(name).parts)


def _file(path: Path, name: str) -> File:
    size = path.stat().st_size
    return File(name, size, path.read_bytes, TOO_LARGE if size > MAX_BYTES else None)


@contextmanager
def _archive(path: Path) -> Iterator[list[File]]:
    """Opens an archive. Its files are stored under our own names only, so a path in it cannot lead outside."""
    with ExitStack() as stack:
        try:
            if tarfile.is_tarfile(path):  # first, since a tar that holds a zip passes for a zip
                packed: Any = stack.enter_context(tarfile.open(path))
                files = [_tar_file(packed, member) for member in packed.getmembers() if not member.isdir()]
                packed.fileobj.seek(packed.offset)
                if packed.fileobj.read(512) != bytes(512):  # the end mark; tarfile accepts a truncated archive
                    raise EOFError("truncated or damaged")
            else:
                packed = stack.enter_context(zipfile.ZipFile(path))
                files = [_zip_file(packed, member) for member in packed.infolist() if not member.is_dir()]
        except Exception as error:  # readers of damaged archives raise many types
            raise DataError(f"{path}: not an intact zip or tar ({error}); pack or download it again") from None
        if sum(file.size for file in files) > MAX_UNPACK_RATIO * path.stat().st_size:
            raise DataError(
                f"{path}: would unpack to more than {MAX_UNPACK_RATIO} times its size, as no archive of photos does"
            )
        yield [
            File(safe_names.readable(file.name), file.size, _reading(file), file.problem or _problem(file))
            for file in files
            if not _hidden(file.name)
        ]


def _reading(file: File) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return file.read()
        except Exception:  # as above
            raise DataError("damaged in its archive, or encrypted") from None

    return read


def _zip_file(packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> File:
    link = "a link" if stat.S_ISLNK(member.external_attr >> 16) else None
    return File(member.filename.replace("\\", "/"), member.file_size, lambda: packed.read(member), link)


def _tar_file(packed: tarfile.TarFile, member: tarfile.TarInfo) -> File:
    problem = None if member.isreg() else "a link" if member.islnk() or member.issym() else "not a regular file"

    def read() -> bytes:
        file = packed.extractfile(member)
        return file.read() if file else b""

    return File(member.name.replace("\\", "/"), member.size, read, problem)


def _problem(file: File) -> str | None:
    if file.name.startswith("/") or re.match("[A-Za-z]:", file.name):
        return "an absolute path"
    if ".." in file.name.split("/"):
        return "a path that leads outside"
    return TOO_LARGE if file.size > MAX_BYTES else None


def _by_class(files: Sequence[File]) -> Iterator[tuple[File, str | None, tuple[str, ...]]]:
    """Yields each file with its gem, or None for one outside a gem's folder, and the parts of its path there."""
    paths = [PurePosixPath(file.name).parts for file in files]
    depth = 0  # of common folders that are not the gem's own
    while paths and all(len(parts) > depth + 2 for parts in paths) and len({parts[depth] for parts in paths}) == 1:
        depth += 1
    for file, parts in zip(files, paths, strict=True):
        inner = parts[depth:]
        split = inner[:1] if len(inner) > 2 and inner[0].casefold() in SPLIT_FOLDERS else ()
        inner = inner[len(split) :]
        yield file, inner[0] if len(inner) > 1 else None, split + inner[1:]


def _targets(photos: dict[str, list[Photo]]) -> list[tuple[str, str, File]]:
    """Returns gem, path in the raw folder and file of each photo; no two paths differ in capitals only."""
    folders = safe_names.folder_names(photos)
    targets = []
    taken: set[str] = set()
    for gem, gem_photos in photos.items():
        for photo in gem_photos:
            target = safe_names.safe_path(folders[gem], photo.path)
            salt = photo.file.name
            while safe_names.name_key(target) in taken:
                target = safe_names.safe_path(folders[gem], photo.path, salt=salt)
                salt += "/"
            taken.add(safe_names.name_key(target))
            targets.append((gem, target, photo.file))
    return targets
