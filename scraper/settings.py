"""How the crawl behaves: as a polite guest, one request at a time, that never asks twice for what did not change."""

from scraper.pipelines import OriginalPictures

BOT_NAME = "gemmodel"
SPIDER_MODULES = ["scraper.spiders"]
USER_AGENT = "gemmodel/0.1 (gemstone classifier for research; contact: {contact})"  # the crawl.contact of params.yaml
ITEM_PIPELINES = {OriginalPictures: 300}

ROBOTSTXT_OBEY = True
CONCURRENT_REQUESTS_PER_DOMAIN = 1
DOWNLOAD_DELAY = 1.0
AUTOTHROTTLE_ENABLED = True
AUTOTHROTTLE_TARGET_CONCURRENCY = 1.0
RETRY_TIMES = 3
DOWNLOAD_TIMEOUT = 60
DOWNLOAD_MAXSIZE = 64 * 2**20

# A killed crawl goes on from here, and a second one asks only whether a page has changed.
HTTPCACHE_ENABLED = True
HTTPCACHE_POLICY = "scrapy.extensions.httpcache.RFC2616Policy"
HTTPCACHE_GZIP = True
HTTPCACHE_IGNORE_RESPONSE_CACHE_CONTROLS = ["no-cache"]  # Scrapy would fetch anew instead of asking with the ETag

LOG_LEVEL = "INFO"
TELNETCONSOLE_ENABLED = False
