"""Scrapy's settings: a polite crawl, which downloads a picture again only if it has changed."""

from scraper.cache import AtomicCacheStorage, RevalidatePolicy, StrictHttpCacheMiddleware
from scraper.middlewares import (
    LenientMetaRefreshMiddleware,
    RetryAfterMiddleware,
    SameSiteMiddleware,
    StrictRobotsTxtMiddleware,
)
from scraper.pipelines import OriginalPictures

BOT_NAME = "gemmodel"
SPIDER_MODULES = ["scraper.spiders"]
USER_AGENT = "gemmodel/0.1 (gemstone classifier for research)"  # the crawl stage adds crawl.contact
ITEM_PIPELINES = {OriginalPictures: 300}

ROBOTSTXT_OBEY = True
ROBOTSTXT_USER_AGENT = BOT_NAME  # the product token of RFC 9309, not the contact and the rest of USER_AGENT
CONCURRENT_REQUESTS = 1  # of each site; requests in a queue could not be delayed when the site demands a pause
CONCURRENT_REQUESTS_PER_DOMAIN = 1
CONCURRENT_ITEMS = 4  # pictures of a response; Scrapy starts as many tasks for each response, by default 100
WARN_ON_GENERATOR_RETURN_VALUE = False  # parses a callback's source again for each response
DOWNLOAD_DELAY = 1.0
DOWNLOAD_DELAY_JITTER = 0
AUTOTHROTTLE_ENABLED = True
AUTOTHROTTLE_TARGET_CONCURRENCY = 1.0
RETRY_TIMES = 3
DOWNLOADER_MIDDLEWARES = {
    "scrapy.downloadermiddlewares.offsite.OffsiteMiddleware": None,
    "scrapy.downloadermiddlewares.httpcache.HttpCacheMiddleware": None,
    "scrapy.downloadermiddlewares.redirect.MetaRefreshMiddleware": None,
    "scrapy.downloadermiddlewares.robotstxt.RobotsTxtMiddleware": None,
    SameSiteMiddleware: 50,
    StrictRobotsTxtMiddleware: 100,
    LenientMetaRefreshMiddleware: 580,
    StrictHttpCacheMiddleware: 900,
    RetryAfterMiddleware: 910,  # next to the site: it delays no answer of the cache, and sees each response first
}

# Limits of what a site may send. The other handlers would only serve an attack.
DOWNLOAD_HANDLERS = {"data": None, "file": None, "ftp": None, "s3": None}
TWISTED_DNS_RESOLVER = "scrapy.resolver.CachingHostnameResolver"  # Scrapy's default knows no IPv6
DOWNLOAD_TIMEOUT = 60  # seconds, from the request to the last byte
DOWNLOAD_MAXSIZE = 32 * 2**20  # bytes, before and after decompression
DOWNLOAD_WARNSIZE = 0
RENDER_TIMEOUT = 15.0  # seconds that a page's scripts have to fill it, in a browser
REDIRECT_MAX_TIMES = 5
METAREFRESH_MAXDELAY = 5  # seconds; with a longer delay a page shows itself again
COOKIES_ENABLED = False

HTTPCACHE_ENABLED = True
HTTPCACHE_POLICY = RevalidatePolicy
HTTPCACHE_STORAGE = AtomicCacheStorage

# Two gems may list the same picture, so duplicate requests are not dropped. `dont_filter` would allow that too, but
# also requests to other hosts.
DUPEFILTER_CLASS = "scrapy.dupefilters.BaseDupeFilter"

LOG_LEVEL = "INFO"
TELNETCONSOLE_ENABLED = False
REMOTE_CONTROL_ENABLED = False  # a server that runs what code it is sent
