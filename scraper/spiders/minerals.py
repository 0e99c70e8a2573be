"""The spider for minerals.net, and for any site with its page structure."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import scrapy
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response, TextResponse
from scrapy.spidermiddlewares.httperror import HttpError
from twisted.python.failure import Failure

from gemmodel.data import folders
from scraper.items import Picture

TABLE = "table#ctl00_ContentPlaceHolder1_DataList1"
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
THUMBNAIL_SUFFIX = re.compile(r"-(?:t|thb)(\.\w+)$", re.IGNORECASE)


@dataclass
class Findings:
    """What the crawl report tells, apart from the pictures."""

    pages: int = 0
    without_pictures: list[str] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    unmatched: Counter[str] = field(default_factory=Counter)
    unreachable: str | None = None
    disk_error: OSError | None = None


class MineralsSpider(scrapy.Spider):
    """Goes from the list of gemstones over each gem's page to its full pictures."""

    name = "minerals"
    list_url = "https://www.minerals.net/GemStoneMain.aspx"

    def __init__(
        self, list_url: str = list_url, only: Sequence[str] = (), max_per_gem: int | str = 0, **kwargs: Any
    ) -> None:
        """Sets what is crawled.

        Args:
            list_url: the page that lists the gems; nothing beyond its host is asked for.
            only: names of the gems to take, all when empty; on the command line separated by commas.
            max_per_gem: the first so many pictures of each gem, all when 0.
            **kwargs: see scrapy.Spider.
        """
        super().__init__(**kwargs)
        self.list_url = list_url
        self.allowed_domains = [str(urlsplit(list_url).hostname)]
        self.only = {name.strip() for name in (only.split(",") if isinstance(only, str) else only)} - {""}
        self.max_per_gem = int(max_per_gem)
        self.findings = Findings()

    async def start(self) -> AsyncIterator[scrapy.Request]:
        """Asks for the list of gems."""
        yield scrapy.Request(self.list_url, self.parse, errback=self.list_failed)

    def parse(self, response: Response, **_: Any) -> Iterator[scrapy.Request]:
        """Follows each gem of the list once, in either markup."""
        self.findings.pages += 1
        links = _text(response).css(f"{TABLE} a[href]")
        if not links:
            self.findings.unmatched["list without a table of gems"] += 1
            links = _text(response).css('a[href*="_gemstone.aspx"]')
        found: dict[str, str] = {}
        for link in links:
            gem = " ".join("".join(link.css("::text").getall()).split())
            if gem:
                found.setdefault(gem, response.urljoin(link.attrib["href"]))
        for missing in sorted(self.only - set(found)):
            self.findings.unmatched[f"crawl.only: {missing} is not on the list"] += 1
        for gem, url in found.items():
            if not self.only or gem in self.only:
                yield scrapy.Request(url, self.parse_gem, errback=self.failed, cb_kwargs={"gem": gem})

    def parse_gem(self, response: Response, gem: str) -> Iterator[scrapy.Request]:
        """Reads a gem's properties and asks for its full pictures."""
        page = _text(response)
        self.findings.pages += 1
        mineral_class = self.property_of(page, "MineralClass")
        if mineral_class is None:
            self.findings.unmatched["gem page without a mineral class"] += 1
        about = {
            "gem": gem,
            "page_url": response.url,
            "mineral_class": mineral_class,
            "properties": {name: value for name in PROPERTIES if (value := self.property_of(page, name))},
        }
        pictures: dict[str, str] = {}  # the thumbnail of each full picture; a page may list one in both forms
        for source in page.css(f"{TABLE} img::attr(src)").getall():
            thumbnail = response.urljoin(parse_qs(urlsplit(source).query).get("image", [source])[0])
            pictures.setdefault(THUMBNAIL_SUFFIX.sub(r"\1", thumbnail), thumbnail)
        if not pictures:
            self.findings.without_pictures.append(gem)
        for full, thumbnail in list(pictures.items())[: self.max_per_gem or None]:
            if full == thumbnail:
                self.findings.unmatched["picture without a thumbnail suffix"] += 1
            yield scrapy.Request(
                full,
                self.parse_picture,
                errback=self.failed if full == thumbnail else self.full_picture_failed,
                cb_kwargs={"about": about},
                meta={"thumbnail": thumbnail},
            )

    @staticmethod
    def property_of(page: TextResponse, name: str) -> str | None:
        """Returns a row's value from a gem's page, or None where the page lacks it."""
        cells = page.css(f"#ctl00_ContentPlaceHolder1_tr{name} td:nth-of-type(2) ::text").getall()
        return " ".join("".join(cells).split()) or None

    def parse_picture(self, response: Response, about: dict[str, Any], thumbnail: bool = False) -> Iterator[Picture]:
        """Yields the picture as it came."""
        yield Picture(picture_url=response.url, body=response.body, thumbnail=thumbnail, **about)

    def full_picture_failed(self, failure: Failure) -> Iterator[scrapy.Request]:
        """Falls back to the thumbnail where the full picture is missing."""
        request: scrapy.Request = failure.request  # type: ignore[attr-defined]
        if isinstance(failure.value, HttpError) and failure.value.response.status in (404, 410):
            yield scrapy.Request(
                request.meta["thumbnail"],
                self.parse_picture,
                errback=self.failed,
                cb_kwargs={**request.cb_kwargs, "thumbnail": True},
            )
        else:
            self.failed(failure)

    def failed(self, failure: Failure) -> None:
        """Counts a page or picture that could not be had, by reason."""
        self.findings.failed[reason(failure)] += 1
        self.stop_if_disk_is_full(failure.value)

    def list_failed(self, failure: Failure) -> None:
        """Notes that there is nothing to crawl."""
        self.findings.unreachable = reason(failure)
        self.stop_if_disk_is_full(failure.value)

    def stop_if_disk_is_full(self, error: BaseException | None) -> None:
        """Ends a crawl that can keep nothing more."""
        if isinstance(error, OSError) and error.errno in folders.FULL:
            self.findings.disk_error = error
            self.crawler.stop()


def reason(failure: Failure) -> str:
    """Returns why a request failed, in words that are the same each time."""
    error = failure.value
    if isinstance(error, HttpError):
        return f"HTTP status {error.response.status}"
    if isinstance(error, IgnoreRequest):
        return "forbidden by robots.txt" if "robots.txt" in str(error) else "leads to another host"
    return type(error).__name__


def _text(response: Response) -> TextResponse:
    """Returns a page for CSS selectors, whatever its declared media type."""
    if isinstance(response, TextResponse):
        return response
    return TextResponse(response.url, body=response.body, request=response.request)
