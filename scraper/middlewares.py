"""Downloader middlewares: the crawl stays on one site, obeys its robots.txt, and pauses when the site demands it."""

import asyncio
import logging
import math
import time
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, urlsplit

from scrapy import Request, Spider, signals
from scrapy.crawler import Crawler
from scrapy.downloadermiddlewares.offsite import OffsiteMiddleware
from scrapy.downloadermiddlewares.redirect import MetaRefreshMiddleware
from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response
from scrapy.robotstxt import RobotParser
from scrapy.utils.httpobj import urlparse_cached
from w3lib.encoding import read_bom

MAX_RETRY_AFTER = 600.0  # seconds
MAX_ROBOTS = 500 * 1024  # bytes of a robots.txt that are read, the least that RFC 9309 demands
REDIRECTED = "max redirections reached"  # Scrapy's message
OTHER_HOST = "leads to another host"
NOT_A_WEB_ADDRESS = "not a web address"
PORTS = {"http": 80, "https": 443}
logger = logging.getLogger(__name__)


def same_site(url: str, site: str) -> bool:
    """Tells whether a URL lies on a site: the same host, with or without www., by HTTP or HTTPS, on no other port."""
    try:
        target, home = urlsplit(url), urlsplit(site)
        ports = {_port(home)} | (set(PORTS.values()) if _port(home) in PORTS.values() else set())
        is_web = target.scheme in PORTS and "@" not in target.netloc  # a user name is there to mislead
        return is_web and _host(target) == _host(home) and _port(target) in ports
    except ValueError:  # not a URL
        return False


def _host(url: SplitResult) -> str:
    return str(url.hostname).removeprefix("www.")


def _port(url: SplitResult) -> int | None:
    return url.port or PORTS.get(url.scheme)


class SameSiteMiddleware(OffsiteMiddleware):
    """Drops every request that leaves the spider's site, be it a link or a redirect, and records it as a failure.

    Scrapy's own middleware ignores ports and schemes, and lets retried requests through.
    """

    def process_request(self, request: Request, spider: Spider | None = None) -> None:
        """Drops a request to another site.

        Raises:
            IgnoreRequest: the request leaves the site.
        """
        crawling = self.crawler.spider
        if not same_site(request.url, crawling.list_url):  # type: ignore[union-attr]
            reason = OTHER_HOST if urlsplit(request.url).scheme in PORTS else NOT_A_WEB_ADDRESS
            crawling.record_failure(request.url, reason)  # type: ignore[union-attr]
            raise IgnoreRequest(reason)


class UnreadRobotsError(IgnoreRequest):
    """A host's robots.txt could not be read, so that nothing of the host may be requested; the cause says why."""


class StrictRobotsTxtMiddleware(RobotsTxtMiddleware):
    """Obeys robots.txt as RFC 9309 says; with Scrapy's own middleware, one that cannot be read allows everything.

    A 4xx status means that there is no robots.txt (2.3.1.3), and so do more than five redirects (2.3.1.2). Any other
    failure, after Scrapy's retries, forbids the whole host (2.3.1.4). So does 429, which demands fewer requests.
    """

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._unread: dict[str, Exception] = {}  # by network location

    async def _parse_robots(self, response: Response, netloc: str, request: Request) -> None:
        missing = 400 <= response.status < 500 and response.status != 429
        if not missing and not 200 <= response.status < 300:
            raise IgnoreRequest(f"HTTP status {response.status}")
        body = b"" if missing else response.body
        encoding, bom = read_bom(body)
        if encoding and encoding != "utf-8":
            body = body[len(bom or b"") :].decode(encoding, errors="ignore").encode()
        if len(body) > MAX_ROBOTS:
            body = body[: body.rfind(b"\n", 0, MAX_ROBOTS) + 1]  # half a rule may allow or forbid too much
        await super()._parse_robots(response.replace(body=body), netloc, request)

    def _robots_error(self, exc: Exception, netloc: str) -> None:
        if str(exc) == REDIRECTED:
            unmatched = self.crawler.spider.crawl_stats.unmatched  # type: ignore[union-attr]
            unmatched["robots.txt redirects more than five times, taken for missing"] += 1
        else:
            self._unread[netloc] = exc
        super()._robots_error(exc, netloc)

    def process_request_2(self, rp: RobotParser | None, request: Request) -> None:
        """Drops a forbidden request.

        Raises:
            UnreadRobotsError: the robots.txt of its host could not be read.
            IgnoreRequest: robots.txt forbids it.
        """
        if error := self._unread.get(urlparse_cached(request).netloc):
            raise UnreadRobotsError("robots.txt could not be read") from error
        super().process_request_2(rp, request)


class LenientMetaRefreshMiddleware(MetaRefreshMiddleware):
    """Follows `<meta http-equiv=refresh>`; a page with an invalid URL in it, or in its `<base>`, is read itself."""

    def process_response(
        self, request: Request, response: Response, spider: Spider | None = None
    ) -> Request | Response:
        """Returns the request for the other page, or the page."""
        try:
            return super().process_response(request, response)
        except ValueError:
            return response


class RetryAfterMiddleware:
    """Delays all requests for as long as a 429 or 503 response demands; Scrapy's own middleware then retries.

    It also waits between requests for the Crawl-delay of robots.txt, which Scrapy ignores. Pausing Scrapy's engine is
    not enough: that holds back neither what it has handed on already nor robots.txt.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.until = 0.0
        self.crawl_delay = 0.0  # seconds

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "RetryAfterMiddleware":
        """Creates the middleware."""
        middleware = cls(crawler)
        crawler.signals.connect(middleware.robots_parsed, signal=signals.robots_parsed)
        return middleware

    def robots_parsed(self, robotparser: RobotParser) -> None:
        """Reads the Crawl-delay of a robots.txt."""
        delay = robotparser.crawl_delay(self.crawler.settings["ROBOTSTXT_USER_AGENT"]) or 0.0
        self.crawl_delay = max(self.crawl_delay, min(delay, MAX_RETRY_AFTER))

    async def process_request(self, request: Request) -> None:
        """Waits until the pause is over.

        Raises:
            IgnoreRequest: the crawl was interrupted during the pause.
        """
        while (wait := self.until - time.monotonic()) > 0:
            await asyncio.sleep(min(wait, 0.5))
            if not self.crawler.engine.running:
                raise IgnoreRequest("interrupted")
        self.until = time.monotonic() + self.crawl_delay

    def process_response(self, request: Request, response: Response) -> Response:
        """Reads the header Retry-After."""
        header = response.headers.get("Retry-After") or b""
        wait = min(seconds(header.decode("latin-1")), MAX_RETRY_AFTER)
        if response.status in (429, 503) and wait:
            logger.warning("%s demands a pause of %.0f s", response.url, wait)
            self.until = max(self.until, time.monotonic() + wait)
        return response


def seconds(retry_after: str) -> float:
    """Returns the seconds from now that a Retry-After header names, as a number or a date; 0 for anything else."""
    try:
        delay = float(retry_after)  # some servers send fractions
        return max(0.0, delay) if math.isfinite(delay) else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
