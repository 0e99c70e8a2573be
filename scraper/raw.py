"""The raw folder: safe names, a line of the manifest a picture, and what changed since the last crawl."""

import hashlib
import io
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from pathvalidate import sanitize_filename
from PIL import Image

from gemmodel.data import folders
from gemmodel.data.images import MOST_PIXELS
from gemmodel.errors import DataError

MANIFEST = "manifest.jsonl"
ACCOUNT = "crawl.json"
LONGEST = 80  # characters of a name; with a hash, in any script, still below the 255 bytes of file systems
DEEPEST = 8  # folders below a gem's that are told apart

TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # signs that show a name as another


def safe_name(name: str) -> str:
    """Returns a name that Linux, macOS and Windows take, told apart by a hash where the true one had to be cut."""
    shown = "".join(sign for sign in readable(name) if not _hides(sign))
    safe, before = shown.replace("/", " ").replace("\\", " "), None
    while safe != before:  # what one step leaves may be what another one removes
        before = safe
        safe = unicodedata.normalize("NFC", str(sanitize_filename(safe, platform="universal")).strip(" ."))
    if not safe or len(safe.encode()) > 2 * LONGEST:
        safe = f"{safe.encode()[:LONGEST].decode(errors='ignore').strip(' .') or 'unnamed'}-{_short_hash(name)}"
    return safe


def _hides(sign: str) -> bool:
    return unicodedata.category(sign) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(sign) in TURNING


def readable(name: str) -> str:
    """Returns a name with escapes for bytes that are no text, as the names of files may hold."""
    return name.encode(errors="backslashreplace").decode()


def folder_names(gems: Iterable[str]) -> dict[str, str]:
    """Returns a folder name for each gem: safe, and no two the same where a disk does not tell capitals apart."""
    names = {gem: safe_name(gem) for gem in sorted(set(gems))}
    for again in count():
        shared = Counter([MANIFEST, ACCOUNT, *map(alike, names.values())])
        if max(shared.values()) == 1:
            break
        names = {
            gem: f"{name}-{_short_hash(gem + ' ' * again)}" if shared[alike(name)] > 1 else name
            for gem, name in names.items()
        }
    return names


def alike(name: str) -> str:
    """Returns what two names share that one disk takes for the same and another does not."""
    return unicodedata.normalize("NFC", name.casefold())


def file_name(url: str) -> str:
    """Returns a picture's file name: its own, and a hash of its whole URL, so that no two are the same."""
    name = PurePosixPath(unquote(urlsplit(url).path.rsplit("/", 1)[-1]).replace("/", " "))
    stem = safe_name(name.stem).encode()[:LONGEST].decode(errors="ignore")
    suffix = safe_name(f"x{name.suffix[:8].lower()}").removeprefix("x")
    return f"{stem}-{_short_hash(url)}{suffix}"


def safe_path(folder: str, path: PurePosixPath, *, apart: str = "") -> str:
    """Returns a photo's path below a folder, each part safe; a text to tell it apart by adds its hash to the name."""
    name = safe_name(path.stem) + (f"-{_short_hash(apart)}" if apart else "") + path.suffix
    return PurePosixPath(folder, *map(_inner_folder, path.parent.parts[-DEEPEST:]), name).as_posix()


def _inner_folder(name: str) -> str:
    """Returns a safe name that no photo beside it can have."""
    safe = safe_name(name)
    return f"{safe}_" if PurePosixPath(safe).suffix.lower() in folders.SUFFIXES else safe


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


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
        with Image.open(io.BytesIO(body), formats=folders.FORMATS) as image:
            size, file_format = image.size, image.format
    except Image.DecompressionBombError:
        size = (MOST_PIXELS, 2)
    except Exception:  # decoders of damaged files raise all kinds
        return None
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError("more pixels than a photo has")
    return file_format


def before(raw: Path) -> list[dict[str, Any]]:
    """Returns the lines of the manifest that an earlier crawl left, none where there is no such crawl.

    Lines that no crawl of this version wrote are left out.
    """
    try:
        lines = folders.read_lines(raw / MANIFEST)
    except (DataError, OSError):
        return []
    return [found for found in lines if isinstance(found, dict) and _whole(found)]


def _whole(found: dict[str, Any]) -> bool:
    told = all(isinstance(found.get(key), str) and found[key] for key in ("path", "gem", "sha256"))
    return told and type(found.get("number", 0)) is int


def numbered(lines: Sequence[dict[str, Any]], old: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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
