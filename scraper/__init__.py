"""The Scrapy project: from a site of gemstones to a raw folder."""
