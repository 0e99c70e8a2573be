"""Photos that somebody has already: a folder of class folders, or a zip or tar of one."""

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
from scraper import manifest, safe_names

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # no gem is called so
LARGEST = 64 * 2**20  # bytes of a photo
DENSEST = 100  # photos are packed already; what unpacks to more than so many times its size is no archive of them


@dataclass(frozen=True)
class File:
    """A file of a collection: its true name, bytes, and what reads it; `problem` is why it is not to be read."""

    name: str
    size: int
    read: Callable[[], bytes]
    problem: str | None = None


def copy(params: CrawlParams, store: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Copies the photos of `crawl.folder` into a raw folder, under names that are safe everywhere.

    The collection holds a folder a gem. Folders around them all, and folders named as parts of a split (train, test),
    are looked through; archives that lie in it are opened and merged.

    Args:
        params: the folder or archive, and the limits.
        store: gets a folder a gem.

    Returns:
        A manifest line a photo, and the account of what was left out.

    Raises:
        DataError: there is no such folder or archive, it is damaged, or holds no photos of the gems that are wanted.
    """
    source = Path(params.folder)
    failures: list[dict[str, str]] = []
    unmatched: Counter[str] = Counter()
    lines = []
    with ExitStack() as stack:
        wanted: dict[str, list[tuple[PurePosixPath, File]]] = defaultdict(list)
        for prefix, files in _collections(source, stack):
            photos = []
            for file in files:
                if PurePosixPath(file.name).suffix.lower() not in SUFFIXES:
                    unmatched["file that is no photo by its name"] += 1
                elif file.problem:
                    failures.append({"url": f"{prefix}{file.name}", "reason": file.problem})
                else:
                    photos.append(file)
            for file, gem, rest in _by_class(photos):
                if gem:
                    whence = replace(file, name=f"{prefix}{file.name}")
                    wanted[gem].append((PurePosixPath(prefix.removesuffix("!/"), *rest), whence))
                else:
                    failures.append({"url": f"{prefix}{file.name}", "reason": "photo in no gem's folder"})
        if missing := sorted(set(params.only) - set(wanted)):
            raise DataError(f"crawl.only: {source} has no {', '.join(missing)}")
        if not wanted:
            raise DataError(f"{source}: no photos in its class folders; they must end in {', '.join(SUFFIXES)}")
        chosen = {gem: sorted(found, key=lambda pair: pair[0]) for gem, found in wanted.items()}
        chosen = {gem: found for gem, found in chosen.items() if not params.only or gem in params.only}
        targets = _targets({gem: found[: params.max_per_gem or None] for gem, found in chosen.items()})
        for gem, target, file in tqdm(targets, "crawl", unit=" photos", disable=None):
            try:
                body = file.read()
                line = manifest.line(target, gem, body, file=file.name)
            except DataError as error:
                failures.append({"url": file.name, "reason": str(error)})
                continue
            (store / target).parent.mkdir(parents=True, exist_ok=True)
            (store / target).write_bytes(body)
            lines.append(line)
    return lines, {
        "source": source.name,  # not its whole path: the same photos give the same bytes wherever they lie
        "pages": 0,
        "failures": sorted(failures, key=lambda failure: failure["url"]),
        "gems_without_pictures": sorted(set(chosen) - {line["gem"] for line in lines}),
        "unmatched_markup": dict(unmatched),
    }


def _collections(source: Path, stack: ExitStack) -> Iterator[tuple[str, list[File]]]:
    """Yields the source itself, and each archive in it, as a prefix of names and the files."""
    if source.is_file():
        yield "", stack.enter_context(_archive(source))
        return
    if not source.is_dir():
        raise DataError(f"{source}: no such folder or archive; it must hold one folder of photos a class")
    archives = [path for path in sorted(source.iterdir()) if path.is_file() and _is_archive(path)]
    found = (path for path in sorted(source.rglob("*")) if path.is_file() and path not in archives)
    names = ((path, path.relative_to(source).as_posix()) for path in found)
    yield "", [_file(path, safe_names.readable(name)) for path, name in names if not _hidden(name)]
    for path in archives:
        yield f"{safe_names.readable(path.name)}!/", stack.enter_context(_archive(path))


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES)


def _hidden(name: str) -> bool:
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in PurePosixPath(name).parts)


def _file(path: Path, name: str) -> File:
    size = path.stat().st_size
    return File(name, size, path.read_bytes, "larger than a photo" if size > LARGEST else None)


@contextmanager
def _archive(path: Path) -> Iterator[list[File]]:
    """Opens an archive; nothing of it is unpacked but by our own names, so no path in it leads anywhere."""
    with ExitStack() as stack:
        try:
            if tarfile.is_tarfile(path):  # asked first, since a tar that holds a zip passes for one
                packed: Any = stack.enter_context(tarfile.open(path))
                files = [_tarred(packed, member) for member in packed.getmembers() if not member.isdir()]
                packed.fileobj.seek(packed.offset)
                if packed.fileobj.read(512) != bytes(512):  # its end; tarfile itself takes a cut one for whole
                    raise EOFError("cut off or damaged")
            else:
                packed = stack.enter_context(zipfile.ZipFile(path))
                files = [_zipped(packed, member) for member in packed.infolist() if not member.is_dir()]
        except Exception as error:  # readers of damaged archives raise all kinds
            raise DataError(f"{path}: no whole zip or tar ({error}); pack or download it again") from None
        if sum(file.size for file in files) > DENSEST * path.stat().st_size:
            raise DataError(f"{path}: would unpack to more than {DENSEST} times its size; no archive of photos does")
        yield [
            File(safe_names.readable(file.name), file.size, _reading(file), file.problem or _unsafe(file))
            for file in files
            if not _hidden(file.name)
        ]


def _reading(file: File) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return file.read()
        except Exception:
            raise DataError("damaged in its archive, or locked") from None

    return read


def _zipped(packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> File:
    link = "a link" if stat.S_ISLNK(member.external_attr >> 16) else None
    return File(member.filename.replace("\\", "/"), member.file_size, lambda: packed.read(member), link)


def _tarred(packed: tarfile.TarFile, member: tarfile.TarInfo) -> File:
    link = None if member.isreg() else "a link" if member.islnk() or member.issym() else "no ordinary file"

    def read() -> bytes:
        file = packed.extractfile(member)
        return file.read() if file else b""

    return File(member.name.replace("\\", "/"), member.size, read, link)


def _unsafe(file: File) -> str | None:
    if file.name.startswith("/") or re.match("[A-Za-z]:", file.name):
        return "an absolute path"
    if ".." in file.name.split("/"):
        return "a path that leads outside"
    return "larger than a photo" if file.size > LARGEST else None


def _by_class(files: Sequence[File]) -> Iterator[tuple[File, str | None, tuple[str, ...]]]:
    """Yields each file with its gem and the rest of its path, None for one in no gem's folder."""
    paths = [PurePosixPath(file.name).parts for file in files]
    around = 0  # folders around all that leave at least a gem's folder and a file
    while paths and all(len(parts) > around + 2 for parts in paths) and len({parts[around] for parts in paths}) == 1:
        around += 1
    for file, parts in zip(files, paths, strict=True):
        inner = parts[around:]
        part = inner[:1] if len(inner) > 2 and inner[0].casefold() in PARTS else ()
        inner = inner[len(part) :]
        yield file, inner[0] if len(inner) > 1 else None, part + inner[1:]


def _targets(chosen: dict[str, list[tuple[PurePosixPath, File]]]) -> list[tuple[str, str, File]]:
    """Returns gem, path in the raw folder and file, in the order of the files, which archives read fastest."""
    names = safe_names.folder_names(chosen)
    targets = []
    taken: set[str] = set()
    for gem, found in chosen.items():
        for path, file in found:
            target = safe_names.safe_path(names[gem], path)
            apart = file.name
            while safe_names.name_key(target) in taken:
                target = safe_names.safe_path(names[gem], path, apart=apart)
                apart += "/"
            taken.add(safe_names.name_key(target))
            targets.append((gem, target, file))
    return targets
