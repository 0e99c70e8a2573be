"""Contact sheets: photos in rows, each with a frame and a caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from gemmodel.images import decode

SIDE = 128  # pixels of a tile
FONT = 11  # pixels
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#c9c9c9"  # of Okabe and Ito: different to colour-blind people, too
RIGHT, WRONG, EXAMPLE = BLUE, ORANGE, GREY  # frames; the first two have a mark, a tick or a cross
MARK = 20  # pixels of a mark
STROKES: dict[str, list[tuple[float, ...]]] = {
    RIGHT: [(0.22, 0.55, 0.42, 0.74, 0.8, 0.28)],
    WRONG: [(0.26, 0.26, 0.74, 0.74), (0.26, 0.74, 0.74, 0.26)],
}
Tile = tuple[Image.Image, str]


def thumbnail(path: Path, side: int = 256) -> Image.Image:
    """Returns a photo in sRGB, scaled down to fit a square."""
    return decode.thumbnail(path, side)


def framed_tile(path: Path, frame: str, caption: str) -> Tile:
    """Returns a photo of at most SIDE pixels, and its caption. The frame, and its mark if it has one, are included."""
    photo = ImageOps.expand(thumbnail(path, SIDE - 6), 3, frame)
    if frame in STROKES:
        mark = Image.new("RGB", (4 * MARK, 4 * MARK), frame)  # scaled down for smooth strokes
        for stroke in STROKES[frame]:
            ImageDraw.Draw(mark).line([4 * MARK * x for x in stroke], "white", 4 * MARK // 7, joint="curve")
        photo.paste(mark.resize((MARK, MARK), Image.Resampling.LANCZOS), (photo.width - MARK, 0))
    return photo, caption


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


@dataclass(frozen=True)
class Gallery:
    """Photos with captions, for a picture and for a page.

    Attributes:
        tiles: the photos; a page leaves out those without a caption, which fill a row.
        columns: photos per row of the picture.
        side: of a photo in pixels.
        note: a last line below all, such as what is left out.
        group: the number of photos that belong together on a page; 0: all of them.
    """

    tiles: Sequence[Tile]
    columns: int = 8
    side: int = SIDE
    note: str = ""
    group: int = 0

    def __post_init__(self) -> None:
        """Scales larger photos down."""
        fitting = [(ImageOps.contain(p, (self.side,) * 2) if max(p.size) > self.side else p, c) for p, c in self.tiles]
        object.__setattr__(self, "tiles", fitting)

    def picture(self) -> Image.Image:
        """Returns the photos in rows, each above its caption; without photos, the picture says so."""
        return sheet(self.tiles, self.columns, side=self.side, note=self.note)


def sheet(tiles: Sequence[Tile], columns: int = 8, *, side: int = SIDE, note: str = "") -> Image.Image:
    """Arranges tiles of `side` pixels in rows, above a note; without tiles, the picture says so."""
    tiles = tiles or [(Image.new("RGB", (SIDE, SIDE), "white"), "no such photo")]
    return contact_sheet(tiles, side=side, columns=columns, note=note)
