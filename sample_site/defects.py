"""What is wrong with the sample site: the defects of real sites, each one more picture on a page.

duplicate   the bytes of another gem's picture under a name of this gem
shared      the URL of another gem's picture
rescaled    a smaller, recompressed copy of this gem's picture
mirrored    a recompressed mirror image of this gem's picture
renamed     the bytes of this gem's picture under another name
png         a PNG with transparency behind a .jpg name
truncated   a JPEG that is cut off
missing     a thumbnail whose full picture is a 404
html        a web page in place of the full picture
private     a good picture below /private/, which robots.txt forbids
rotated     a JPEG with its pixels on their side, and the EXIF orientation that turns them upright
empty       a gem whose page has no pictures
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from sample_site.gems import Gem
from sample_site.render.scene import cutout, encode


@dataclass(frozen=True)
class Defect:
    """Something wrong with the site.

    Attributes:
        kind: One of the kinds above.
        page: The gem whose page lists the picture.
        gem: The gem that the picture shows.
        number: The picture's number; below EXTRA that of the ordinary picture that it copies.
        stem: Its file name without thumbnail suffix and extension.
    """

    kind: str
    page: str
    gem: str
    number: int
    stem: str


EXTRA = 1000  # pictures with this number or a higher one exist as defects only
DEFECTS = (
    Defect("duplicate", "Spinel", "Ruby", 0, "spinel-red-oval"),
    Defect("duplicate", "Tanzanite", "Sapphire", 1, "Tanzanite_cushion_blue"),
    Defect("shared", "Sapphire", "Star Sapphire", 0, ""),
    Defect("rescaled", "Emerald", "Emerald", 0, "emerald-colombia-small"),
    Defect("rescaled", "Citrine", "Citrine", 1, "citrine-oval-web"),
    Defect("rescaled", "Turquoise", "Turquoise", 0, "TURQUOISE-cabochon-old"),
    Defect("mirrored", "Diamond", "Diamond", 1, "diamond-round-2nd"),
    Defect("renamed", "Malachite", "Malachite", 0, "malachite-bands"),
    Defect("png", "Aquamarine", "Aquamarine", EXTRA, "aquamarine-cutout"),
    Defect("truncated", "Amethyst", "Amethyst", EXTRA, "amethyst-zambia-large"),
    Defect("missing", "Tanzanite", "Tanzanite", EXTRA, "tanzanite-trillion-lost"),
    Defect("html", "Lapis Lazuli", "Lapis Lazuli", EXTRA, "lapis-lazuli-bead"),
    Defect("private", "Ruby", "Ruby", EXTRA, "ruby-laboratory"),
    Defect("rotated", "Tiger's Eye", "Tiger's Eye", EXTRA, "tigers-eye-phone"),
    Defect("empty", "Painite", "Painite", 0, ""),
)


def site_defects(gems: Sequence[Gem], count: int) -> Iterator[Defect]:
    """Yields the defects of a site with some gems and `count` ordinary pictures of each."""
    names = {gem.name for gem in gems}
    for defect in DEFECTS:
        if {defect.page, defect.gem} <= names and (defect.number < count or defect.number >= EXTRA):
            yield defect


def apply(kind: str, gem: Gem, number: int, data: bytes) -> bytes:
    """Returns the bytes that a kind of defect makes of a gem's picture, which `data` holds as JPEG."""
    if kind == "truncated":
        return data[: len(data) * 3 // 5]
    file = io.BytesIO()
    if kind == "png":
        cutout(gem, number).save(file, "PNG")
    elif kind == "rotated":
        turned, exif = Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_90), Image.Exif()
        exif[0x0112] = 6  # Orientation: rotate clockwise to display
        turned.save(file, "JPEG", quality=90, exif=exif)
    elif kind == "rescaled":
        image = Image.open(io.BytesIO(data))
        return encode(image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS), quality=65)
    elif kind == "mirrored":
        return encode(Image.open(io.BytesIO(data)).transpose(Image.Transpose.FLIP_LEFT_RIGHT), quality=80)
    return file.getvalue() or data
