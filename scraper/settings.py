"""How the crawl behaves: as a polite guest, who asks whether a picture has changed before loading it again."""

from scraper.pipelines import OriginalPictures

BOT_NAME = "gemmodel"
SPIDER_MODULES = ["scraper.spiders"]
USER_AGENT = "gemmodel/0.1 (gemstone classifier for research)"  # the crawl stage adds crawl.contact
ITEM_PIPELINES = {OriginalPictures: 300}

ROBOTSTXT_OBEY = True
CONCURRENT_REQUESTS_PER_DOMAIN = 1
DOWNLOAD_DELAY = 1.0
RANDOMIZE_DOWNLOAD_DELAY = False
AUTOTHROTTLE_ENABLED = True
AUTOTHROTTLE_TARGET_CONCURRENCY = 1.0
RETRY_TIMES = 3
DOWNLOAD_TIMEOUT = 60
DOWNLOAD_MAXSIZE = 64 * 2**20

# What came with an ETag or a date is asked for again with it, after a kill too, and not sent anew while it is the same.
HTTPCACHE_ENABLED = True
HTTPCACHE_POLICY = "scrapy.extensions.httpcache.RFC2616Policy"
HTTPCACHE_GZIP = True
HTTPCACHE_IGNORE_RESPONSE_CACHE_CONTROLS = ["no-cache"]  # Scrapy would fetch anew instead of asking with the ETag

# One picture may stand under two gems, so nothing is dropped as seen before. (`dont_filter` would allow that too, and
# with it requests to other hosts.)
DUPEFILTER_CLASS = "scrapy.dupefilters.BaseDupeFilter"

LOG_LEVEL = "INFO"
TELNETCONSOLE_ENABLED = False
