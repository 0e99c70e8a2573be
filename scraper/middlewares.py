"""Downloader middlewares: the crawl stays on one site, and pauses when the site demands it."""

import asyncio
import logging
import time
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, urlsplit

from scrapy import Request, Spider
from scrapy.crawler import Crawler
from scrapy.downloadermiddlewares.offsite import OffsiteMiddleware
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Response

MAX_RETRY_AFTER = 600.0  # seconds
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


class RetryAfterMiddleware:
    """Delays all requests for as long as a 429 or 503 response demands; Scrapy's own middleware then retries.

    Pausing Scrapy's engine is not enough: that holds back neither what it has handed on already nor robots.txt.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.until = 0.0

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "RetryAfterMiddleware":
        """Creates the middleware."""
        return cls(crawler)

    async def process_request(self, request: Request) -> None:
        """Waits until the pause is over.

        Raises:
            IgnoreRequest: the crawl was interrupted during the pause.
        """
        while (wait := self.until - time.monotonic()) > 0:
            await asyncio.sleep(min(wait, 0.5))
            if not self.crawler.engine.running:
                raise IgnoreRequest("interrupted")

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
        return max(0.0, float(int(retry_after)))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
