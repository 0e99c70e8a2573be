"""The raw folder: safe names, a line of the manifest a picture, and what changed since the last crawl."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from gemmodel.core import files
from gemmodel.core.errors import DataError
from gemmodel.images import decode
from gemmodel.images.decode import MAX_PIXELS

MANIFEST = "manifest.jsonl"
SUMMARY = "crawl.json"


def line(path: str, gem: str, body: bytes, **more: Any) -> dict[str, Any]:
    """Returns a picture's line of the manifest: path, gem, SHA-256, size in bytes, format, and what else is known."""
    found = {"path": path, "gem": gem, "sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}
    return found | {"format": image_format(body)} | more


def image_format(body: bytes) -> str | None:
    """Returns the format that the first bytes tell, whatever the file's name, or None for what is no picture.

    Raises:
        DataError: a picture of more pixels than any photo has.
    """
    try:
        with Image.open(io.BytesIO(body), formats=decode.FORMATS) as image:
            size, file_format = image.size, image.format
    except Image.DecompressionBombError:
        size = (MAX_PIXELS, 2)
    except Exception:  # decoders of damaged files raise all kinds
        return None
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError("more pixels than a photo has")
    return file_format


def load_previous(raw: Path) -> list[dict[str, Any]]:
    """Returns the lines of the manifest that an earlier crawl left, none where there is no such crawl.

    Lines that no crawl of this version wrote are left out.
    """
    try:
        lines = files.read_jsonl(raw / MANIFEST)
    except (DataError, OSError):
        return []
    return [found for found in lines if isinstance(found, dict) and _whole(found)]


def _whole(found: dict[str, Any]) -> bool:
    told = all(isinstance(found.get(key), str) and found[key] for key in ("path", "gem", "sha256"))
    return told and type(found.get("number", 0)) is int


def assign_numbers(lines: Sequence[dict[str, Any]], old: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Gives each picture of a gem its number: from 0 by path, but for ever the one that an earlier crawl gave it.

    A picture is the same if its path is, or, where that is gone, its bytes are (a file that was renamed).
    """
    paths = {found["path"] for found in lines}
    by_path = {found["path"]: found for found in old if "number" in found}
    by_bytes = {(found["gem"], found["sha256"]): found for found in by_path.values() if found["path"] not in paths}
    of_gem = defaultdict(list)
    for found in sorted(lines, key=lambda found: str(found["path"])):
        of_gem[PurePosixPath(found["path"]).parts[0]].append(found)
    result = []
    for gem in sorted(of_gem):
        known: dict[str, int] = {}
        taken: set[int] = set()  # a damaged manifest may give a number twice
        for found in of_gem[gem]:
            same = by_path.get(found["path"]) or by_bytes.pop((found["gem"], found["sha256"]), None)
            if same and same["number"] not in taken:
                known[found["path"]] = same["number"]
                taken.add(same["number"])
        earlier = [found["number"] for path, found in by_path.items() if path.startswith(f"{gem}/")] if known else []
        following = max([*earlier, *taken], default=-1) + 1
        for found in of_gem[gem]:
            if found["path"] not in known:
                known[found["path"]] = following
                following += 1
            result.append(found | {"number": known[found["path"]]})
    return result


def changes(lines: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns the paths of new, changed and vanished pictures."""
    now, then = ({found["path"]: found["sha256"] for found in given} for given in (lines, old))
    return {
        "new": sorted(set(now) - set(then)),
        "changed": sorted(path for path in set(now) & set(then) if now[path] != then[path]),
        "vanished": sorted(set(then) - set(now)),
    }
