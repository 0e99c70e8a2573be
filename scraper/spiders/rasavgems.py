"""The spider for rasavgems.com, whose catalogue scripts fill in, and for any site with its page structure."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urldefrag

import scrapy
from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.settings import BaseSettings

from gemmodel.core.errors import ParameterError
from scraper.spiders.base import GemSpider, text

LIST = "ul#leftNavigation"
PRODUCTS = "#Product_List"


class RasavgemsSpider(GemSpider):
    """Goes from the list of gems over each gem's page, in a browser, to its pictures, without one."""

    name = "rasavgems"
    list_url = "https://www.rasavgems.com/"
    list_meta: dict[str, Any]

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Looks for the browser before anything is crawled.

        Raises:
            ParameterError: there is none, or no way to drive it.
        """
        super().update_settings(settings)
        try:
            from scraper import browser
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in ("playwright", "scrapy_playwright"):
                raise
            raise ParameterError("crawl.source: rasavgems needs an extra: pip install -e '.[dynamic]'") from None
        if not browser.executable():
            raise ParameterError(
                "crawl.source: rasavgems needs Chromium or Chrome on the PATH; on Debian: apt-get install chromium"
            )

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> "RasavgemsSpider":
        """Makes the spider and sets Scrapy to load its pages in a browser."""
        from scraper import browser

        spider: RasavgemsSpider = super().from_crawler(crawler, *args, **kwargs)  # type: ignore[assignment]
        crawler.settings.setdict(browser.settings(spider.list_url, crawler.settings), priority="spider")
        common = spider.page_meta | {"playwright_page_event_handlers": {"requestfinished": "browser_loaded"}}
        list_meta = browser.meta(spider.list_url, crawler.settings, item="a[href]", place=LIST)
        page_meta = browser.meta(spider.list_url, crawler.settings, item="div.product-one", place=PRODUCTS)
        spider.list_meta, spider.page_meta = common | list_meta, common | page_meta
        return spider

    async def start(self) -> AsyncIterator[scrapy.Request]:
        """Asks for the list of gems."""
        yield scrapy.Request(self.list_url, self.parse, errback=self.list_failed, meta=self.list_meta)

    async def browser_loaded(self, request: Any) -> None:
        """Counts what the browser loads for a page, the page itself apart, which Scrapy counts."""
        self.findings.requests += not request.is_navigation_request()
        with suppress(Exception):  # the page has been closed
            self.findings.received += (await request.sizes())["responseBodySize"]

    def parse(self, response: Response, **_: Any) -> Iterator[scrapy.Request]:
        """Follows each gem of the list once."""
        self.findings.pages += 1
        links = text(response).css(f"{LIST} a[href]")
        if not links:
            self.findings.unmatched[f"list without {LIST}"] += 1
        found: dict[str, str] = {}
        for link in links:
            gem = " ".join("".join(link.css("::text").getall()).split())
            url = self.join(response, link.attrib["href"])
            if gem and url and urldefrag(url)[0] != response.url:  # "#" opens a menu
                found.setdefault(gem, url)
        yield from self.gem_pages(found, self.parse_gem)

    def parse_gem(self, response: Response, gem: str) -> Iterator[scrapy.Request]:
        """Asks for the pictures of a gem's products."""
        if not text(response).css(PRODUCTS):
            self.findings.unmatched[f"gem page without {PRODUCTS}"] += 1
        sources = text(response).css(f"{PRODUCTS} div.product-one img::attr(src)").getall()
        urls = [url for source in sources if (url := self.join(response, source))]
        yield from self.pictures(response, {"gem": gem}, dict(zip(urls, urls, strict=True)))
