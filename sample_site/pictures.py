"""Which pictures a gem's page lists, under which names, and the bytes behind them, defects included.

Besides its ordinary pictures the site has the defects of real ones: DEFECTS, each one picture more on a page:

    twin       the bytes of another gem's picture under a name of this gem
    shared     the very URL of another gem's picture
    rescaled   a smaller, recompressed copy of this gem's picture
    mirrored   a recompressed mirror image of this gem's picture
    copy       the bytes of this gem's picture under another name
    png        a PNG with transparency behind a .jpg name
    truncated  a JPEG that breaks off
    missing    only the thumbnail exists, the full picture is a 404
    html       the full picture is a web page
    private    a good picture below /private/, which robots.txt forbids
    rotated    a JPEG whose pixels lie on their side, with the EXIF orientation that rights them
    empty      a gem whose page has no pictures at all
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from sample_site.gems import GEMS, Gem
from sample_site.render.render import cutout, encode, jpeg, render, shape_of

IMAGES = "/gemstone/GemStoneImages/"
PRIVATE = "/private/"
THUMBNAIL = 120
BY_NAME = {gem.name: gem for gem in GEMS}


@dataclass(frozen=True)
class Defect:
    """Something wrong with the site.

    Attributes:
        kind: One of the kinds above.
        page: The gem whose page lists the picture.
        gem: The gem that it shows.
        number: Its number: below SPECIAL that of an ordinary picture, of which this is a copy.
        stem: Its file name without thumbnail suffix and extension.
    """

    kind: str
    page: str
    gem: str
    number: int
    stem: str


@dataclass(frozen=True)
class Picture:
    """A picture that a gem's page lists: what it shows, where it is, and what is wrong with it.

    Attributes:
        gem: The gem that it shows.
        number: What `render` makes it from, with the gem.
        stem: File name without thumbnail suffix and extension.
        suffix: What the thumbnail's file name has before its extension, `-t` or `-thb`.
        scripted: Whether the page asks `thumbnail.aspx` for the thumbnail.
        kind: Kind of defect, or "".
    """

    gem: str
    number: int
    stem: str
    suffix: str
    scripted: bool
    kind: str = ""

    @property
    def folder(self) -> str:
        """The path of the folder that holds the picture and its thumbnail."""
        return PRIVATE if self.kind == "private" else IMAGES

    @property
    def path(self) -> str:
        """The path of the full picture."""
        return f"{self.folder}{self.stem}.jpg"

    @property
    def thumbnail(self) -> str:
        """The path of the thumbnail."""
        return f"{self.folder}{self.stem}{self.suffix}.jpg"

    @property
    def src(self) -> str:
        """The picture's `src` as it stands on a page below /gemstone/."""
        relative = self.thumbnail.replace(IMAGES, "GemStoneImages/").replace(PRIVATE, "../private/")
        return f"thumbnail.aspx?image={relative}&size={THUMBNAIL}" if self.scripted else relative


SPECIAL = 1000  # numbers from here on are of pictures that exist as defects only
DEFECTS = (
    Defect("twin", "Spinel", "Ruby", 0, "spinel-red-oval"),
    Defect("twin", "Tanzanite", "Sapphire", 1, "Tanzanite_cushion_blue"),
    Defect("shared", "Sapphire", "Star Sapphire", 0, ""),
    Defect("rescaled", "Emerald", "Emerald", 0, "emerald-colombia-small"),
    Defect("rescaled", "Citrine", "Citrine", 1, "citrine-oval-web"),
    Defect("rescaled", "Turquoise", "Turquoise", 0, "TURQUOISE-cabochon-old"),
    Defect("mirrored", "Diamond", "Diamond", 1, "diamond-round-2nd"),
    Defect("copy", "Malachite", "Malachite", 0, "malachite-bands"),
    Defect("png", "Aquamarine", "Aquamarine", SPECIAL, "aquamarine-cutout"),
    Defect("truncated", "Amethyst", "Amethyst", SPECIAL, "amethyst-zambia-large"),
    Defect("missing", "Tanzanite", "Tanzanite", SPECIAL, "tanzanite-trillion-lost"),
    Defect("html", "Lapis Lazuli", "Lapis Lazuli", SPECIAL, "lapis-lazuli-bead"),
    Defect("private", "Ruby", "Ruby", SPECIAL, "ruby-laboratory"),
    Defect("rotated", "Tiger's Eye", "Tiger's Eye", SPECIAL, "tigers-eye-phone"),
    Defect("empty", "Painite", "Painite", 0, ""),
)


def ordinary(gem: Gem, number: int) -> Picture:
    """Return a gem's ordinary picture of a number: names and kinds of `src` take turns, as on the real site."""
    again = "" if number < 2 else f"-{number}"
    shape = shape_of(gem, number)
    stem = (
        f"{gem.slug.replace('_', '-')}-{gem.localities[number // 4 % len(gem.localities)]}{again}",
        f"{gem.slug.capitalize()}_{shape.replace(' ', '_')}_cut{again.replace('-', '_')}",
        f"{gem.slug.replace('_', '-').upper()}-{shape.replace(' ', '-')}{again}",
        f"{gem.slug.replace('_', '')}{number}",
    )[number % 4]
    return Picture(gem.name, number, stem, "-thb" if number % 4 in (1, 2) else "-t", number % 3 == 2)


def defects(count: int, gems: Sequence[Gem]) -> Iterator[Defect]:
    """Yield the defects of a site with some gems and `count` ordinary pictures of each."""
    names = {gem.name for gem in gems}
    for defect in DEFECTS:
        if {defect.page, defect.gem} <= names and (defect.number < count or defect.number >= SPECIAL):
            yield defect


def pictures(gem: Gem, count: int, gems: Sequence[Gem]) -> list[Picture]:
    """Return what a gem's page lists on a site with some gems and `count` ordinary pictures of each."""
    listed = [ordinary(gem, number) for number in range(count)] if gem.cuts else []
    for defect in defects(count, gems):
        if defect.page == gem.name and defect.kind == "shared":
            listed.append(ordinary(BY_NAME[defect.gem], defect.number))
        elif defect.page == gem.name and defect.kind != "empty":
            listed.append(Picture(defect.gem, defect.number, defect.stem, "-t", False, defect.kind))
    return listed


def content(picture: Picture, size: int = 0) -> tuple[str, bytes]:
    """Return a picture's media type and bytes, of its thumbnail where a size in pixels is given."""
    gem = BY_NAME[picture.gem]
    if size:
        small = render(gem, picture.number)
        small.thumbnail((size, size))
        return "image/jpeg", encode(small, quality=75)
    if picture.kind == "html":
        return "text/html; charset=utf-8", b"<html><body><p>This picture has moved.</p></body></html>"
    return "image/jpeg", _spoilt(picture, jpeg(gem, picture.number))


def _spoilt(picture: Picture, data: bytes) -> bytes:
    if picture.kind == "truncated":
        return data[: len(data) * 3 // 5]
    file = io.BytesIO()
    if picture.kind == "png":
        cutout(BY_NAME[picture.gem], picture.number).save(file, "PNG")
    elif picture.kind == "rotated":
        turned, exif = Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_90), Image.Exif()
        exif[0x0112] = 6  # Orientation: turn clockwise to see it upright
        turned.save(file, "JPEG", quality=90, exif=exif)
    elif picture.kind == "rescaled":
        whole = Image.open(io.BytesIO(data))
        return encode(whole.resize((whole.width * 3 // 4, whole.height * 3 // 4), Image.Resampling.LANCZOS), quality=65)
    elif picture.kind == "mirrored":
        return encode(Image.open(io.BytesIO(data)).transpose(Image.Transpose.FLIP_LEFT_RIGHT), quality=80)
    return file.getvalue() or data
