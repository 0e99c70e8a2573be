"""The manifest of the raw folder: one row per picture, their numbers, and what changed since the last crawl."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gemmodel.core import files
from gemmodel.core.errors import DataError

MANIFEST = "manifest.jsonl"
SUMMARY = "crawl.json"


def manifest_row(path: str, gem: str, body: bytes, file_format: str | None, **extra: Any) -> dict[str, Any]:
    """Returns a picture's row of the manifest.

    Args:
        path: the picture's path below the raw folder.
        gem: the gem that it shows.
        body: its original bytes; the row has their SHA-256 and their count.
        file_format: Pillow's name of its format, or None for a file that is not an image.
        **extra: further columns.
    """
    digest = hashlib.sha256(body).hexdigest()
    return {"path": path, "gem": gem, "sha256": digest, "bytes": len(body), "format": file_format, **extra}


def load_previous(raw: Path) -> list[dict[str, Any]]:
    """Returns the manifest rows of the previous crawl, without damaged ones; none where there is no such crawl."""
    try:
        rows = files.read_jsonl(raw / MANIFEST)
    except (DataError, OSError):
        return []
    return [row for row in rows if isinstance(row, dict) and _is_valid(row)]


def previous_sources(raw: Path) -> list[str]:
    """Returns the sources of the previous crawl; none where there is no such crawl."""
    try:
        return [summary["source"] for summary in files.read_json(raw / SUMMARY) if "retired" not in summary]
    except (DataError, OSError, KeyError, TypeError):
        return []


def load_retired(raw: Path) -> list[dict[str, Any]]:
    """Returns the rows of `retired` that the previous crawl wrote; none where there are none."""
    try:
        rows = [row for summary in files.read_json(raw / SUMMARY) for row in summary.get("retired", ())]
    except (DataError, OSError, AttributeError, TypeError):
        return []
    return [row for row in rows if isinstance(row, dict) and _is_valid(row)]


def _is_valid(row: dict[str, Any]) -> bool:
    has_texts = all(isinstance(row.get(key), str) and row[key] for key in ("path", "gem", "sha256"))
    return has_texts and type(row.get("number", 0)) is int


def assign_numbers(rows: Sequence[dict[str, Any]], previous: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Numbers the pictures of each gem from 0 by path; a picture keeps the number that an earlier crawl gave it.

    A picture is the same if its path is or, where no picture has that path any more, its bytes are (a renamed file).

    Args:
        rows: rows of this crawl.
        previous: rows of earlier crawls, with their numbers; the last of a path counts.

    Returns:
        The rows, by gem and path, each with its `number`. No picture has the number of one that vanished.
    """
    paths = {row["path"] for row in rows}
    previous_by_path = {row["path"]: row for row in previous if "number" in row}
    moved = {(row["gem"], row["sha256"]): row for row in previous_by_path.values() if row["path"] not in paths}
    rows_by_folder = defaultdict(list)
    for row in sorted(rows, key=lambda row: str(row["path"])):
        rows_by_folder[PurePosixPath(row["path"]).parts[0]].append(row)
    result = []
    for folder in sorted(rows_by_folder):
        numbers: dict[str, int] = {}
        taken: set[int] = set()  # a damaged manifest may hold a number twice
        for row in rows_by_folder[folder]:
            same = previous_by_path.get(row["path"]) or moved.pop((row["gem"], row["sha256"]), None)
            if same and same["number"] not in taken:
                numbers[row["path"]] = same["number"]
                taken.add(same["number"])
        gem = rows_by_folder[folder][0]["gem"]
        earlier = (row for path, row in previous_by_path.items() if row["gem"] == gem or path.startswith(f"{folder}/"))
        next_number = max((row["number"] for row in earlier), default=-1) + 1
        for row in rows_by_folder[folder]:
            if row["path"] not in numbers:
                numbers[row["path"]] = next_number
                next_number += 1
            result.append(row | {"number": numbers[row["path"]]})
    return result


def drop_vanished_gems(previous: Sequence[dict[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of earlier crawls of other sources without those of gems of which no picture is left.

    So the pictures of these gems get the numbers of a first crawl.
    """
    paths = {row["path"] for row in rows}
    kept = {row["gem"] for row in previous if row["path"] in paths}
    return [row for row in previous if row["gem"] in kept]


def list_retired(rows: Sequence[Mapping[str, Any]], previous: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns what `assign_numbers` needs of the earlier pictures that this crawl has not, by gem and number."""
    used = {(row["gem"], row["number"]) for row in rows}
    last = {row["path"]: row for row in previous if "number" in row and (row["gem"], row["number"]) not in used}
    columns = ("path", "gem", "sha256", "number")
    vanished = [{column: row[column] for column in columns} for row in last.values()]
    return sorted(vanished, key=lambda row: (row["gem"], row["number"], row["path"]))


def changes(rows: Sequence[Mapping[str, Any]], previous: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns the paths of new, changed and vanished pictures, sorted, by these three names."""
    now, then = ({row["path"]: row["sha256"] for row in table} for table in (rows, previous))
    return {
        "new": sorted(set(now) - set(then)),
        "changed": sorted(path for path in set(now) & set(then) if now[path] != then[path]),
        "vanished": sorted(set(then) - set(now)),
    }
