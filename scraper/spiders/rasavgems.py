"""The spider for rasavgems.com, whose catalogue is filled by JavaScript, and for any site with its structure."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import scrapy
from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.settings import BaseSettings

from gemmodel.core.errors import ParameterError
from scraper.markup import as_html
from scraper.spiders.base import GemSpider

LIST = "ul#leftNavigation"
PRODUCTS = "#Product_List"


class RasavgemsSpider(GemSpider):
    """Crawls the list of gems and each gem's page in a browser, and the pictures without one."""

    name = "rasavgems"
    list_url = "https://www.rasavgems.com/"

    @classmethod
    def update_settings(cls, settings: BaseSettings) -> None:
        """Checks that there is a browser before anything is crawled.

        Raises:
            ParameterError: the browser or the extra that drives it is not installed.
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
        """Creates the spider and sets Scrapy to load its pages in a browser."""
        from scraper import browser

        spider: RasavgemsSpider = super().from_crawler(crawler, *args, **kwargs)  # type: ignore[assignment]
        crawler.settings.setdict(browser.settings(spider.list_url, crawler.settings), priority="spider")
        common = spider.page_meta | {"playwright_page_event_handlers": {"requestfinished": "browser_loaded"}}
        list_meta = browser.meta(spider.list_url, crawler.settings, item="a[href]", container=LIST)
        page_meta = browser.meta(spider.list_url, crawler.settings, item="div.product-one", container=PRODUCTS)
        spider.list_meta, spider.page_meta = common | list_meta, common | page_meta
        return spider

    async def browser_loaded(self, request: Any) -> None:
        """Counts what the browser loads for a page; the page itself is counted by Scrapy."""
        self.crawl_stats.requests += not request.is_navigation_request()
        with suppress(Exception):  # the page was closed
            self.crawl_stats.received_bytes += (await request.sizes())["responseBodySize"]

    def parse(self, response: Response, **_: Any) -> Iterator[scrapy.Request]:
        """Requests the page of each gem on the list."""
        self.crawl_stats.pages += 1
        page = as_html(response)
        links = page.css(f"{LIST} a[href]")
        if not links:
            self.crawl_stats.unmatched[f"list without {LIST}"] += 1
        yield from self.request_gem_pages(self.gem_urls(page, links), self.parse_gem)

    def parse_gem(self, response: Response, gem: str) -> Iterator[scrapy.Request]:
        """Requests the pictures of a gem's products."""
        page = as_html(response)
        if not page.css(PRODUCTS):
            self.crawl_stats.unmatched[f"gem page without {PRODUCTS}"] += 1
        yield from self.request_pictures(page, page.css(f"{PRODUCTS} div.product-one"), {"gem": gem})
