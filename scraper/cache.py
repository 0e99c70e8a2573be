"""The HTTP cache: what makes a crawl resumable, and the next one cheap."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scrapy import Request, Spider
from scrapy.downloadermiddlewares.httpcache import HttpCacheMiddleware
from scrapy.extensions.httpcache import FilesystemCacheStorage, RFC2616Policy
from scrapy.http import Response
from scrapy.settings import BaseSettings

CACHED_STATUSES = {200, 301, 302, 303, 307, 308, 404, 410}  # statuses that a resumed crawl need not ask for again
MAX_RESUME_AGE = 7 * 24 * 3600  # seconds after which an interrupted crawl is begun anew
CHECKSUM = "sha256"  # file of an entry


class RevalidatePolicy(RFC2616Policy):
    """Every answer of an earlier crawl is asked for again, with its ETag or date where it has one.

    Only what the same crawl got before it was interrupted, since the time CRAWL_SINCE, is taken as it is. Scrapy's own
    policy would also believe in an age, and so miss a change.
    """

    def __init__(self, settings: BaseSettings) -> None:
        super().__init__(settings)
        self.since = settings.getfloat("CRAWL_SINCE", time.time())

    def should_cache_response(self, response: Response, request: Request) -> bool:
        """Tells whether an answer is kept."""
        return response.status in CACHED_STATUSES and b"no-store" not in self._parse_cachecontrol(response)

    def is_cached_response_fresh(self, cachedresponse: Response, request: Request) -> bool:
        """Tells whether a kept answer is used without asking."""
        if request.meta["cache_timestamp"] >= self.since:
            return True
        if not request.meta.get("playwright"):  # a browser would show an empty page for a 304
            self._set_conditional_validators(request, cachedresponse)
        return False

    def is_cached_response_valid(self, cachedresponse: Response, response: Response, request: Request) -> bool:
        """Tells whether a kept answer is used after asking; an error of the server's is no reason to."""
        return response.status == 304


class StrictHttpCacheMiddleware(HttpCacheMiddleware):
    """Scrapy's cache, but a site that does not answer is not taken for one on which nothing has changed."""

    DOWNLOAD_EXCEPTIONS = ()  # type: ignore[assignment]


class AtomicCacheStorage(FilesystemCacheStorage):
    """Scrapy's storage, but an entry of which something is missing, or not as it was written, is no entry."""

    def __init__(self, settings: BaseSettings) -> None:
        super().__init__(settings)
        self.beside = FilesystemCacheStorage(settings)
        self.beside.cachedir = str(Path(self.cachedir, ".new"))

    def open_spider(self, spider: Spider) -> None:
        """Starts a crawl."""
        super().open_spider(spider)
        self.beside.open_spider(spider)
        shutil.rmtree(Path(self.beside.cachedir, spider.name), ignore_errors=True)  # of a crawl that was killed

    def retrieve_response(self, spider: Spider, request: Request) -> Response | None:
        """Reads an entry, if it is there and whole."""
        entry = Path(self._get_request_path(spider, request))
        try:
            if (entry / CHECKSUM).read_text() != _digest(entry):
                return None
        except (OSError, ValueError):
            return None
        return super().retrieve_response(spider, request)

    def store_response(self, spider: Spider, request: Request, response: Response) -> None:
        """Writes an entry beside, then renames it."""
        new, entry = (Path(storage._get_request_path(spider, request)) for storage in (self.beside, self))
        shutil.rmtree(new, ignore_errors=True)
        self.beside.store_response(spider, request, response)
        (new / CHECKSUM).write_text(_digest(new))
        shutil.rmtree(entry, ignore_errors=True)
        entry.parent.mkdir(parents=True, exist_ok=True)
        os.replace(new, entry)


def _digest(entry: Path) -> str:
    parts = (path.read_bytes() for path in sorted(entry.iterdir()) if path.name != CHECKSUM)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


@contextmanager
def session(folder: Path, crawl: Any) -> Iterator[float]:
    """Yields the time, in seconds, at which a crawl began: this one, or the one that it goes on with.

    Args:
        folder: of the cache; a file in it tells of a crawl that is not finished, until the context ends without error.
        crawl: what tells one crawl from another, as JSON.
    """
    unfinished = folder / "unfinished.json"
    begun = {"crawl": crawl, "since": time.time()}
    try:
        earlier = json.loads(unfinished.read_text(encoding="utf-8"))
        if earlier["crawl"] == crawl and earlier["since"] > begun["since"] - MAX_RESUME_AGE:
            begun = earlier
    except (OSError, ValueError, KeyError, TypeError):  # none, or half of one
        pass
    folder.mkdir(parents=True, exist_ok=True)
    new = unfinished.with_suffix(".new")
    new.write_text(json.dumps(begun), encoding="utf-8")
    os.replace(new, unfinished)
    yield begun["since"]
    unfinished.unlink(missing_ok=True)
