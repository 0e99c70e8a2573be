"""The files of a folder and of the archives in it, at any depth, without unpacking anything to disk."""

import re
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from gemmodel.core import image_folder
from gemmodel.core.errors import DataError
from gemmodel.core.image_folder import readable
from scraper import name_encoding, safe_names
from scraper.spiders.base import TOO_LARGE

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
OTHER_ARCHIVES = (".rar", ".7z", ".tar.zst", ".gz", ".bz2", ".xz", ".zst", ".lzh", ".arj", ".cab", ".iso", ".dmg")
MAX_BYTES = 64 * 2**20  # of a photo
MAX_UNPACK_RATIO = 100  # photos are compressed already: an archive of them does not unpack to a multiple of its size
MAX_DEPTH = 3  # of archives in archives
ENCRYPTED = "encrypted; unpack it with its password"
NOT_READABLE = "damaged in its archive"
ZIP_METHODS = {
    9: "Deflate64",
    1: "Shrink",
    6: "Implode",
    93: "Zstandard",
    95: "XZ",
    97: "WavPack",
    98: "PPMd",
    99: "AES",
}
UNICODE_PATH = 0x7075  # Info-ZIP's extra field with the name in UTF-8


@dataclass(frozen=True)
class File:
    """A file in a folder or an archive.

    Attributes:
        name: its path there.
        size: bytes, unpacked.
        read: returns its bytes; raises a DataError where it is damaged.
        problem: why it must not be read, or None.
        offset: where it is in its archive. A compressed tar is read in this order: going back restarts it.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    problem: str | None = None
    offset: int = 0


@dataclass
class Collection:
    """The files of a folder, or of one archive.

    Attributes:
        prefix: stands before the names of its files: empty, or the path of the archive and `!/`.
        files: its files, sorted by name.
        left_out: names and reasons of what is in it but is no file.
        guesses: what was guessed about it, as sentences.
    """

    prefix: str
    files: list[File]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)

    @property
    def archive(self) -> PurePosixPath | None:
        """The archive's path in the source; None for a folder."""
        return PurePosixPath(self.prefix.removesuffix("!/").replace("!/", "/")) if self.prefix else None


def is_archive(name: str) -> bool:
    """Returns whether a file is a zip or tar archive by its name."""
    return name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """Returns an archive's name without its suffix."""
    lower = name.lower()
    return next((name[: -len(suffix)] for suffix in sorted(SUFFIXES, key=len)[::-1] if lower.endswith(suffix)), name)


def collections(source: Path, stack: ExitStack) -> Iterator[Collection]:
    """Yields the files of a folder or archive, then those of each archive in it.

    Args:
        source: a folder, or a zip or tar archive.
        stack: closes the archives.

    Raises:
        DataError: there is no such folder or archive, or it is a damaged archive. One of several is left out instead.
    """
    if source.is_file():
        try:
            yield from _archive(source, "", stack, max_bytes=MAX_UNPACK_RATIO * source.stat().st_size)
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
        return
    if not source.is_dir():
        raise DataError(f"{source}: no such folder or archive; it must hold one folder of photos per class")
    files, left_out = _walk(source)
    packed = _archives_to_open([name for name, _ in files])
    photos = [(name, path) for name, path in files if name not in packed]
    yield Collection("", [_file(path, name) for name, path in photos], left_out)
    for name, path in files:
        if name in packed:
            limit = MAX_UNPACK_RATIO * path.stat().st_size
            yield from _or_left_out(name, _archive(path, f"{name}!/", stack, max_bytes=limit))


def _or_left_out(name: str, archive: Iterator[Collection]) -> Iterator[Collection]:
    """Yields the files of an archive that is one of several; if it is damaged, that it is left out."""
    try:
        yield from archive
    except DataError as error:
        yield Collection("", [], [(name, str(error))])


def _walk(source: Path) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """Returns the names and paths of all files below a folder, and the names of the rest with reasons."""
    left_out: list[tuple[Path, str]] = []
    paths = [path for _, files in image_folder.walk(source, left_out) for path in files]

    def name(path: Path) -> str:
        return readable(path.relative_to(source).as_posix())

    return sorted((name(path), path) for path in paths), sorted((name(path), reason) for path, reason in left_out)


def _archives_to_open(names: Sequence[str]) -> set[str]:
    """Returns the names of the archives that hold photos of classes: all but those in a folder of photos."""
    folders_of_photos = {PurePosixPath(name).parent for name in names if safe_names.is_photo(name)}
    folders_of_photos.discard(PurePosixPath())
    return {
        name
        for name in names
        if is_archive(name) and not image_folder.is_hidden(name) and PurePosixPath(name).parent not in folders_of_photos
    }


def _file(path: Path, name: str) -> File:
    size = path.stat().st_size

    def read() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}") from None

    return File(name, size, read, TOO_LARGE if size > MAX_BYTES and safe_names.is_photo(name) else None)


def _archive(
    packed: Path | IO[bytes], prefix: str, stack: ExitStack, *, max_bytes: int, depth: int = 1
) -> Iterator[Collection]:
    """Yields an archive's files, then those of the archives in it.

    The files are stored under our own names only, so a path in an archive cannot lead outside.
    """
    try:
        files, left_out, guesses = _members(packed, stack)
    except Exception as error:  # readers of damaged archives raise many types
        raise DataError(f"not an intact zip or tar ({error}); pack or download it again") from None
    if sum(file.size for file in files) > max_bytes:
        raise DataError(f"would unpack to more than {MAX_UNPACK_RATIO} times its size, as no archive of photos does")
    inner = _archives_to_open([file.name for file in files]) if depth < MAX_DEPTH else set()
    checked = [replace(file, read=_reading(file), problem=file.problem or _problem(file)) for file in files]
    outer = [file for file in checked if file.name not in inner or file.problem]
    yield Collection(prefix, outer, left_out, guesses)
    for file in checked:
        if file.name in inner and not file.problem:
            name = f"{prefix}{file.name}"
            yield from _or_left_out(name, _inner_archive(file, name, stack, max_bytes=max_bytes, depth=depth + 1))


def _inner_archive(file: File, name: str, stack: ExitStack, *, max_bytes: int, depth: int) -> Iterator[Collection]:
    body = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=MAX_BYTES))  # noqa: SIM115
    body.write(file.read())
    yield from _archive(body, f"{name}!/", stack, max_bytes=max_bytes, depth=depth)


def _members(packed: Path | IO[bytes], stack: ExitStack) -> tuple[list[File], list[tuple[str, str]], list[str]]:
    """Returns an archive's files, what is left out of them, and what was guessed."""
    left_out: list[tuple[str, str]] = []
    if not isinstance(packed, Path):
        packed.seek(0)
    if tarfile.is_tarfile(packed):  # first, since a tar that holds a zip passes for a zip
        opened: dict[str, Any] = {"name": packed} if isinstance(packed, Path) else {"fileobj": packed}
        tar: Any = stack.enter_context(tarfile.open(**opened))  # noqa: SIM115
        members = [member for member in tar.getmembers() if not member.isdir()]
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(512) != bytes(512):  # the end mark; tarfile accepts a truncated archive
            raise EOFError("truncated or damaged")
        names, guesses = name_encoding.decode([member.name.encode("utf-8", "surrogateescape") for member in members])
        files, left_out = _tar_files(tar, members, names)
    else:
        archive = stack.enter_context(zipfile.ZipFile(packed))
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        names, guesses = _zip_names(entries)
        files = [_zip_file(archive, entry, name) for entry, name in zip(entries, names, strict=True)]
    return sorted(files, key=lambda file: file.name), left_out, guesses


def _zip_names(entries: Sequence[zipfile.ZipInfo]) -> tuple[list[str], list[str]]:
    """Returns the names of a zip's entries; zipfile reads those without the flag for UTF-8 as cp437."""
    names = [_unicode_path(entry) or entry.filename for entry in entries]
    unflagged = [i for i, entry in enumerate(entries) if not entry.flag_bits & 0x800 and names[i] == entry.filename]
    decoded, guesses = name_encoding.decode([names[i].encode("cp437", "replace") for i in unflagged])
    for i, name in zip(unflagged, decoded, strict=True):
        names[i] = name
    return names, guesses


def _unicode_path(entry: zipfile.ZipInfo) -> str | None:
    """Returns the name in Info-ZIP's extra field for UTF-8, which zipfile does not read."""
    extra = entry.extra
    while len(extra) >= 4:
        kind, size = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        if kind == UNICODE_PATH and size > 5:  # a version and a checksum stand before the name
            return extra[9 : 4 + size].decode("utf-8", "replace")
        extra = extra[4 + size :]
    return None


def _reading(file: File) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return file.read()
        except Exception:  # as above
            raise DataError(NOT_READABLE) from None

    return read


def _zip_file(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> File:
    problem = None
    if stat.S_ISLNK(entry.external_attr >> 16):
        problem = "a link"
    elif entry.flag_bits & 1 or entry.compress_type == 99:
        problem = ENCRYPTED
    elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        method = ZIP_METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        problem = f"compressed by {method}, which Python cannot unpack; unpack it and pack it as an ordinary zip"
    return File(name.replace("\\", "/"), entry.file_size, lambda: packed.read(entry), problem, entry.header_offset)


def _tar_files(
    packed: tarfile.TarFile, members: Sequence[tarfile.TarInfo], names: Sequence[str]
) -> tuple[list[File], list[tuple[str, str]]]:
    """Returns the files of a tar, and the names of those that a later one of the same name replaces, as tar does."""
    files: dict[PurePosixPath, File] = {}
    targets: dict[PurePosixPath, tarfile.TarInfo] = {}
    replaced = []
    for member, name in zip(members, names, strict=True):
        # A hard link is to an earlier member; a file of the machine is never opened.
        target = targets.get(PurePosixPath(member.linkname), member) if member.islnk() else member
        path = PurePosixPath(member.name)
        if path in files:
            replaced.append((files[path].name, "an older file of the same name in its archive"))
        targets[path], files[path] = target, _tar_file(packed, target, name)
    return list(files.values()), replaced


def _tar_file(packed: tarfile.TarFile, target: tarfile.TarInfo, name: str) -> File:
    problem = None
    if not target.isreg():
        problem = "a link" if target.issym() or target.islnk() else "not a regular file"

    def read() -> bytes:
        file = packed.extractfile(target)
        return file.read() if file else b""

    return File(readable(name.replace("\\", "/")), target.size, read, problem, target.offset_data)


def _problem(file: File) -> str | None:
    if file.name.startswith("/") or re.match("[A-Za-z]:", file.name):
        return "an absolute path"
    if ".." in file.name.split("/"):
        return "a path that leads outside"
    return TOO_LARGE if file.size > MAX_BYTES and safe_names.is_photo(file.name) else None
