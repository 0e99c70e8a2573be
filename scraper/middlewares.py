"""What a guest does, and what it does not: stay on one site, and wait when it is asked to."""

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
ANOTHER_HOST = "leads to another host"
NO_WEB_PAGE = "is no address of a web site"
PORTS = {"http": 80, "https": 443}
logger = logging.getLogger(__name__)


def same_site(url: str, site: str) -> bool:
    """Tells whether a URL lies on a site: the same host, with or without www., by HTTP or HTTPS, on no other port."""
    try:
        there, here = urlsplit(url), urlsplit(site)
        ports = {_port(here)} | (set(PORTS.values()) if _port(here) in PORTS.values() else set())
        told = there.scheme in PORTS and "@" not in there.netloc  # a user's name is there to mislead
        return told and _host(there) == _host(here) and _port(there) in ports
    except ValueError:  # no URL at all
        return False


def _host(url: SplitResult) -> str:
    return str(url.hostname).removeprefix("www.")


def _port(url: SplitResult) -> int | None:
    return url.port or PORTS.get(url.scheme)


class SameSiteMiddleware(OffsiteMiddleware):
    """Lets nothing leave the spider's site, be it a link or a redirect, and tells the spider of it.

    Unlike Scrapy's own, it knows ports and schemes, and does not look away where a request is a retried one.
    """

    def process_request(self, request: Request, spider: Spider | None = None) -> None:
        """Refuses a request to elsewhere.

        Raises:
            IgnoreRequest: it is one.
        """
        crawling = self.crawler.spider
        if not same_site(request.url, crawling.list_url):  # type: ignore[union-attr]
            reason = ANOTHER_HOST if urlsplit(request.url).scheme in PORTS else NO_WEB_PAGE
            crawling.note_failure(request.url, reason)  # type: ignore[union-attr]
            raise IgnoreRequest(reason)


class RetryAfterMiddleware:
    """Holds every request back for as long as an answer of 429 or 503 asks for; Scrapy's own retry then asks again.

    To pause Scrapy's engine would not do: it does not hold back what it has handed on, nor robots.txt.
    """

    def __init__(self, crawler: Crawler) -> None:
        self.crawler = crawler
        self.until = 0.0

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "RetryAfterMiddleware":
        """Makes the middleware."""
        return cls(crawler)

    async def process_request(self, request: Request) -> None:
        """Waits.

        Raises:
            IgnoreRequest: the crawl has been interrupted meanwhile.
        """
        while (wait := self.until - time.monotonic()) > 0:
            await asyncio.sleep(min(wait, 0.5))
            if not self.crawler.engine.running:
                raise IgnoreRequest("interrupted")

    def process_response(self, request: Request, response: Response) -> Response:
        """Reads the header."""
        asked = response.headers.get("Retry-After")
        if response.status in (429, 503) and asked and (wait := min(seconds(asked.decode("latin-1")), MAX_RETRY_AFTER)):
            logger.warning("%s asks for a pause of %.0f s", response.url, wait)
            self.until = max(self.until, time.monotonic() + wait)
        return response


def seconds(retry_after: str) -> float:
    """Returns the seconds from now that a Retry-After header names, as a number or a date; 0 where it is neither."""
    try:
        return max(0.0, float(int(retry_after)))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
