"""robots.txt by RFC 9309: one that cannot be read forbids the site, one that does not exist allows it."""

import codecs
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from loopback import LIST, Crawl, Exchange, Reply, crawl, gem_page, jpeg, list_page, serving
from scrapy import Request
from scrapy.http import Response
from scrapy.settings import Settings

from scraper import cache

pytestmark = pytest.mark.usefixtures("forked_crawls")

PAGES: dict[str, bytes | Reply] = {
    LIST: list_page({"Ruby": "/ruby"}),
    "/ruby": gem_page("/good.jpg", "/private/a.jpg"),
    "/good.jpg": jpeg(1),
    "/private/a.jpg": jpeg(2),
}
RULES = b"User-agent: *\nDisallow: /private/\n"


def fetched(result: Crawl) -> set[str]:
    """Return the paths of the stored pictures."""
    return {"/" + url.split("/", 3)[3] for url in result.pictures}


@pytest.mark.parametrize("status", [503, 429])
def test_a_robots_txt_that_cannot_be_read_forbids_the_site(tmp_path: Path, refused: Any, status: int) -> None:
    with serving(PAGES | {"/robots.txt": lambda exchange: exchange.send(b"oops", status)}) as site:
        result = crawl(tmp_path / "crawl", site.url())
        refused(result.process, "crawl", site.url(), "robots.txt", f"HTTP status {status}", "run the crawl again later")
        assert site.requested == ["/robots.txt"] * 2  # Scrapy retries it
        assert not result.raw


@pytest.mark.parametrize("body", [b"User-agent: *\nDisallow: /", b""], ids=["rules", "empty"])
def test_a_robots_txt_that_does_not_exist_allows_the_site(tmp_path: Path, body: bytes) -> None:
    with serving(PAGES | {"/robots.txt": lambda exchange: exchange.send(body, 403)}) as site:
        assert fetched(crawl(tmp_path, site.url())) == {"/good.jpg", "/private/a.jpg"}


@pytest.mark.parametrize("redirects", [5, 6])
def test_five_redirects_of_robots_txt_are_followed(tmp_path: Path, redirects: int) -> None:
    """Its rules follow a byte order mark; they and the delay hold for this crawler's name only, up to 500 KiB."""
    rules = codecs.BOM_UTF8 + b"User-agent: gemmodel\nDisallow: /private/\nCrawl-delay: 0.4\n\n"
    rules += b"User-agent: research\nDisallow: /\n\n"  # a word of the user agent, but not its product token
    rules += b"#" * 500 * 1024 + b"\n\nUser-agent: gemmodel\nDisallow: /\n"
    routes = {
        f"/robots/{i}": (lambda exchange, i=i: exchange.redirect(f"/robots/{i + 1}")) for i in range(1, redirects)
    }
    with serving(PAGES | routes | {f"/robots/{redirects}": rules}) as site:
        site.routes["/robots.txt"] = lambda exchange: exchange.redirect("/robots/1")
        result = crawl(tmp_path, site.url())
        times = [sent for path, sent in site.requests if "robots" not in path]
    if redirects == 5:
        assert fetched(result) == {"/good.jpg"}
        assert result.report["skipped_by_robots"] == 1
        assert min(b - a for a, b in pairwise(times)) > 0.1  # some 0.01 without the delay
    else:
        assert fetched(result) == {"/good.jpg", "/private/a.jpg"}
        assert "robots.txt redirects more than five times, taken for missing" in result.report["unmatched_markup"]


def test_utf_16_is_read_and_a_copy_of_the_last_day_stands_in(tmp_path: Path) -> None:
    rules = RULES.decode().encode("utf-16")

    def busy(exchange: Exchange) -> None:
        exchange.send(b"", 503)

    with serving(PAGES | {"/robots.txt": rules}) as site:
        assert fetched(crawl(tmp_path, site.url())) == {"/good.jpg"}
        site.routes["/robots.txt"] = busy
        again = crawl(tmp_path, site.url())
        assert fetched(again) == {"/good.jpg"}
        assert again.report["skipped_by_robots"] == 1
        assert any("HTTP status 503" in kind for kind in again.report["unmatched_markup"])


def test_a_copy_of_robots_txt_is_used_for_a_day() -> None:
    policy = cache.RevalidatePolicy(Settings({"CRAWL_SINCE": 0}))
    for url, age, fresh, stands_in in (
        ("http://a/robots.txt", 3600, True, True),
        ("http://a/robots.txt", 25 * 3600, False, False),
        ("http://a/picture.jpg", 25 * 3600, True, False),
    ):
        request, stored = Request(url, meta={"cache_timestamp": time.time() - age}), Response(url)
        assert policy.is_cached_response_fresh(stored, request) == fresh
        assert policy.is_cached_response_valid(stored, Response(url, status=503), request) == stands_in
        assert not policy.is_cached_response_valid(stored, Response(url, status=200), request)
