"""Spellings of a class's name: which of them are one name, in folders and in the files that people write."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping


def readable(name: str) -> str:
    """Returns a name with escapes for bytes that are not text, which file names may hold."""
    return name.encode(errors="backslashreplace").decode()


def class_key(name: str) -> str:
    """Returns a key that is the same for two spellings of a class: other capitals, Unicode forms or spaces."""
    visible = "".join(
        char for char in readable(name) if char.isspace() or unicodedata.category(char) not in ("Cc", "Cf")
    )
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).casefold()).split())


def class_names(counts: Mapping[str, int]) -> dict[str, str]:
    """Returns the name of the class of each spelling: the spelling of most photos, composed and without outer spaces.

    Args:
        counts: the number of photos by spelling.
    """
    best: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        best.setdefault(class_key(name), " ".join(unicodedata.normalize("NFC", name).split()) or "unnamed")
    return {name: best[class_key(name)] for name in counts}


def matcher(names: Iterable[str]) -> Callable[[str], str | None]:
    """Returns a function that finds the one of some names, or paths of them, that another spelling stands for.

    It returns None for a spelling of none of them, and for one of several unless it is equal to one.
    """
    exact = set(names)
    by_key: dict[str, list[str]] = {}
    for name in exact:
        by_key.setdefault(class_key(name), []).append(name)

    def find(name: str) -> str | None:
        same = by_key.get(class_key(name), [])
        return name if name in exact else same[0] if len(same) == 1 else None

    return find
