"""What the spiders of all sites have in common: limits, fallbacks, and an account of what could not be had."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import scrapy
from scrapy import signals
from scrapy.crawler import Crawler
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response, TextResponse
from scrapy.spidermiddlewares.httperror import HttpError
from tqdm import tqdm
from twisted.python.failure import Failure

from gemmodel.core import files
from scraper import safe_names
from scraper.items import Picture
from scraper.middlewares import ANOTHER_HOST, NO_WEB_PAGE

MAX_GEMS = 2000  # of a list; the real ones have some 100
MAX_PICTURES = 500  # of a gem
MAX_IN_ALL = 50_000  # pictures of a site; each waits in memory for its turn
MAX_TEXT = 10_000  # characters of a property or of prose, which stand in the manifest with each picture
MAX_NAME = 1000  # characters of a gem's name
ENDLESS_TAG = re.compile(rb"<[^<>]{10000,}")  # lxml compares each of a tag's attributes with each other

ROBOTS = "forbidden by robots.txt"
LARGE = "larger than a photo"
NOWHERE = "redirects to no address of a web site"
# What Scrapy's and Twisted's errors mean to a person. A failure's reason must be the same each time.
REASONS = {
    "NoBrowserError": "the browser does not start",
    "NotFilledError": "not filled by its scripts in time",
    "DownloadTimeoutError": "no whole answer in time",
    "DownloadCancelledError": LARGE,
    "DownloadFailedError": "connection broken off",
    "ResponseDataLossError": "connection broken off",
    "DownloadConnectionRefusedError": "connection refused",
    "CannotResolveHostError": "host unknown",
    "Forbidden by robots.txt": ROBOTS,
    "max redirections reached": "redirects in a loop",
    "ValueError": NOWHERE,
    "BadGzipFile": "damaged on its way",
    "ZstdError": "damaged on its way",
    "error": "damaged on its way",  # zlib's and brotli's
}


@dataclass
class CrawlStats:
    """What a crawl tells, apart from the pictures.

    Attributes:
        pages: pages that were read.
        due: pages of gems that the list names.
        requests: sent to the site, without those that the cache answered.
        received: bytes of those answers' bodies.
        failures: URL and reason of each page or picture that could not be had.
        without_pictures: gems whose page has none.
        unmatched: markup that was not as expected, and how often.
        unreachable: why the list could not be had.
        disk_error: what ended a crawl that could keep nothing more.
    """

    pages: int = 0
    due: int = 0
    requests: int = 0
    received: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    without_pictures: list[str] = field(default_factory=list)
    unmatched: Counter[str] = field(default_factory=Counter)
    unreachable: str | None = None
    disk_error: OSError | None = None


class GemSpider(scrapy.Spider):
    """Goes from a list of gems over each gem's page to its pictures; a subclass knows one site's markup."""

    list_url: str
    page_meta: dict[str, Any] = {"download_maxsize": 16 * 2**20}  # noqa: RUF012  bytes; lxml needs ten times as much

    def __init__(
        self, list_url: str | None = None, only: Sequence[str] = (), max_per_gem: int | str = 0, **kwargs: Any
    ) -> None:
        """Sets what is crawled.

        Args:
            list_url: the page that lists the gems; nothing beyond its host is asked for.
            only: names of the gems to take, all when empty; on the command line separated by commas.
            max_per_gem: the first so many pictures of each gem, all when 0.
            **kwargs: see scrapy.Spider.
        """
        super().__init__(**kwargs)
        self.list_url = list_url or self.list_url
        self.only = {name.strip() for name in (only.split(",") if isinstance(only, str) else only)} - {""}
        self.max_per_gem = int(max_per_gem)
        self.findings = CrawlStats()
        self.folders: dict[str, str] = {}
        self.progress = tqdm(desc=f"crawl {self.name}", unit=" pictures", disable=None)
        self.expected = 0  # pictures of the gems whose pages have been read

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> "GemSpider":
        """Makes the spider and has it told of what really goes over the network."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.request_sent, signal=signals.request_reached_downloader)
        crawler.signals.connect(spider.bytes_received, signal=signals.bytes_received)
        return spider

    def request_sent(self) -> None:
        """Counts a request that the cache could not answer."""
        self.findings.requests += 1

    def bytes_received(self, data: bytes) -> None:
        """Counts what came of an answer."""
        self.findings.received += len(data)

    async def start(self) -> AsyncIterator[scrapy.Request]:
        """Asks for the list of gems."""
        yield scrapy.Request(self.list_url, self.parse, errback=self.list_failed, meta=self.page_meta)

    def gem_pages(self, found: dict[str, str], parse: Callable[..., Any]) -> Iterator[scrapy.Request]:
        """Asks for the pages of a list's gems, by name, as far as the limits allow.

        Pages come before pictures, so that the number of pictures is soon known.
        """
        for missing in sorted(self.only - set(found)):
            self.findings.unmatched[f"crawl.only: {missing} is not on the list"] += 1
        wanted = {gem[:MAX_NAME].strip(): url for gem, url in found.items() if not self.only or gem in self.only}
        if (beyond := len(wanted) - MAX_GEMS) > 0:
            self.findings.unmatched[f"list of more than {MAX_GEMS} gems: gem left out"] += beyond
        chosen = dict(list(wanted.items())[:MAX_GEMS])
        self.folders = safe_names.folder_names(chosen)
        self.findings.due = len(chosen)
        for gem, url in chosen.items():
            yield from self.ask(url, parse, priority=10, meta=self.page_meta, cb_kwargs={"gem": gem})

    def pictures(self, response: Response, about: dict[str, Any], found: dict[str, str]) -> Iterator[scrapy.Request]:
        """Asks for a gem's full pictures, as far as the limits allow.

        Args:
            response: the gem's page.
            about: what the page tells of the gem; part of each Picture.
            found: URL of the thumbnail by URL of the full picture; the same where there is no thumbnail.
        """
        self.findings.pages += 1
        if not found:
            self.findings.without_pictures.append(about["gem"])
        chosen = list(found.items())[: self.max_per_gem or None]
        if (beyond := len(chosen) - MAX_PICTURES) > 0:
            self.findings.unmatched[f"gem of more than {MAX_PICTURES} pictures: picture left out"] += beyond
        chosen = chosen[:MAX_PICTURES]
        if (beyond := self.expected + len(chosen) - MAX_IN_ALL) > 0:
            self.findings.unmatched[f"site of more than {MAX_IN_ALL} pictures: picture left out"] += beyond
            chosen = chosen[: MAX_IN_ALL - self.expected]
        for full, thumbnail in chosen:
            yield from self.ask(
                full,
                self.parse_picture,
                errback=self.failed if full == thumbnail else self.full_picture_failed,
                cb_kwargs={"about": about | {"folder": self.folders[about["gem"]], "page_url": response.url}},
                meta={"thumbnail": thumbnail},
            )
        self.expected += len(chosen)
        read = max(self.findings.pages - 1, 1)
        self.progress.total = round(self.expected * self.findings.due / read)  # an estimate until all pages are read
        self.show_progress()

    def join(self, response: Response, link: str) -> str | None:
        """Returns a page's link as a whole URL, or None, noted, where it is none."""
        try:
            return response.urljoin(link)
        except ValueError:
            self.note_failure(link, NO_WEB_PAGE)
            return None

    def show_progress(self, pictures: int = 0) -> None:
        """Shows how far the crawl is, after some more pictures."""
        gems = f"{max(self.findings.pages - 1, 0)}/{self.findings.due}"
        self.progress.set_postfix(gems=gems, failed=len(self.findings.failures), refresh=not pictures)
        self.progress.update(pictures)

    def ask(self, url: str, callback: Callable[..., Any], **more: Any) -> Iterator[scrapy.Request]:
        """Yields a request, or nothing where the link is no URL."""
        try:
            yield scrapy.Request(url, callback, **{"errback": self.failed, **more})
        except ValueError:
            self.note_failure(url, NO_WEB_PAGE)

    def parse_picture(self, response: Response, about: dict[str, Any], thumbnail: bool = False) -> Iterator[Picture]:
        """Yields the picture as it came."""
        self.show_progress(1)
        cached = "cached" in response.flags
        yield Picture(picture_url=response.url, body=response.body, thumbnail=thumbnail, cached=cached, **about)

    def full_picture_failed(self, failure: Failure) -> Iterator[scrapy.Request]:
        """Falls back to the thumbnail where the full picture is missing."""
        request: scrapy.Request = failure.request  # type: ignore[attr-defined]
        if isinstance(failure.value, HttpError) and failure.value.response.status in (404, 410):
            cb_kwargs = {**request.cb_kwargs, "thumbnail": True}
            yield from self.ask(request.meta["thumbnail"], self.parse_picture, cb_kwargs=cb_kwargs)
        else:
            self.failed(failure)

    def failed(self, failure: Failure) -> None:
        """Notes a page or picture that could not be had."""
        self.stop_if_disk_is_full(failure.value)
        if (why := reason(failure)) not in (ANOTHER_HOST, NO_WEB_PAGE):  # those have been noted
            self.note_failure(failure.request.url, why)  # type: ignore[attr-defined]

    def note_failure(self, url: str, why: str) -> None:
        """Notes something that could not be had, by its URL and the reason."""
        self.findings.failures.append({"url": url[:2000], "reason": why})

    def list_failed(self, failure: Failure) -> None:
        """Notes that there is nothing to crawl."""
        self.findings.unreachable = reason(failure)
        self.stop_if_disk_is_full(failure.value)

    def stop_if_disk_is_full(self, error: BaseException | None) -> None:
        """Ends a crawl that can keep nothing more."""
        if isinstance(error, OSError) and error.errno in files.DISK_FULL:
            self.findings.disk_error = error
            self.crawler.stop()

    def closed(self, reason: str) -> None:
        """Ends the progress bar."""
        self.progress.close()


def reason(failure: Failure) -> str:
    """Returns why a request failed, in words that are the same each time."""
    error = failure.value
    if isinstance(error, HttpError):
        redirect = error.response.status // 100 == 3 and "Location" in error.response.headers
        return NOWHERE if redirect else f"HTTP status {error.response.status}"
    if isinstance(error, IgnoreRequest):
        return LARGE if "exceeded DOWNLOAD_MAXSIZE" in str(error) else REASONS.get(str(error), str(error))
    return REASONS.get(type(error).__name__, type(error).__name__)


def text(response: Response) -> TextResponse:
    """Returns a page for CSS selectors, whatever its declared media type."""
    if isinstance(response, TextResponse) and not ENDLESS_TAG.search(response.body):
        return response
    encoding = response.encoding if isinstance(response, TextResponse) else None
    body = ENDLESS_TAG.sub(b"<", response.body)
    return TextResponse(response.url, body=body, request=response.request, encoding=encoding)
