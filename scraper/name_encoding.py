"""The encoding of names in archives that do not tell it."""

import unicodedata
from collections.abc import Sequence

CODE_PAGES = {"cp437": "LATIN", "cp1252": "LATIN", "cp850": "LATIN", "cp866": "CYRILLIC", "cp1251": "CYRILLIC"}


def decode(names: Sequence[bytes]) -> tuple[list[str], list[str]]:
    """Decodes names of an unknown encoding: as UTF-8 where they are, else by the most plausible code page of all."""
    others = [name for name in names if _utf8(name) is None]
    if not others:
        return [name.decode() for name in names], []
    page = max(CODE_PAGES, key=lambda page: _plausibility(b"\n".join(others), page))
    guess = (
        f"{len(others)} names are in an unknown encoding; read as {page}, such as {others[0].decode(page, 'replace')}"
    )
    return [_utf8(name) or name.decode(page, "replace") for name in names], [guess]


def _utf8(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def _plausibility(text: bytes, page: str) -> float:
    """Returns the mean over the characters that are not ASCII: 1 for a letter of the page's script."""
    decoded = text.decode(page, "replace")
    scores = []
    for before, char in zip(" " + decoded, decoded, strict=False):
        if not char.isascii():
            letter = char.isalpha() and unicodedata.name(char, "").startswith(CODE_PAGES[page])
            scores.append(letter - (0.5 if letter and before.islower() and char.isupper() else 0))
    return sum(scores) / max(1, len(scores))
