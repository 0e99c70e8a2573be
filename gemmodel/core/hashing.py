"""Hashes of files, of the code, and of everything that a computation depends on."""

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

FRAMEWORKS = ("keras", "tensorflow")  # their versions change what training computes


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, as hexadecimal digits.

    Raises:
        DataError: the file does not exist.
    """
    with read_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
