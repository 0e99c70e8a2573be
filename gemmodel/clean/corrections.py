"""What people found wrong about photos: a table of corrected names, and of photos to drop."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from gemmodel.core.errors import DataError

DROP = "drop"  # in place of a gem
COLUMNS = ["photo", "gem"]


def read(path: Path) -> dict[str, str]:
    """Reads a table of corrections.

    Args:
        path: a CSV file, empty or with the columns `photo` and `gem`; others are for people. `photo` is the SHA-256 of
            a raw file, or a photo's path in data/clean before any correction; `gem` is the right name, or `drop`.

    Returns:
        The gems, or `drop`, by photo, in the order of the file.

    Raises:
        DataError: the file is missing or no such table, or corrects a photo twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a byte order mark in front
            reader = csv.DictReader(file)
            head = reader.fieldnames or COLUMNS
            rows = [row for row in reader if any(row.values())]
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; clean.corrections names it, and {','.join(COLUMNS)} is its head"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}") from None
    if not set(COLUMNS) <= set(head):
        raise DataError(f"{path}: its first line must be {','.join(COLUMNS)}")
    found: dict[str, str] = {}
    for row in rows:
        photo, gem = (str(row[column] or "").strip() for column in COLUMNS)
        if not photo or not gem:
            raise DataError(f"{path}: {photo or gem}: a line needs both a photo and a gem, or `{DROP}`")
        if found.setdefault(photo, gem) != gem:
            raise DataError(f"{path}: {photo} is both {found[photo]} and {gem}; keep one line")
    return found


def match(
    corrections: Mapping[str, str], photos: Sequence[tuple[str, str]], gems: set[str]
) -> tuple[dict[int, str], list[str]]:
    """Finds the photos that corrections mean.

    Args:
        corrections: what `read` returns.
        photos: each photo's SHA-256 and its path in data/clean before any correction.
        gems: the known gems.

    Returns:
        The new gem or `drop` by the photo's place, and the corrections that mean no photo of these.

    Raises:
        DataError: a photo shall become an unknown gem, or is corrected in two ways.
    """
    found: dict[int, str] = {}
    for place, names in enumerate(photos):
        told = {corrections[name] for name in names if name in corrections}
        if len(told) > 1:
            raise DataError(f"clean.corrections: {names[1]} is both {' and '.join(sorted(told))}; keep one line")
        if strange := told - gems - {DROP}:
            raise DataError(
                f"clean.corrections: {names[1]} shall be {strange.pop()}, which is no gem of these photos; name one of "
                f"them as its folder is named, or `{DROP}`"
            )
        if told:
            found[place] = told.pop()
    known = {name for names in photos for name in names}
    return found, [name for name in corrections if name not in known]
