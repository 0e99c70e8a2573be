"""Hashes of files, of the code, and of all that a computation depends on."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gemmodel
from gemmodel.core.files import read_errors

FRAMEWORKS = ("keras", "tensorflow")  # whose versions change what a training computes


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal digits.

    Raises:
        DataError: the file does not exist.
    """
    with read_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(paths: Iterable[Path], root: Path) -> str:
    """Returns the SHA-256 of files, their paths below a root included, in hexadecimal digits."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(root).as_posix()} {sha256(path)}\n".encode())
    return total.hexdigest()


@cache
def code_digest() -> str:
    """Returns the SHA-256 of this package's source files, as they are at the first call in this process."""
    root = Path(gemmodel.__file__).parent
    return digest(root.rglob("*.py"), root)


def run_key(settings: Sequence[Any], files: Iterable[Path]) -> str:
    """Returns a name for a computation: another one where a setting, a file, the code or the frameworks differ.

    Args:
        settings: sections of the parameters, as dataclasses.
        files: whose contents, folders and names count, in their order.

    Returns:
        16 hexadecimal digits.
    """
    parts = [asdict(section) for section in settings], [version(name) for name in FRAMEWORKS], code_digest()
    total = hashlib.sha256(json.dumps(parts).encode())
    for path in files:
        total.update(f"{path.parent.name}/{path.name} {sha256(path)}\n".encode())
    return total.hexdigest()[:16]
