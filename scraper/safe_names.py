"""File names that Linux, macOS and Windows take, and that no two pictures share."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from pathvalidate import sanitize_filename

from gemmodel.core.image_folder import SUFFIXES

RESERVED = ("manifest.jsonl", "crawl.json")  # files beside the gems' folders
MAX_LENGTH = 80  # characters of a name; with a hash, in any script, still below the 255 bytes of file systems
MAX_DEPTH = 8  # folders below a gem's that are told apart
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # signs that show a name as another


def safe_name(name: str) -> str:
    """Returns a name that Linux, macOS and Windows take, told apart by a hash where the true one had to be cut."""
    shown = "".join(sign for sign in readable(name) if not _hides(sign))
    safe, load_previous = shown.replace("/", " ").replace("\\", " "), None
    while safe != load_previous:  # what one step leaves may be what another one removes
        load_previous = safe
        safe = unicodedata.normalize("NFC", str(sanitize_filename(safe, platform="universal")).strip(" ."))
    if not safe or len(safe.encode()) > 2 * MAX_LENGTH:
        safe = f"{safe.encode()[:MAX_LENGTH].decode(errors='ignore').strip(' .') or 'unnamed'}-{_short_hash(name)}"
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
        shared = Counter([*RESERVED, *map(name_key, names.values())])
        if max(shared.values()) == 1:
            break
        names = {
            gem: f"{name}-{_short_hash(gem + ' ' * again)}" if shared[name_key(name)] > 1 else name
            for gem, name in names.items()
        }
    return names


def name_key(name: str) -> str:
    """Returns what two names share that one disk takes for the same and another does not."""
    return unicodedata.normalize("NFC", name.casefold())


def file_name(url: str) -> str:
    """Returns a picture's file name: its own, and a hash of its whole URL, so that no two are the same."""
    name = PurePosixPath(unquote(urlsplit(url).path.rsplit("/", 1)[-1]).replace("/", " "))
    stem = safe_name(name.stem).encode()[:MAX_LENGTH].decode(errors="ignore")
    suffix = safe_name(f"x{name.suffix[:8].lower()}").removeprefix("x")
    return f"{stem}-{_short_hash(url)}{suffix}"


def safe_path(folder: str, path: PurePosixPath, *, apart: str = "") -> str:
    """Returns a photo's path below a folder, each part safe; a text to tell it apart by adds its hash to the name."""
    name = safe_name(path.stem) + (f"-{_short_hash(apart)}" if apart else "") + path.suffix
    return PurePosixPath(folder, *map(_inner_folder, path.parent.parts[-MAX_DEPTH:]), name).as_posix()


def _inner_folder(name: str) -> str:
    """Returns a safe name that no photo beside it can have."""
    safe = safe_name(name)
    return f"{safe}_" if PurePosixPath(safe).suffix.lower() in SUFFIXES else safe


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
