"""Contact sheets: photos in rows, each with a frame and a caption."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from gemmodel.images import decode

SIDE = 128  # pixels of a tile
FONT = 11  # pixels
GREEN, RED, GREY = "#2e9e4f", "#d1495b", "#c9c9c9"
Tile = tuple[Image.Image, str]


def thumbnail(path: Path, side: int = 256) -> Image.Image:
    """Returns a photo in sRGB, scaled down to fit a square."""
    return decode.thumbnail(path, side)


def framed_tile(path: Path, frame: str, caption: str) -> Tile:
    """Returns a photo of at most SIDE pixels, its frame of a colour included, and its caption."""
    return ImageOps.expand(thumbnail(path, SIDE - 6), 3, frame), caption


def contact_sheet(tiles: Sequence[Tile], *, side: int = SIDE, columns: int = 8, note: str = "") -> Image.Image:
    """Arranges photos in rows, each with its caption below.

    Args:
        tiles: RGB pictures and captions, of one line or several.
        side: of a tile in pixels.
        columns: tiles per row.
        note: a last line below all, such as what is left out.
    """
    from gemmodel.figures import fonts  # imports Matplotlib, which the web page's thumbnails can do without

    gap, line_height = 6, 16
    lines = max(caption.count("\n") + 1 for _, caption in tiles)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = columns * (side + gap) + gap, rows * (side + lines * line_height + gap) + gap
    picture = Image.new("RGB", (width, height + (line_height + gap if note else 0)), "white")
    canvas = ImageDraw.Draw(picture)
    if note:
        fonts.draw(canvas, width / 2, height, note, FONT)
    for i, (photo, caption) in enumerate(tiles):
        row, column = divmod(i, columns)
        x, y = gap + column * (side + gap), gap + row * (side + lines * line_height + gap)
        scaled = photo.copy()
        scaled.thumbnail((side, side), Image.Resampling.LANCZOS)
        picture.paste(scaled, (x + (side - scaled.width) // 2, y + (side - scaled.height) // 2))
        for line, text in enumerate(caption.split("\n")):
            while text and fonts.width(text, FONT) > side:
                text = text[:-2].rstrip("…") + "…"
            fonts.draw(canvas, x + side / 2, y + side + 2 + line * line_height, text, FONT)
    return picture


def sheet(tiles: Sequence[Tile], columns: int = 8, *, note: str = "") -> Image.Image:
    """Arranges tiles of SIDE pixels in rows, above a note; without tiles, the picture says so."""
    tiles = tiles or [(Image.new("RGB", (SIDE, SIDE), "white"), "no such photo")]
    return contact_sheet(tiles, columns=columns, note=note)
