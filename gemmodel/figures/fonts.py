"""Fonts for class names of any script: installed ones that have the letters, and Latin letters where none has.

Matplotlib's own font has Latin, Greek, Cyrillic, Hebrew and Arabic letters, but no Chinese, Thai or Devanagari ones.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from anyascii import anyascii
from matplotlib import font_manager
from matplotlib.font_manager import FontEntry
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

FIRST = "DejaVu Sans"  # comes with Matplotlib
PLACEHOLDERS = "Last Resort"  # Matplotlib's font of boxes, which has a glyph for every character
MAX_LENGTH = 40  # of a name in a plot, in characters
INVISIBLE = ("Cc", "Cf", "Zl", "Zp", "Zs")  # categories of Unicode without glyphs
PACKAGES = "fonts-noto-core and fonts-noto-cjk"  # of Debian and Ubuntu; docs/data.md names those of other systems


def legible(names: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """Returns names as Matplotlib can draw them, and the properties of a `matplotlib.text.Text` that shows them.

    Dollar signs are no formula. A letter that no installed font has is replaced by Latin ones, which is printed once.
    Long names are cut. Names that become equal by either are numbered.

    Args:
        names: of classes.

    Returns:
        The names in their order, and keyword arguments of `Axes.text`, `Axes.set_xticks` and the like.
    """
    names = list(names)
    entries, missing = _fallback(frozenset("".join(names)))
    texts = [_in_latin_letters(name, missing) for name in names]
    texts = [text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…" for text in texts]
    counts, uses, shown = Counter(texts), Counter[str](), []
    for name, text in zip(names, texts, strict=True):
        uses[text] += 1
        shown.append(f"{text} ({uses[text]})" if text != name and counts[text] > 1 else text)
    return shown, {"family": [FIRST, *(entry.name for entry in entries)], "parse_math": False}


def runs(text: str, size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Splits a line of text into parts with a Pillow font each that has all its letters.

    Args:
        text: one line. A letter that no installed font has is replaced by Latin ones, which is printed once.
        size: of the fonts in pixels.
    """
    if text.replace("…", "").isascii():  # Pillow's own font has these
        return [(text, _pillow_font(None, size))]
    entries, missing = _fallback(frozenset(text))
    fonts = [_first(), *entries]
    parts: list[tuple[str, FontEntry]] = []
    for char in _in_latin_letters(text, missing):
        if not parts or not _has(parts[-1][1], char):
            parts.append(("", next((font for font in fonts if _has(font, char)), fonts[0])))
        parts[-1] = parts[-1][0] + char, parts[-1][1]
    return [(part, _pillow_font(font, size)) for part, font in parts]


def width(text: str, size: int) -> float:
    """Returns the width of a line of text in pixels, as `draw` draws it."""
    return sum(font.getlength(part) for part, font in runs(text, size))


def draw(canvas: ImageDraw.ImageDraw, centre: float, top: float, text: str, size: int) -> None:
    """Draws a line of black text.

    Args:
        canvas: of the picture.
        centre: of the line, in pixels from the left.
        top: of the line, in pixels from the top.
        text: of any script.
        size: of the font in pixels.
    """
    parts = runs(text, size)
    left = centre - sum(font.getlength(part) for part, font in parts) / 2
    for part, font in parts:
        middle = left + font.getlength(part) / 2
        canvas.text((middle, top + parts[0][1].getmetrics()[0]), part, "black", font, anchor="ms")  # on one base line
        left += font.getlength(part)


@cache
def _fallback(chars: frozenset[str]) -> tuple[list[FontEntry], frozenset[str]]:
    """Returns the fonts for the characters that the first font lacks, and the characters that no font has."""
    missing = {char for char in chars if unicodedata.category(char) not in INVISIBLE and not _has(_first(), char)}
    chosen = []
    candidates = _installed() if missing else []
    while missing and candidates:
        best = max(candidates, key=lambda entry: sum(_has(entry, char) for char in missing))  # the first of equals
        covered = {char for char in missing if _has(best, char)}
        if not covered:
            break
        chosen.append(best)
        missing -= covered
    if missing:
        _print_missing(unicodedata.name(min(missing), "a private letter"))
    return chosen, frozenset(missing)


_printed: list[str] = []


def _print_missing(letter: str) -> None:
    """Prints once per process that letters are missing, and the remedy."""
    if not _printed:
        _printed.append(letter)
        print(f"no installed font has {letter}: pictures show Latin letters; install {PACKAGES}", flush=True)


def _in_latin_letters(name: str, missing: frozenset[str]) -> str:
    return "".join((anyascii(char) or f"U+{ord(char):04X}") if char in missing else char for char in name)


@cache
def _first() -> FontEntry:
    # The list has paths through links where the environment lies behind one.
    path = Path(font_manager.findfont(FIRST)).resolve()
    return next(entry for entry in font_manager.fontManager.ttflist if Path(entry.fname).resolve() == path)


@cache
def _installed() -> list[FontEntry]:
    """Returns the scalable fonts of this system, upright ones of regular weight without serifs first."""
    manager = font_manager.fontManager
    for path in set(font_manager.findSystemFonts()) - {entry.fname for entry in manager.ttflist}:
        with suppress(Exception):  # Matplotlib's list is a file, older than fonts installed since; not all can be read
            manager.addfont(path)
    entries = [entry for entry in manager.ttflist if PLACEHOLDERS not in entry.name and entry.size == "scalable"]
    return sorted(
        entries,
        key=lambda entry: (
            entry.style != "normal", abs(int(entry.weight) - 400), "Sans" not in entry.name, "Mono" in entry.name,
            entry.name, entry.index,
        ),
    )  # fmt: skip


@cache
def _face(path: str, index: int) -> FT2Font | None:
    with suppress(Exception):
        return FT2Font(path, face_index=index)
    return None


def _has(entry: FontEntry, char: str) -> bool:
    face = _face(entry.fname, entry.index)
    return face is not None and face.get_char_index(ord(char)) > 0


@cache
def _pillow_font(entry: FontEntry | None, size: int) -> ImageFont.FreeTypeFont:
    if entry is None:
        return ImageFont.load_default(size)  # type: ignore[return-value]  # with FreeType it is a FreeTypeFont
    return ImageFont.truetype(entry.fname, size, index=entry.index)
