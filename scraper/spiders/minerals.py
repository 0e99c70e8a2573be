"""The spider for minerals.net, and for any site with its page structure."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import scrapy
from parsel import SelectorList
from scrapy.http import Response, TextResponse
from w3lib.url import url_query_cleaner

from scraper.markup import PICTURE, as_html
from scraper.spiders.base import MAX_TEXT, GemSpider

CONTENT = "ctl00_ContentPlaceHolder1_"
PROPERTIES = (
    "ChemicalFormula",
    "Color",
    "Hardness",
    "CrystalSystem",
    "RefractiveIndex",
    "SG",
    "Transparency",
    "DoubleRefraction",
    "Luster",
    "Cleavage",
)
PROSE = ("AllAbout", "Uses", "Source")
# The site's own suffixes, and those that content management systems append.
THUMBNAIL_SUFFIX = re.compile(r"(?:[-_](?:t|th|thb|tn|thumb|thumbnail)|-\d{3,4}x\d{2,4})(\.\w+)$", re.IGNORECASE)
SIZES = ("w", "h", "width", "height", "size", "resize", "fit", "quality", "q")  # of a picture, as parameters


class MineralsSpider(GemSpider):
    """Crawls the list of gemstones, each gem's page and its full pictures."""

    name = "minerals"
    list_url = "https://www.minerals.net/GemStoneMain.aspx"

    def parse(self, response: Response, **_: Any) -> Iterator[scrapy.Request]:
        """Requests the page of each gem on the list, in either markup."""
        self.crawl_stats.pages += 1
        page = as_html(response)
        links = _first(page, "DataList1").css("a[href]")
        if not links:
            self.crawl_stats.unmatched["list without a table of gems"] += 1
            links = page.css('a[href*="_gemstone.aspx"]')
        yield from self.request_gem_pages(self.gem_urls(page, links), self.parse_gem)

    def parse_gem(self, response: Response, gem: str) -> Iterator[scrapy.Request]:
        """Reads a gem's properties and requests its full pictures."""
        page = as_html(response)
        mineral_class = self.property_of(page, "MineralClass")
        if mineral_class is None:
            self.crawl_stats.unmatched["gem page without a mineral class"] += 1
        prose = {name: _plain(_first(page, f"lbl{name}").css("::text").getall()) for name in PROSE}
        gem_fields = {
            "gem": gem,
            "mineral_class": mineral_class,
            "properties": {name: value for name in PROPERTIES if (value := self.property_of(page, name))},
            "prose": {name: text for name, text in prose.items() if text},
        }
        yield from self.request_pictures(page, _first(page, "DataList1"), gem_fields)

    def direct_link(self, link: str) -> str:
        """Returns the link to the picture that the site's script for thumbnails reads, or the link itself."""
        script, _, query = link.partition("?")
        if not script.lower().endswith("thumbnail.aspx"):
            return link
        return {name.lower(): values[0] for name, values in parse_qs(query).items()}.get("image", link)

    def full_picture(self, url: str) -> str:
        """Returns a picture's URL without the suffix and the size of a thumbnail; counts one that has neither."""
        parts = urlsplit(url_query_cleaner(url, SIZES, remove=True) if PICTURE.search(urlsplit(url).path) else url)
        full = parts._replace(path=THUMBNAIL_SUFFIX.sub(r"\1", parts.path)).geturl()
        if full == url:
            self.crawl_stats.unmatched["picture without a thumbnail suffix"] += 1
        return full

    @staticmethod
    def property_of(page: TextResponse, name: str) -> str | None:
        """Returns a row's value from a gem's page, or None where the page lacks it."""
        return _plain(_first(page, f"tr{name}").css("td:nth-of-type(2) ::text").getall())


def _first(page: TextResponse, name: str) -> SelectorList:
    """Returns the first element of an id; for thousands of them, on a hostile page, XPath takes quadratic time."""
    return page.xpath(f"(//*[@id='{CONTENT}{name}'])[1]")


def _plain(texts: list[str]) -> str | None:
    return " ".join("".join(texts).split())[:MAX_TEXT].strip() or None
