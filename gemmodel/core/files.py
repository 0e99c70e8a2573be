"""Files: outputs that appear whole or not at all, and JSON and tables with errors that name the file."""

import io
import json
import os
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemmodel.core.errors import DISK_FULL, DataError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def scratch_dir(folder: Path) -> Iterator[Path]:
    """Makes an empty folder and removes it when the context ends; what a killed process left there is deleted first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yields a path to write a file or folder to, and moves it to the target once it is complete.

    Args:
        target: the file or folder to write; an older one is replaced. Its parent folder is created.

    Yields:
        A path in a folder beside the target; nothing exists there yet. After an error nothing is left of it. What a
        killed process left is deleted.

    Raises:
        DataError: the disk is full.
    """
    beside = target.parent / f".{target.name}.new"  # no lock: DVC never runs a stage twice at a time
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
        if error.errno not in DISK_FULL:
            raise
        raise DataError(f"{target}: no space left on its disk; free some and run this again") from None


def _tidy(beside: Path, target: Path) -> None:
    if (beside / "old").exists() and not target.exists():  # killed between two renames
        os.replace(beside / "old", target)
    shutil.rmtree(beside, ignore_errors=True)


def read_text(path: Path) -> str:
    """Returns the text of a file that people edit: UTF-8, with or without the byte order mark of Windows' editors.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is in another encoding.
    """
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise DataError(f'{path}: not UTF-8, but like UTF-16 (Windows\' "Unicode"); save it as UTF-8')
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8: byte 0x{content[error.start]:02x}; save it as UTF-8") from None


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, with keys in their order, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text, whole or not at all."""
    with atomic_write(path) as new:
        new.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Writes one JSON value per line."""
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    path.write_text(text, encoding="utf-8", newline="\n")


def read_jsonl(path: Path) -> list[Any]:
    """Reads one JSON value per line.

    Raises:
        DataError: the file does not exist, or a line of it is not JSON.
    """
    with read_errors(path):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_json(path: Path) -> Any:
    """Reads what `write_json` wrote.

    Raises:
        DataError: the file does not exist or is not JSON.
    """
    with read_errors(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_table(path: Path, *, numbers: Mapping[str, type] | None = None) -> "pd.DataFrame":
    """Reads a table of class or file names; pandas alone would guess types.

    All values are text, so that the classes `1`, `01`, `1e3`, `NA`, `null` and `True` keep their names.

    Args:
        path: a CSV file in UTF-8 with a line of column names; it may begin with a byte order mark.
        numbers: the types, `int` or `float`, of the columns that are numbers. A column may be absent.

    Raises:
        DataError: the file does not exist, is not such a table, or has a value that is no number.
    """
    import pandas as pd  # takes half a second, which most stages that read files can do without

    types = defaultdict(lambda: str, numbers or {})
    try:
        with read_errors(path):
            table = pd.read_csv(path, dtype=types, keep_default_na=False, encoding="utf-8-sig")
        if not isinstance(table.index, pd.RangeIndex):  # of a first line with more values than the header has names
            raise ValueError("a line has more values than there are columns")
        return table
    except ValueError as error:  # also pandas' errors of a file without columns, or with lines of different lengths
        raise DataError(f"{path}: not a table as `dvc repro` writes it: {error}".replace("\n", " ")) from None


def appended(content: bytes) -> dict[str, bytes]:
    """Returns the files in a ZIP archive at the end of a file's content, by name; none where there is no archive.

    Raises:
        ValueError, zipfile.BadZipFile: the archive is damaged.
    """
    if content[-22:-18] != b"PK\5\6":  # the end of an archive without a comment
        return {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def copy(source: Path, target: Path) -> None:
    """Copies a file's bytes, without its times and permissions; the target's folder is created if necessary."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turns what may go wrong while a file is read, and parsed as JSON, into a DataError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `dvc repro` makes it, `dvc pull` fetches it") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8: {error}") from None
