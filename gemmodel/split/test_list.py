"""The photos that stay the test part when others come in."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError

STATUSES = ("replaced_by_duplicate", "rejected", "missing")  # of listed photos that are not there as they were
HEADER = "# SHA-256 of a raw photo, a tab, its path: the photos that stay the test part. See `gemmodel pin-test`.\n"


def resolve_test_list(clean: Path, test_list: Path) -> tuple[set[str], dict[str, Any]]:
    """Finds the photos that a test list names in a clean folder.

    A listed photo that was set aside as a copy of another, since that came in, is stood for by the other one: what
    was tested on must not be trained on.

    Args:
        clean: holds the `manifest.jsonl` of cleaning.
        test_list: one line a photo, the SHA-256 of its raw file, a tab, and its path; `#` begins a comment.

    Returns:
        The photos' paths within the clean folder, and the report: how many are `listed`, and the raw paths of those
        that a copy `replaced_by_duplicate`, that are `rejected` without one, and that have `missing`.

    Raises:
        DataError: the list does not exist, or holds a line of another form.
    """
    listed = read(test_list)
    by_hash = defaultdict(list)
    paths = {}
    for row in files.read_jsonl(clean / "manifest.jsonl") if listed else ():
        by_hash[row["sha256"]].append(row)
        if "path" in row:
            paths[row["source"]] = row["path"]
    test: set[str] = set()
    fates: dict[str, list[str]] = {fate: [] for fate in STATUSES}
    for sha256, name in listed.items():
        rows = by_hash[sha256]
        own = {row["path"] for row in rows if "path" in row}
        copies = {paths[twin] for row in rows for twin in row.get("duplicates", ()) if twin in paths}
        if not own:
            fates["replaced_by_duplicate" if copies else "rejected" if rows else "missing"].append(name)
        test |= own or copies
    return test, {"listed": len(listed), **fates}


def read(path: Path) -> dict[str, str]:
    """Returns the raw paths on a test list by their SHA-256; see `kept_test`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; split.test_list names a list, an empty one to begin with") from None
    listed = {}
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            sha256, tab, name = line.partition("\t")
            if len(sha256) != 64 or not tab:
                raise DataError(f"{path}:{number}: no SHA-256, tab and path; `gemmodel pin-test` writes such lines")
            listed[sha256] = name
    return listed


def write(test: Path, clean: Path, out: Path) -> int:
    """Writes the list of the photos that make up a test part; see `kept_test`.

    Args:
        test: the test part, a folder a class.
        clean: what it was split from.
        out: the list; an older one is replaced.

    Returns:
        The number of photos.

    Raises:
        DataError: a photo of the test part is not in the clean folder.
    """
    rows = {row["path"]: row for row in files.read_jsonl(clean / "manifest.jsonl") if "path" in row}
    names = [path.relative_to(test).as_posix() for paths in image_folder.list_images(test).values() for path in paths]
    if strange := [name for name in names if name not in rows]:
        raise DataError(f"{test / strange[0]}: not in {clean / 'manifest.jsonl'}; run `dvc repro split` first")
    lines = sorted((rows[name]["source"], rows[name]["sha256"]) for name in names)
    with files.atomic_write(out) as new:
        new.write_text(HEADER + "".join(f"{sha256}\t{source}\n" for source, sha256 in lines), encoding="utf-8")
    return len(lines)
