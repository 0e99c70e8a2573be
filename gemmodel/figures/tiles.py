"""Photos laid out in rows, each with a frame and a caption."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

SIDE = 128  # pixels of a tile
GREEN, RED, GREY = "#2e9e4f", "#d1495b", "#c9c9c9"
Tile = tuple[Image.Image, str]


def thumbnail(path: Path, side: int = 256) -> Image.Image:
    """Returns a clean photo, RGB, scaled down to fit a square; a JPEG is decoded no larger than need be."""
    with Image.open(path) as picture:
        picture.thumbnail((side, side))
        return picture.convert("RGB")


def framed_tile(path: Path, frame: str, caption: str) -> Tile:
    """Returns a photo of SIDE pixels in a frame of a colour, with its caption."""
    return ImageOps.expand(thumbnail(path, SIDE - 6), 3, frame), caption


def contact_sheet(tiles: Sequence[tuple[Image.Image, str]], *, side: int = 128, columns: int = 8) -> Image.Image:
    """Lays photos out in rows, each with its caption below.

    Args:
        tiles: RGB pictures and captions, of a line or more.
        side: of a tile in pixels.
        columns: tiles a row.
    """
    gap, line = 6, 16
    lines = max(caption.count("\n") + 1 for _, caption in tiles)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + lines * line + gap) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for number, (picture, caption) in enumerate(tiles):
        row, column = divmod(number, columns)
        x, y = gap + column * (side + gap), gap + row * (side + lines * line + gap)
        small = picture.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        sheet.paste(small, (x + (side - small.width) // 2, y + (side - small.height) // 2))
        for place, text in enumerate(caption.split("\n")):
            while text and draw.textlength(text, font) > side:
                text = text[:-2].rstrip("…") + "…"
            draw.text((x + side / 2, y + side + 2 + place * line), text, "black", font, anchor="ma")
    return sheet


def sheet(tiles: Sequence[Tile], columns: int = 8) -> Image.Image:
    """Lays tiles of SIDE pixels out in rows; of none it says so."""
    tiles = tiles or [(Image.new("RGB", (SIDE, SIDE), "white"), "no such photo")]
    return contact_sheet(tiles, side=SIDE, columns=columns)
