"""The HTTP cache, which lets a crawl resume and makes the next one cheap."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scrapy import Request, Spider
from scrapy.downloadermiddlewares.httpcache import HttpCacheMiddleware
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.extensions.httpcache import FilesystemCacheStorage, RFC2616Policy
from scrapy.http import Response
from scrapy.settings import BaseSettings

CACHED_STATUSES = {200, 301, 302, 303, 307, 308, 404, 410}  # that a resumed crawl does not request again
MAX_ROBOTS_AGE = 24 * 3600  # seconds that a robots.txt is used without its site's answer (RFC 9309, 2.4)
MAX_RESUME_AGE = 7 * 24 * 3600  # seconds; an older interrupted crawl starts from the beginning
CHECKSUM = "sha256"  # file name in a cache entry


class RevalidatePolicy(RFC2616Policy):
    """Revalidates every response of an earlier crawl, by its ETag or date where it has one.

    Only responses that the same crawl received before an interruption, since the time CRAWL_SINCE, are used without
    a request. Scrapy's own policy also trusts a response's age, and so misses changes.
    """

    def __init__(self, settings: BaseSettings) -> None:
        super().__init__(settings)
        self.since = settings.getfloat("CRAWL_SINCE", time.time())

    def should_cache_response(self, response: Response, request: Request) -> bool:
        """Tells whether a response is stored; `partial`, one without a length, may have been cut off."""
        whole = response.status in CACHED_STATUSES and "partial" not in response.flags
        return whole and b"no-store" not in self._parse_cachecontrol(response)

    def is_cached_response_fresh(self, cachedresponse: Response, request: Request) -> bool:
        """Tells whether a stored response is used without a request."""
        # A list of gems that failed is requested again: it ended the crawl, and would end each one that resumes it.
        failed_list = request.meta.get("is_list") and cachedresponse.status != 200
        if request.meta["cache_timestamp"] >= self.since and not _is_old_robots_txt(request) and not failed_list:
            return True
        if not request.meta.get("playwright"):  # a browser would show an empty page for a 304
            self._set_conditional_validators(request, cachedresponse)
        return False

    def is_cached_response_valid(self, cachedresponse: Response, response: Response, request: Request) -> bool:
        """Tells whether a stored response is used after a request: for a 304, but not for a server error.

        For robots.txt it is used after a server error too, since without one nothing may be requested.
        """
        unavailable = response.status >= 500 and _is_robots_txt(request) and not _is_old_robots_txt(request)
        return response.status == 304 or unavailable


def _is_robots_txt(request: Request) -> bool:
    return urlsplit(request.url).path == "/robots.txt"


def _is_old_robots_txt(request: Request) -> bool:
    return _is_robots_txt(request) and request.meta["cache_timestamp"] < time.time() - MAX_ROBOTS_AGE


class StrictHttpCacheMiddleware(HttpCacheMiddleware):
    """Scrapy's cache, without its fallback: a site that is unreachable is an error, not an unchanged site."""

    DOWNLOAD_EXCEPTIONS = ()  # type: ignore[assignment]

    def process_response(
        self, request: Request, response: Response, spider: Spider | None = None
    ) -> Request | Response:
        """Returns the response or the stored one; counts a stored robots.txt that stands in."""
        result = super().process_response(request, response)
        if result is not response and response.status >= 500:
            unmatched = self.crawler.spider.crawl_stats.unmatched  # type: ignore[union-attr]
            unmatched[f"robots.txt with HTTP status {response.status}, for which a copy of the last day stands in"] += 1
        return result


class AtomicCacheStorage(FilesystemCacheStorage):
    """Scrapy's storage with atomic writes; an entry that is incomplete or damaged counts as missing."""

    def __init__(self, settings: BaseSettings) -> None:
        super().__init__(settings)
        self.staging = FilesystemCacheStorage(settings)
        self.staging.cachedir = str(Path(self.cachedir, ".new"))

    def open_spider(self, spider: Spider) -> None:
        """Prepares for a crawl and deletes half-written entries of a killed one."""
        super().open_spider(spider)
        self.staging.open_spider(spider)
        self.compression = HttpCompressionMiddleware.from_crawler(spider.crawler)
        shutil.rmtree(Path(self.staging.cachedir, spider.name), ignore_errors=True)

    def retrieve_response(self, spider: Spider, request: Request) -> Response | None:
        """Reads an entry; None where it is missing, incomplete or damaged."""
        entry = Path(self._get_request_path(spider, request))
        try:
            if (entry / CHECKSUM).read_text() != _digest(entry):
                return None
        except (OSError, ValueError):
            return None
        return super().retrieve_response(spider, request)

    def store_response(self, spider: Spider, request: Request, response: Response) -> None:
        """Writes an entry into the staging folder, then renames it; none of a body that cannot be decompressed."""
        new, entry = (Path(storage._get_request_path(spider, request)) for storage in (self.staging, self))
        for path in (new, entry):
            shutil.rmtree(path, ignore_errors=True)
        try:
            self.compression.process_response(request, response.copy())  # a copy, since it changes the headers
        except Exception:  # of many types
            return
        self.staging.store_response(spider, request, response)
        (new / CHECKSUM).write_text(_digest(new))
        entry.parent.mkdir(parents=True, exist_ok=True)
        os.replace(new, entry)


def _digest(entry: Path) -> str:
    parts = (path.read_bytes() for path in sorted(entry.iterdir()) if path.name != CHECKSUM)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


@contextmanager
def session(folder: Path, crawl: Any) -> Iterator[float]:
    """Yields the Unix time at which this crawl began, or the interrupted crawl that it resumes.

    Args:
        folder: the cache's folder. A file in it marks an unfinished crawl until the context ends without an error.
        crawl: JSON value that identifies the crawl; one with another value is not resumed.
    """
    unfinished = folder / "unfinished.json"
    current = {"crawl": crawl, "since": time.time()}
    try:
        earlier = json.loads(unfinished.read_text(encoding="utf-8"))
        if earlier["crawl"] == crawl and earlier["since"] > current["since"] - MAX_RESUME_AGE:
            current = earlier
    except (OSError, ValueError, KeyError, TypeError):  # missing or incomplete
        pass
    folder.mkdir(parents=True, exist_ok=True)
    new = unfinished.with_suffix(".new")
    new.write_text(json.dumps(current), encoding="utf-8")
    os.replace(new, unfinished)
    yield current["since"]
    unfinished.unlink(missing_ok=True)
