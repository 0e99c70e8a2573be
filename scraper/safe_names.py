"""File names that Linux, macOS and Windows accept, each for one picture only."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from pathvalidate import sanitize_filename

from gemmodel.core.image_folder import SUFFIXES, readable
from scraper.manifest import MANIFEST, SUMMARY

RESERVED = (MANIFEST, SUMMARY)  # files beside the gems' folders
MAX_LENGTH = 80  # of a name in characters; with a hash, in any script, below the 255 bytes of file systems
MAX_DEPTH = 8  # the innermost folders that a stored path keeps
BIDI_CONTROLS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # display a name as another one


def safe_name(name: str) -> str:
    """Returns a name that Linux, macOS and Windows accept, with a hash where the original had to be cut."""
    shown = "".join(char for char in readable(name) if not _is_invisible(char))
    safe, before = shown.replace("/", " ").replace("\\", " "), None
    while safe != before:  # one step may leave what another one removes
        before = safe
        safe = unicodedata.normalize("NFC", str(sanitize_filename(safe, platform="universal")).strip(" ."))
    if not safe or len(safe.encode()) > 2 * MAX_LENGTH:
        safe = f"{safe.encode()[:MAX_LENGTH].decode(errors='ignore').strip(' .') or 'unnamed'}-{_short_hash(name)}"
    return safe


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(char) in BIDI_CONTROLS


def folder_names(gems: Iterable[str]) -> dict[str, str]:
    """Returns a safe folder name for each gem; no two differ in capitals only, which some disks ignore."""
    names = {gem: safe_name(gem) for gem in sorted(set(gems))}
    for attempt in count():
        uses = Counter([*RESERVED, *map(name_key, names.values())])
        if max(uses.values()) == 1:
            break
        names = {
            gem: f"{name}-{_short_hash(gem + ' ' * attempt)}" if uses[name_key(name)] > 1 else name
            for gem, name in names.items()
        }
    return names


def is_photo(name: str) -> bool:
    """Returns whether a file has the suffix of an image."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def name_key(name: str) -> str:
    """Returns a key that is the same for two names that some disk takes for one."""
    return unicodedata.normalize("NFC", name.casefold())


def file_name(url: str) -> str:
    """Returns a picture's file name: the name in its URL, with a hash of the whole URL that makes it unique."""
    name = PurePosixPath(unquote(urlsplit(url).path.rsplit("/", 1)[-1]).replace("/", " "))
    stem = safe_name(name.stem).encode()[:MAX_LENGTH].decode(errors="ignore")
    suffix = safe_name(f"x{name.suffix[:8].lower()}").removeprefix("x")
    return f"{stem}-{_short_hash(url)}{suffix}"


def safe_path(folder: str, path: PurePosixPath, *, salt: str = "") -> str:
    """Returns a photo's path below a folder, each part safe; the name gets the hash of `salt` where one is given."""
    name = safe_name(path.stem) + (f"-{_short_hash(salt)}" if salt else "") + path.suffix
    return PurePosixPath(folder, *map(_inner_folder, path.parent.parts[-MAX_DEPTH:]), name).as_posix()


def _inner_folder(name: str) -> str:
    """Returns a safe folder name that cannot be the name of a photo beside it."""
    safe = safe_name(name)
    return f"{safe}_" if PurePosixPath(safe).suffix.lower() in SUFFIXES else safe


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
