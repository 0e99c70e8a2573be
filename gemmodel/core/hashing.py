"""Hashes of files, of the code, and of everything that a computation depends on."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gemmodel
from gemmodel.core.errors import ModelError
from gemmodel.core.files import read_errors, write_json

HASHES = "sha256.json"  # of a model's folder and of a registered version: the SHA-256 of each file by its path there
RESTORE = "`dvc checkout --force` restores models/, `gemmodel register` a registered model"
FRAMEWORKS = ("keras", "tensorflow")  # their versions change what training computes


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, as hexadecimal digits.

    Raises:
        DataError: the file does not exist.
    """
    with read_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_hashes(folder: Path) -> None:
    """Writes the SHA-256 of each other file below a folder to its `sha256.json`."""
    others = {name: path for name, path in sorted(_files(folder).items()) if name != HASHES}
    write_json(folder / HASHES, {name: sha256(path) for name, path in others.items()})


def check(folder: Path) -> None:
    """Compares all files below a folder with its `sha256.json`; a model of a former version has none, and passes.

    Raises:
        ModelError: a file is damaged, missing, or of another model than the others.
    """
    present = _files(folder)
    if HASHES in present:
        for name, expected in _parse(present[HASHES].read_bytes(), folder).items():
            _compare(folder / name, sha256(present[name]) if name in present else None, expected)


def read_checked(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Reads files of a folder once, and compares what was read with its `sha256.json`.

    Args:
        folder: of a model; one of a former version has no hashes, and is not checked.
        names: of the files.

    Returns:
        The contents by name of `sha256.json` and of the files that are there; of a checked folder, that it lists.

    Raises:
        ModelError: a file is damaged, missing, or of another model than the others.
    """
    contents = {name: path.read_bytes() for name in (HASHES, *names) if (path := folder / name).is_file()}
    if HASHES not in contents:
        return contents
    hashes = _parse(contents[HASHES], folder)
    for name in hashes.keys() & set(names):
        _compare(folder / name, hashlib.sha256(contents[name]).hexdigest() if name in contents else None, hashes[name])
    return {name: content for name, content in contents.items() if name == HASHES or name in hashes}


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _parse(content: bytes, folder: Path) -> Mapping[str, str]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):  # ValueError also of bytes that are no text
        raise ModelError(f"{folder / HASHES}: damaged; {RESTORE}") from None


def _compare(path: Path, sha: str | None, expected: str) -> None:
    if sha != expected:
        state = "not there, but listed in" if sha is None else "damaged, or of another model than"
        raise ModelError(f"{path}: {state} {HASHES}; {RESTORE}")


def digest(paths: Iterable[Path], root: Path) -> str:
    """Returns the SHA-256 of files and of their paths relative to a root, as hexadecimal digits."""
    combined = hashlib.sha256()
    for path in sorted(paths):
        combined.update(f"{path.relative_to(root).as_posix()} {sha256(path)}\n".encode())
    return combined.hexdigest()


@cache
def code_digest(*packages: str) -> str:
    """Returns the SHA-256 of gemmodel's source files, read at the first call in this process.

    Args:
        packages: names of the packages that count; none: all of gemmodel.
    """
    root = Path(gemmodel.__file__).parent
    return digest((path for package in packages or ["."] for path in (root / package).rglob("*.py")), root)


def run_key(settings: Sequence[Any], files: Iterable[Path]) -> str:
    """Returns a key for a computation; it changes with any setting, input file, source file or framework version.

    Args:
        settings: sections of the parameters, as dataclasses.
        files: input files in their order; their contents, names and folders' names count.

    Returns:
        16 hexadecimal digits.
    """
    parts = [asdict(section) for section in settings], [version(name) for name in FRAMEWORKS], code_digest()
    combined = hashlib.sha256(json.dumps(parts).encode())
    for path in files:
        combined.update(f"{path.parent.name}/{path.name} {sha256(path)}\n".encode())
    return combined.hexdigest()[:16]
