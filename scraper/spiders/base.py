"""What the spiders of all sites share: limits, fallbacks, and statistics of what failed."""

import io
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urldefrag

import scrapy
from parsel import SelectorList
from scrapy import signals
from scrapy.crawler import Crawler
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response, TextResponse
from scrapy.spidermiddlewares.httperror import HttpError
from tqdm import tqdm
from twisted.python.failure import Failure

from gemmodel.core.errors import DISK_FULL, DataError, did_you_mean
from gemmodel.core.image_folder import class_key
from gemmodel.images import decode
from scraper import markup, safe_names
from scraper.items import Picture
from scraper.middlewares import NOT_A_WEB_ADDRESS, OTHER_HOST, UnreadRobotsError, same_site

MAX_GEMS = 2000  # of a list; the real ones have some 100
MAX_GEM_PICTURES = 500
MAX_FORMS = 10  # of a picture
MAX_SITE_PICTURES = 50_000  # each is a request in memory until its turn
MAX_TEXT = 10_000  # characters of a property or of prose; the manifest repeats both for each picture
MAX_NAME = 1000  # characters of a gem's name

MISSING = {403, 404, 410}  # statuses of a picture that does not exist; some stores answer 403
ROBOTS = "forbidden by robots.txt"
TOO_LARGE = "larger than a photo"
BAD_REDIRECT = "redirects to no web address"
REDIRECT_LOOP = "redirects in a loop"
# The reason that the report gives for each of Scrapy's and Twisted's errors, the same in every crawl.
REASONS = {
    "NoBrowserError": "the browser does not start",
    "NotFilledError": "not filled by its scripts in time",
    "DownloadTimeoutError": "timed out",
    "DownloadCancelledError": TOO_LARGE,
    "DownloadFailedError": "connection lost",
    "ResponseDataLossError": "connection lost",
    "DownloadConnectionRefusedError": "connection refused",
    "CannotResolveHostError": "host unknown",
    "Forbidden by robots.txt": ROBOTS,
    "max redirections reached": REDIRECT_LOOP,
    "ValueError": BAD_REDIRECT,
    "BadGzipFile": "damaged in transfer",
    "ZstdError": "damaged in transfer",
    "error": "damaged in transfer",  # zlib's and brotli's
}


@dataclass
class CrawlStats:
    """Statistics of a crawl, apart from the pictures themselves.

    Attributes:
        pages: number of pages that were read.
        expected_pages: number of gems' pages that the list names.
        requests: number of requests sent to the site, without those that the cache answered.
        received_bytes: size of the responses' bodies.
        failures: URL and reason of each page or picture that could not be downloaded.
        failed_pages: number of gems' pages among them, by reason.
        unusable: URL and reason of each download that is not an image.
        without_pictures: gems whose page has none.
        unmatched: number of times that a kind of markup was not as expected.
        list_error: why the list of gems could not be downloaded.
        disk_error: the error that ended the crawl because the disk is full.
    """

    pages: int = 0
    expected_pages: int = 0
    requests: int = 0
    received_bytes: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    failed_pages: Counter[str] = field(default_factory=Counter)
    unusable: list[dict[str, str]] = field(default_factory=list)
    without_pictures: list[str] = field(default_factory=list)
    unmatched: Counter[str] = field(default_factory=Counter)
    list_error: str | None = None
    disk_error: OSError | None = None


class GemSpider(scrapy.Spider):
    """Crawls a list of gems, each gem's page and its pictures; a subclass reads the markup of one site."""

    list_url: str
    page_meta: dict[str, Any] = {"download_maxsize": 16 * 2**20}  # noqa: RUF012  bytes; lxml needs ten times as much
    list_meta = page_meta

    def __init__(
        self, list_url: str | None = None, only: Sequence[str] = (), max_per_gem: int | str = 0, **kwargs: Any
    ) -> None:
        """Sets what is crawled.

        Args:
            list_url: the page that lists the gems; the crawl does not leave its host.
            only: names of the requested gems, all when empty; on the command line separated by commas.
            max_per_gem: number of pictures per gem, the first ones of its page; all when 0.
            **kwargs: see scrapy.Spider.
        """
        super().__init__(**kwargs)
        self.list_url = list_url or self.list_url
        self.only = {name.strip() for name in (only.split(",") if isinstance(only, str) else only)} - {""}
        self.max_per_gem = int(max_per_gem)
        self.crawl_stats = CrawlStats()
        self.folders: dict[str, str] = {}
        self.progress = tqdm(desc=f"crawl {self.name}", unit=" pictures", disable=None)
        self.expected_pictures = 0  # of the gems whose pages have been read

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> "GemSpider":
        """Creates the spider and has it count what goes over the network."""
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider.request_sent, signal=signals.request_reached_downloader)
        crawler.signals.connect(spider.bytes_received, signal=signals.bytes_received)
        return spider

    def request_sent(self) -> None:
        """Counts a request that the cache could not answer."""
        self.crawl_stats.requests += 1

    def bytes_received(self, data: bytes) -> None:
        """Counts the bytes of a response."""
        self.crawl_stats.received_bytes += len(data)

    async def start(self) -> AsyncIterator[scrapy.Request]:
        """Requests the list of gems."""
        meta = self.list_meta | {"is_list": True}  # for the cache
        yield scrapy.Request(self.list_url, self.parse, errback=self.list_request_failed, meta=meta)

    def gem_urls(self, page: TextResponse, links: SelectorList) -> dict[str, str]:
        """Returns the page's URL by the name of each gem; counts links that do not name a new gem and its page.

        Args:
            page: the list of gems.
            links: its links to gems; the text of a link is the gem's name.
        """
        base = markup.base_url(page)
        names = [" ".join("".join(link.css("::text").getall()).split()) for link in links]
        targets = [link.attrib["href"].strip() for link in links]
        urls: dict[str, str] = {}
        for gem, target in zip(names, targets, strict=True):
            url = self.join(page, base, target) if gem else None
            if url and urldefrag(url)[0] != page.url and urls.setdefault(gem, url) != url:  # "#" opens a menu
                self.crawl_stats.unmatched["gem listed again with another page, which is not read"] += 1
        named = {target for gem, target in zip(names, targets, strict=True) if gem}
        if nameless := len(set(targets) - named):
            self.crawl_stats.unmatched["link of the list without a name, which is not read"] += nameless
        return urls

    def request_gem_pages(self, urls: dict[str, str], parse: Callable[..., Any]) -> Iterator[scrapy.Request]:
        """Requests the pages of the gems on the list, within the limits.

        Pages come before pictures, so that the number of pictures is soon known.

        Args:
            urls: the page's URL by the gem's name.
            parse: the callback; it gets the page, and the gem's name as `gem`.
        """
        only = {class_key(gem): gem for gem in self.only}
        listed = {gem: class_key(gem) for gem in urls}
        for missing in sorted(set(only) - set(listed.values())):
            hint = did_you_mean(only[missing], urls)
            self.crawl_stats.unmatched[f"crawl.only: {only[missing]} is not on the list{hint}"] += 1
        chosen = {gem[:MAX_NAME].strip(): url for gem, url in urls.items() if not only or listed[gem] in only}
        if (excess := len(chosen) - MAX_GEMS) > 0:
            self.crawl_stats.unmatched[f"list of more than {MAX_GEMS} gems: gem skipped"] += excess
        chosen = dict(list(chosen.items())[:MAX_GEMS])
        self.folders = safe_names.folder_names(chosen)
        self.crawl_stats.expected_pages = len(chosen)
        for gem, url in chosen.items():
            options = {"errback": self.page_failed, "meta": self.page_meta, "cb_kwargs": {"gem": gem}}
            yield from self.request(url, parse, priority=10, **options)

    def direct_link(self, link: str) -> str:
        """Returns a link to a picture; on a site where a script sends pictures, the link to the file behind it."""
        return link

    def full_picture(self, url: str) -> str:
        """Returns the URL of the full picture, given that of its thumbnail; the same where the site has no rule."""
        return url

    def request_pictures(
        self, page: TextResponse, container: SelectorList, gem_fields: dict[str, Any]
    ) -> Iterator[scrapy.Request]:
        """Requests a gem's full pictures, within the limits.

        Args:
            page: the gem's page.
            container: the element of the page that holds its pictures.
            gem_fields: fields of each Picture that the page gives: `gem`, and on some sites its properties.
        """
        self.crawl_stats.pages += 1
        base = markup.base_url(page)
        pictures: dict[str, list[str]] = {}  # by the best form, which a page may list several times
        derived: set[str] = set()  # URLs that follow from the site's rule, not from the page
        for links in markup.picture_links(container, self.crawl_stats.unmatched):
            forms = [url for link in links.forms if (url := self.join(page, base, self.direct_link(link)))]
            if forms and (full := self.full_picture(forms[0])) not in forms:
                derived.add(full)
            around = [url] if links.around and (url := self.join(page, base, links.around)) else []
            if urls := list(dict.fromkeys([*around, *([full] if forms else []), *forms])):
                pictures.setdefault(urls[0], urls[:MAX_FORMS])
        if not pictures:
            self.crawl_stats.without_pictures.append(gem_fields["gem"])
            if page.css('meta[property="og:image"]'):  # often the site's logo
                self.crawl_stats.unmatched["og:image of a page without pictures, which is not read"] += 1
        if page.css('[rel~="next"]'):
            self.crawl_stats.unmatched["next page of a gem, which is not read"] += 1
        chosen = list(pictures.values())[: self.max_per_gem or None]
        if (excess := len(chosen) - MAX_GEM_PICTURES) > 0:
            self.crawl_stats.unmatched[f"gem of more than {MAX_GEM_PICTURES} pictures: picture skipped"] += excess
        chosen = chosen[:MAX_GEM_PICTURES]
        if (excess := self.expected_pictures + len(chosen) - MAX_SITE_PICTURES) > 0:
            self.crawl_stats.unmatched[f"site of more than {MAX_SITE_PICTURES} pictures: picture skipped"] += excess
            chosen = chosen[: MAX_SITE_PICTURES - self.expected_pictures]
        for forms in chosen:
            fields = gem_fields | {"folder": self.folders[gem_fields["gem"]], "page_url": page.url}
            yield from self.request_picture(fields, forms, derived=forms[0] in derived)
        self.expected_pictures += len(chosen)
        pages_read = max(self.crawl_stats.pages - 1, 1)
        # an estimate until all pages are read
        self.progress.total = round(self.expected_pictures * self.crawl_stats.expected_pages / pages_read)
        self.show_progress()

    def join(self, page: TextResponse, base: str, link: str) -> str | None:
        """Returns a page's link as an absolute URL, or None for one that is invalid, which it records."""
        try:
            return markup.absolute(page, base, link)
        except ValueError:
            self.record_failure(link, NOT_A_WEB_ADDRESS)
            return None

    def show_progress(self, pictures: int = 0) -> None:
        """Updates the progress bar after some more pictures."""
        gems = f"{max(self.crawl_stats.pages - 1, 0)}/{self.crawl_stats.expected_pages}"
        failed = len(self.crawl_stats.failures) + len(self.crawl_stats.unusable)
        self.progress.set_postfix(gems=gems, failed=failed, refresh=not pictures)
        self.progress.update(pictures)

    def request(self, url: str, callback: Callable[..., Any], **options: Any) -> Iterator[scrapy.Request]:
        """Yields a request, or nothing for an invalid URL, which it records."""
        try:
            yield scrapy.Request(url, callback, **{"errback": self.request_failed, **options})
        except ValueError:
            self.record_failure(url, NOT_A_WEB_ADDRESS)

    def parse_picture(
        self, response: Response, fields: dict[str, Any], smaller: Sequence[str], derived: bool, thumbnail: bool
    ) -> Iterator[Picture | scrapy.Request]:
        """Yields the picture with its original bytes, or requests a smaller form where a link led to something else.

        Args:
            response: the picture.
            fields: fields of the Picture.
            smaller: URLs of its other forms, the best first.
            derived: whether the URL follows from the site's rule, so that another response means a picture taken down.
            thumbnail: whether better forms do not exist.
        """
        if smaller and not derived and not _is_image(response.body):
            self.crawl_stats.unmatched["link to a picture that leads to something else"] += 1
            yield from self.request_picture(fields, smaller, thumbnail=True)
            return
        self.show_progress(1)
        cached = "cached" in response.flags
        url = markup.without_session(response.url)
        yield Picture(picture_url=url, body=response.body, thumbnail=thumbnail, cached=cached, **fields)

    def request_picture(
        self, fields: dict[str, Any], forms: Sequence[str], *, derived: bool = False, thumbnail: bool = False
    ) -> Iterator[scrapy.Request]:
        """Requests the best form of a picture that lies on this site; see `parse_picture`."""
        here = [url for url in forms if same_site(url, self.list_url)] or forms[:1]
        if here[0] != forms[0]:
            self.record_failure(forms[0], OTHER_HOST)
            derived, thumbnail = False, True
        cb_kwargs = {"fields": fields, "smaller": here[1:], "derived": derived, "thumbnail": thumbnail}
        yield from self.request(here[0], self.parse_picture, errback=self.picture_failed, cb_kwargs=cb_kwargs)

    def picture_failed(self, failure: Failure) -> Iterator[scrapy.Request]:
        """Falls back to a smaller form of a picture that does not exist."""
        request: scrapy.Request = failure.request  # type: ignore[attr-defined]
        missing = isinstance(failure.value, HttpError) and failure.value.response.status in MISSING
        if missing and request.cb_kwargs["smaller"]:
            yield from self.request_picture(request.cb_kwargs["fields"], request.cb_kwargs["smaller"], thumbnail=True)
        else:
            self.request_failed(failure)

    def page_failed(self, failure: Failure) -> None:
        """Records a gem's page that could not be downloaded."""
        self.crawl_stats.failed_pages[failure_reason(failure)] += 1
        self.request_failed(failure)

    def request_failed(self, failure: Failure) -> None:
        """Records a page or picture that could not be downloaded."""
        self.stop_if_disk_is_full(failure.value)
        if (reason := failure_reason(failure)) not in (OTHER_HOST, NOT_A_WEB_ADDRESS):  # recorded already
            self.record_failure(failure.request.url, reason)  # type: ignore[attr-defined]

    def record_failure(self, url: str, reason: str) -> None:
        """Records a page or picture that could not be downloaded."""
        self.crawl_stats.failures.append({"url": url[:2000], "reason": reason})

    def record_unusable(self, url: str, reason: str) -> None:
        """Records a download that is not an image."""
        self.crawl_stats.unusable.append({"url": url[:2000], "reason": reason})

    def list_request_failed(self, failure: Failure) -> None:
        """Records that there is nothing to crawl."""
        self.crawl_stats.list_error = failure_reason(failure)
        if isinstance(failure.value, UnreadRobotsError):
            self.crawl_stats.list_error += ", which forbids all of the site; run the crawl again later"
        self.stop_if_disk_is_full(failure.value)

    def stop_if_disk_is_full(self, error: BaseException | None) -> None:
        """Stops the crawl after an error that means a full disk."""
        if isinstance(error, UnreadRobotsError):
            error = error.__cause__
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            self.crawl_stats.disk_error = error
            self.crawler.stop()

    def closed(self, reason: str) -> None:
        """Closes the progress bar."""
        self.progress.close()


def failure_reason(failure: Failure) -> str:
    """Returns why a request failed: plain words, the same in every crawl."""
    error = failure.value
    if isinstance(error, UnreadRobotsError):
        return f"robots.txt could not be read: {failure_reason(Failure(error.__cause__))}"
    if isinstance(error, HttpError):
        redirect = error.response.status // 100 == 3 and "Location" in error.response.headers
        return BAD_REDIRECT if redirect else f"HTTP status {error.response.status}"
    if isinstance(error, IgnoreRequest):
        return TOO_LARGE if "exceeded DOWNLOAD_MAXSIZE" in str(error) else REASONS.get(str(error), str(error))
    return REASONS.get(type(error).__name__, type(error).__name__)


def _is_image(body: bytes) -> bool:
    try:
        decode.header(io.BytesIO(body))
    except DataError:
        return False
    return True
