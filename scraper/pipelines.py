"""The item pipeline: stores each picture with its original bytes."""

import io
import json
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from scrapy.crawler import Crawler
from scrapy.exceptions import DropItem

from gemmodel.core.errors import DataError
from gemmodel.images import decode
from scraper import manifest, safe_names
from scraper.items import Picture

MIN_SIDE = 8  # pixels; a smaller picture holds a photo's place, or counts visits
MAX_SHARED = 2  # gems that may list the same picture


class OriginalPictures:
    """Stores each picture's original bytes as `<gem>/<name>-<hash of the URL>.<suffix>`, and its manifest row.

    The setting PICTURES_STORE is the folder. PICTURES_LOG names a file that gets one line per picture with the time
    of its download. Anything but an image is dropped, and recorded by the spider; so is a placeholder, which is tiny or
    which more than MAX_SHARED gems list.
    """

    def __init__(self, crawler: Crawler) -> None:
        """Reads the settings."""
        self.crawler = crawler
        self.store = Path(crawler.settings.get("PICTURES_STORE", "pictures"))
        self.log = Path(crawler.settings["PICTURES_LOG"]) if crawler.settings.get("PICTURES_LOG") else None
        self.rows: dict[str, dict[str, Any]] = {}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "OriginalPictures":
        """Creates the pipeline and attaches it to the crawler, so that the code that started the crawl can read it."""
        pipeline = crawler.pictures = cls(crawler)  # type: ignore[attr-defined]
        return pipeline

    def process_item(self, item: Picture) -> Picture:
        """Stores one picture.

        Raises:
            DropItem: the file is not an image, is tiny or has too many pixels.
        """
        try:
            header = decode.header(io.BytesIO(item.body))
            if min(header.width, header.height) < MIN_SIDE:
                raise DataError(f"a placeholder of {header.width} x {header.height} pixels")
        except DataError as error:
            self.crawler.spider.record_unusable(item.picture_url, str(error))  # type: ignore[union-attr]
            raise DropItem(f"{error}: {item.picture_url}") from None
        path = f"{item.folder}/{safe_names.file_name(item.picture_url)}"
        row = manifest.manifest_row(
            path,
            item.gem,
            item.body,
            header.format,
            mineral_class=item.mineral_class,
            properties=item.properties,
            prose=item.prose,
            page_url=item.page_url,
            picture_url=item.picture_url,
            thumbnail=item.thumbnail,
        )
        try:
            (self.store / path).parent.mkdir(parents=True, exist_ok=True)
            (self.store / path).write_bytes(item.body)
        except OSError as error:
            self.crawler.spider.stop_if_disk_is_full(error)  # type: ignore[union-attr]
            raise
        self.rows[path] = row  # two links may lead to one picture
        if self.log and not item.cached:
            entry = {"url": item.picture_url, "fetched": time.strftime("%FT%TZ", time.gmtime())}
            with self.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
        return item

    def close_spider(self) -> None:
        """Removes the pictures that many gems list: they show none of them."""
        gems: defaultdict[str, set[str]] = defaultdict(set)
        for row in self.rows.values():
            gems[row["sha256"]].add(row["gem"])
        for path, row in list(self.rows.items()):
            if (count := len(gems[row["sha256"]])) > MAX_SHARED:
                reason = f"a placeholder, the same for {count} gems"
                self.crawler.spider.record_unusable(row["picture_url"], reason)  # type: ignore[union-attr]
                del self.rows[path]
                (self.store / path).unlink()
                with suppress(OSError):  # the gem has other pictures
                    (self.store / path).parent.rmdir()
