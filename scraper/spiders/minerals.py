"""The spider for minerals.net, and for any site with its page structure."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import scrapy
from scrapy.http import Response, TextResponse
from scrapy.selector import SelectorList

from scraper.spiders.base import MAX_TEXT, GemSpider, as_html

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
THUMBNAIL_SUFFIX = re.compile(r"-(?:t|thb)(\.\w+)$", re.IGNORECASE)


class MineralsSpider(GemSpider):
    """Crawls the list of gemstones, each gem's page and its full pictures."""

    name = "minerals"
    list_url = "https://www.minerals.net/GemStoneMain.aspx"

    def parse(self, response: Response, **_: Any) -> Iterator[scrapy.Request]:
        """Requests the page of each gem on the list, in either markup."""
        self.crawl_stats.pages += 1
        links = _first(as_html(response), "DataList1").css("a[href]")
        if not links:
            self.crawl_stats.unmatched["list without a table of gems"] += 1
            links = as_html(response).css('a[href*="_gemstone.aspx"]')
        urls: dict[str, str] = {}
        for link in links:
            gem = " ".join("".join(link.css("::text").getall()).split())
            if gem and (url := self.join(response, link.attrib["href"])):
                urls.setdefault(gem, url)
        yield from self.request_gem_pages(urls, self.parse_gem)

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
        thumbnails: dict[str, str] = {}  # by full picture, which a page may list in both forms
        for source in _first(page, "DataList1").css("img::attr(src)").getall():
            if thumbnail := self.join(response, _thumbnail(source)):
                full = THUMBNAIL_SUFFIX.sub(r"\1", thumbnail)
                thumbnails.setdefault(full, thumbnail)
                if full == thumbnail:
                    self.crawl_stats.unmatched["picture without a thumbnail suffix"] += 1
        yield from self.request_pictures(response, gem_fields, thumbnails)

    @staticmethod
    def property_of(page: TextResponse, name: str) -> str | None:
        """Returns a row's value from a gem's page, or None where the page lacks it."""
        return _plain(_first(page, f"tr{name}").css("td:nth-of-type(2) ::text").getall())


def _first(page: TextResponse, name: str) -> SelectorList:
    """Returns the first element of an id; for thousands of them, on a hostile page, XPath takes quadratic time."""
    return page.xpath(f"(//*[@id='{CONTENT}{name}'])[1]")


def _thumbnail(source: str) -> str:
    script, _, query = source.partition("?")
    return parse_qs(query).get("image", [source])[0] if script.endswith("thumbnail.aspx") else source


def _plain(texts: list[str]) -> str | None:
    return " ".join("".join(texts).split())[:MAX_TEXT].strip() or None
