"""The test list: photos that stay in the test part when others are added."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError

STATUSES = ("replaced_by_duplicate", "rejected", "missing")  # of listed photos that are not in the clean folder
HEADER = "# SHA-256 of a raw photo, a tab, its path: the photos that stay in the test part. See `gemmodel pin-test`.\n"


def resolve_test_list(clean: Path, test_list: Path) -> tuple[set[str], dict[str, Any]]:
    """Finds the photos of a test list in a clean folder.

    A listed photo that cleaning rejected as a duplicate of another one is replaced by that one: the model must not be
    trained on a photo that it was tested on.

    Args:
        clean: holds the `manifest.jsonl` of cleaning. Photos that are of the part `test` there, as the publisher of the
            photos made it, are on the list too.
        test_list: one line per photo: the SHA-256 of its raw file, a tab, and its path; `#` begins a comment.

    Returns:
        The photos' paths within the clean folder, and the report: how many are `listed`, and the raw paths of those
        that are `replaced_by_duplicate`, of those that are `rejected` without one, and of those that are `missing`.

    Raises:
        DataError: the list does not exist, or has a line of another form.
    """
    listed = read(test_list)
    rows_by_hash = defaultdict(list)
    paths = {}
    manifest = clean / "manifest.jsonl"
    for row in files.read_jsonl(manifest) if listed or manifest.exists() else ():
        if row.get("part") == "test":
            listed.setdefault(row["sha256"], row["source"])
        rows_by_hash[row["sha256"]].append(row)
        if "path" in row:
            paths[row["source"]] = row["path"]
    test: set[str] = set()
    report: dict[str, list[str]] = {status: [] for status in STATUSES}
    for sha256, source in listed.items():
        rows = rows_by_hash[sha256]
        own = {row["path"] for row in rows if "path" in row}
        duplicates = {paths[other] for row in rows for other in row.get("duplicates", ()) if other in paths}
        if not own:
            report["replaced_by_duplicate" if duplicates else "rejected" if rows else "missing"].append(source)
        test |= own or duplicates
    return test, {"listed": len(listed), **report}


def read(path: Path) -> dict[str, str]:
    """Returns the raw paths on a test list by their SHA-256; see `resolve_test_list`.

    Raises:
        DataError: the list does not exist, is not UTF-8, or has a line of another form.
    """
    try:
        lines = files.read_text(path).replace("\r\n", "\n").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; split.test_list names a list, which may be empty") from None
    listed = {}
    for line_number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            sha256, tab, source = line.partition("\t")
            if len(sha256) != 64 or not tab:
                raise DataError(
                    f"{path}:{line_number}: no SHA-256, tab and path; `gemmodel pin-test` writes such lines"
                )
            listed[sha256.lower()] = source  # some tools write capitals
    return listed


def write(test: Path, clean: Path, out: Path) -> int:
    """Writes the photos of a test part to a test list; see `resolve_test_list`.

    Args:
        test: the test part, one folder per class.
        clean: the clean folder that it was split from.
        out: the list; an older one is replaced.

    Returns:
        The number of photos.

    Raises:
        DataError: a photo of the test part is not in the clean folder.
    """
    rows = {row["path"]: row for row in files.read_jsonl(clean / "manifest.jsonl") if "path" in row}
    names = [path.relative_to(test).as_posix() for paths in image_folder.list_images(test).values() for path in paths]
    if unknown := [name for name in names if name not in rows]:
        raise DataError(f"{test / unknown[0]}: not in {clean / 'manifest.jsonl'}; run `dvc repro split` first")
    lines = sorted((rows[name]["source"], rows[name]["sha256"]) for name in names)
    with files.atomic_write(out) as new:
        new.write_text(HEADER + "".join(f"{sha256}\t{source}\n" for source, sha256 in lines), encoding="utf-8")
    return len(lines)
