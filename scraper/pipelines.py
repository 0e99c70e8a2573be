"""From a spider's pictures to files with their original bytes."""

import json
import time
from pathlib import Path
from typing import Any

from scrapy.crawler import Crawler
from scrapy.exceptions import DropItem

from gemmodel.core.errors import DataError
from scraper import manifest, safe_names
from scraper.items import Picture


class OriginalPictures:
    """Keeps each picture's original bytes as `<gem>/<name>-<hash of the URL>.<suffix>`, and its manifest line.

    The folder is the setting PICTURES_STORE; PICTURES_LOG names a file that gets a line a picture with the time at
    which it was fetched. What is no picture is dropped, and noted by the spider.
    """

    def __init__(self, crawler: Crawler) -> None:
        """Reads the settings."""
        self.crawler = crawler
        self.store = Path(crawler.settings.get("PICTURES_STORE", "pictures"))
        self.log = Path(crawler.settings["PICTURES_LOG"]) if crawler.settings.get("PICTURES_LOG") else None
        self.lines: dict[str, dict[str, Any]] = {}

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> "OriginalPictures":
        """Makes the pipeline and leaves it with the crawler, for who started the crawl."""
        pipeline = crawler.pictures = cls(crawler)  # type: ignore[attr-defined]
        return pipeline

    def process_item(self, item: Picture) -> Picture:
        """Writes one picture.

        Raises:
            DropItem: it is no picture.
        """
        path = f"{item.folder}/{safe_names.file_name(item.picture_url)}"
        try:
            line = manifest.line(
                path,
                item.gem,
                item.body,
                mineral_class=item.mineral_class,
                properties=item.properties,
                prose=item.prose,
                page_url=item.page_url,
                picture_url=item.picture_url,
                thumbnail=item.thumbnail,
            )
            if line["format"] is None:
                raise DataError("not an image")
        except DataError as error:
            self.crawler.spider.note_failure(item.picture_url, str(error))  # type: ignore[union-attr]
            raise DropItem(f"{error}: {item.picture_url}") from None
        try:
            (self.store / path).parent.mkdir(parents=True, exist_ok=True)
            (self.store / path).write_bytes(item.body)
        except OSError as error:
            self.crawler.spider.stop_if_disk_is_full(error)  # type: ignore[union-attr]
            raise
        self.lines[path] = line  # two addresses may lead to one picture
        if self.log and not item.cached:
            told = {"url": item.picture_url, "fetched": time.strftime("%FT%TZ", time.gmtime())}
            with self.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(told) + "\n")
        return item
