"""Corrections by hand: a table of photos' right gems, and of photos to drop."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from gemmodel.core import files
from gemmodel.core.errors import DataError, did_you_mean, shortened
from gemmodel.core.image_folder import class_key, matcher

DROP = "drop"  # in place of a gem
COLUMNS = ["photo", "gem"]


def read(path: Path) -> dict[str, str]:
    """Reads a table of corrections.

    Args:
        path: a CSV file, empty or with the columns `photo` and `gem`; other columns are ignored. `photo` is the SHA-256
            of a raw file, or a photo's path in data/clean before any correction; `gem` is the right name, or `drop`.

    Returns:
        The gems, or `drop`, by photo, in the order of the file.

    Raises:
        DataError: the file is missing or not such a table, or corrects a photo in two ways.
    """
    try:
        reader = csv.DictReader(io.StringIO(files.read_text(path), newline=""))
        header = reader.fieldnames or COLUMNS
        rows = [row for row in reader if any(row.values())]
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; clean.corrections names it, and its header is {','.join(COLUMNS)}"
        ) from None
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file: {shortened(str(error))}; its header is {','.join(COLUMNS)}") from None
    if not set(COLUMNS) <= set(header):
        raise DataError(f"{path}: its first line must be {','.join(COLUMNS)}, not {shortened(','.join(header))}")
    gems: dict[str, str] = {}
    for row in rows:
        photo, gem = (str(row[column] or "").strip() for column in COLUMNS)
        if not photo or not gem:
            raise DataError(f"{path}: {shortened(photo or gem)}: a line needs both a photo and a gem, or `{DROP}`")
        if gems.setdefault(photo, gem) != gem:
            both = f"{shortened(gems[photo])} and {shortened(gem)}"
            raise DataError(f"{path}: {shortened(photo)} is both {both}; keep one line")
    return gems


def match(
    corrections: Mapping[str, str], photos: Sequence[tuple[str, str]], gems: set[str]
) -> tuple[dict[int, str], list[str]]:
    """Matches corrections with photos. Names and paths are compared by `class_key`.

    Args:
        corrections: as `read` returns them.
        photos: each photo's SHA-256 and its path in data/clean before any correction.
        gems: the gems of these photos.

    Returns:
        The new gem, or `drop`, by the photo's index, and the corrections that match no photo.

    Raises:
        DataError: a photo gets an unknown gem, or is corrected in two ways.
    """
    find_gem, to_drop = matcher(gems), {gem for gem in corrections.values() if class_key(gem) == DROP}
    if to_drop and find_gem(DROP):
        raise DataError(f"clean.corrections: a class is called {DROP}, so `{DROP}` has two meanings; rename its folder")
    find_photo = matcher(name for names in photos for name in names)
    found = {name: find_photo(name) for name in corrections}
    new_gems: dict[str, set[str]] = {}
    for name, photo in found.items():
        if photo:
            gem = corrections[name]
            new_gems.setdefault(photo, set()).add(DROP if gem in to_drop else find_gem(gem) or gem)
    corrected: dict[int, str] = {}
    for i, names in enumerate(photos):
        new = {gem for name in names for gem in new_gems.get(name, ())}
        if len(new) > 1:
            both = " and ".join(map(shortened, sorted(new)[:2]))
            raise DataError(f"clean.corrections: {shortened(names[1])} is both {both}; keep one line")
        if unknown := new - gems - {DROP}:
            gem = unknown.pop()
            raise DataError(
                f"clean.corrections: {shortened(names[1])} is corrected to {shortened(gem)}, but no photo is of that "
                "gem" + (did_you_mean(gem, gems) or f"; use the name of one of their folders, or `{DROP}`")
            )
        if new:
            corrected[i] = new.pop()
    return corrected, [name for name, photo in found.items() if not photo]
