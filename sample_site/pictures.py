"""Which pictures a gem's page lists, under which names, and the bytes behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sample_site import defects
from sample_site.gems import BY_NAME, Gem
from sample_site.render.scene import encode, jpeg, render, shape_of

IMAGES = "/gemstone/GemStoneImages/"
PRIVATE = "/private/"
THUMBNAIL = 120  # pixels, the longer side


@dataclass(frozen=True)
class Picture:
    """A picture that a gem's page lists: what it shows, where it is, and what is wrong with it.

    Attributes:
        gem: The gem that it shows.
        number: Seed of the picture, together with the gem.
        stem: File name without thumbnail suffix and extension.
        suffix: Suffix of the thumbnail's file name before its extension, `-t` or `-thb`.
        scripted: Whether the page requests the thumbnail from `thumbnail.aspx`.
        defect: Kind of defect, or "".
    """

    gem: str
    number: int
    stem: str
    suffix: str
    scripted: bool
    defect: str = ""

    @property
    def folder(self) -> str:
        """The path of the folder that holds the picture and its thumbnail."""
        return PRIVATE if self.defect == "private" else IMAGES

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
        """The picture's `src` on a page below /gemstone/."""
        relative = self.thumbnail.replace(IMAGES, "GemStoneImages/").replace(PRIVATE, "../private/")
        return f"thumbnail.aspx?image={relative}&size={THUMBNAIL}" if self.scripted else relative


def ordinary(gem: Gem, number: int) -> Picture:
    """Returns a gem's ordinary picture of a number; names and forms of `src` alternate, as on the real site."""
    ending = "" if number < 2 else f"-{number}"
    shape = shape_of(gem, number)
    stem = (
        f"{gem.slug.replace('_', '-')}-{gem.localities[number // 4 % len(gem.localities)]}{ending}",
        f"{gem.slug.capitalize()}_{shape.replace(' ', '_')}_cut{ending.replace('-', '_')}",
        f"{gem.slug.replace('_', '-').upper()}-{shape.replace(' ', '-')}{ending}",
        f"{gem.slug.replace('_', '')}{number}",
    )[number % 4]
    return Picture(gem.name, number, stem, "-thb" if number % 4 in (1, 2) else "-t", number % 3 == 2)


def pictures(gem: Gem, count: int, gems: Sequence[Gem]) -> list[Picture]:
    """Returns what a gem's page lists on a site with some gems and `count` ordinary pictures of each."""
    listed = [ordinary(gem, number) for number in range(count)] if gem.cuts else []
    for defect in defects.site_defects(gems, count):
        if defect.page == gem.name and defect.kind == "shared":
            listed.append(ordinary(BY_NAME[defect.gem], defect.number))
        elif defect.page == gem.name and defect.kind != "empty":
            listed.append(Picture(defect.gem, defect.number, defect.stem, "-t", False, defect.kind))
    return listed


def content(picture: Picture, thumbnail_size: int = 0) -> tuple[str, bytes]:
    """Returns a picture's media type and bytes, or its thumbnail's where a size in pixels is given."""
    gem = BY_NAME[picture.gem]
    if thumbnail_size:
        small = render(gem, picture.number)
        small.thumbnail((thumbnail_size, thumbnail_size))
        return "image/jpeg", encode(small, quality=75)
    if picture.defect == "html":
        return "text/html; charset=utf-8", b"<html><body><p>This picture has moved.</p></body></html>"
    return "image/jpeg", defects.apply(picture.defect, gem, picture.number, jpeg(gem, picture.number))
