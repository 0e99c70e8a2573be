"""The spider for minerals.net, and for any site with its page structure."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import scrapy
from scrapy.http import Response, TextResponse
from scrapy.selector import SelectorList

from scraper.spiders.base import MAX_TEXT, GemSpider, text

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
    """Goes from the list of gemstones over each gem's page to its full pictures."""

    name = "minerals"
    list_url = "https://www.minerals.net/GemStoneMain.aspx"

    def parse(self, response: Response, **_: Any) -> Iterator[scrapy.Request]:
        """Follows each gem of the list once, in either markup."""
        self.findings.pages += 1
        links = _first(text(response), "DataList1").css("a[href]")
        if not links:
            self.findings.unmatched["list without a table of gems"] += 1
            links = text(response).css('a[href*="_gemstone.aspx"]')
        found: dict[str, str] = {}
        for link in links:
            gem = " ".join("".join(link.css("::text").getall()).split())
            if gem and (url := self.join(response, link.attrib["href"])):
                found.setdefault(gem, url)
        yield from self.gem_pages(found, self.parse_gem)

    def parse_gem(self, response: Response, gem: str) -> Iterator[scrapy.Request]:
        """Reads a gem's properties and asks for its full pictures."""
        page = text(response)
        mineral_class = self.property_of(page, "MineralClass")
        if mineral_class is None:
            self.findings.unmatched["gem page without a mineral class"] += 1
        prose = {name: _plain(_first(page, f"lbl{name}").css("::text").getall()) for name in PROSE}
        about = {
            "gem": gem,
            "mineral_class": mineral_class,
            "properties": {name: value for name in PROPERTIES if (value := self.property_of(page, name))},
            "prose": {name: told for name, told in prose.items() if told},
        }
        found: dict[str, str] = {}  # a page may list one picture in both forms
        for source in _first(page, "DataList1").css("img::attr(src)").getall():
            if thumbnail := self.join(response, _thumbnail(source)):
                full = THUMBNAIL_SUFFIX.sub(r"\1", thumbnail)
                found.setdefault(full, thumbnail)
                if full == thumbnail:
                    self.findings.unmatched["picture without a thumbnail suffix"] += 1
        yield from self.pictures(response, about, found)

    @staticmethod
    def property_of(page: TextResponse, name: str) -> str | None:
        """Returns a row's value from a gem's page, or None where the page lacks it."""
        return _plain(_first(page, f"tr{name}").css("td:nth-of-type(2) ::text").getall())


def _first(page: TextResponse, name: str) -> SelectorList:
    """Returns the one element of an id; of a hostile page's thousands, XPath would compare each with each."""
    return page.xpath(f"(//*[@id='{CONTENT}{name}'])[1]")


def _thumbnail(source: str) -> str:
    script, _, query = source.partition("?")
    return parse_qs(query).get("image", [source])[0] if script.endswith("thumbnail.aspx") else source


def _plain(texts: list[str]) -> str | None:
    return " ".join("".join(texts).split())[:MAX_TEXT].strip() or None
