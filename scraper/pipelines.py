"""From a spider's pictures to a folder a gem and its manifest."""

import hashlib
import io
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pathvalidate import sanitize_filename
from PIL import Image
from scrapy.crawler import Crawler
from scrapy.exceptions import DropItem
from tqdm import tqdm

from scraper.items import Picture


class OriginalPictures:
    """Keeps each picture's original bytes as `<gem>/<name>-<hash of the URL>.<suffix>`, and its manifest line.

    The folder is the setting PICTURES_STORE; PICTURES_LOG names a file that gets a line a picture with the time at
    which it was fetched. What is no picture is dropped and counted.
    """

    def __init__(self, crawler: Crawler) -> None:
        """Reads the settings."""
        self.crawler = crawler
        self.store = Path(crawler.settings.get("PICTURES_STORE", "pictures"))
        self.log = Path(crawler.settings["PICTURES_LOG"]) if crawler.settings.get("PICTURES_LOG") else None
        self.lines: list[dict[str, Any]] = []
        self.dropped: Counter[str] = Counter()
        self.progress = tqdm(desc="crawl", unit=" pictures", disable=None)

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
        path = f"{folder_name(item.gem)}/{file_name(item.picture_url)}"
        line = manifest_line(
            path,
            item.gem,
            item.body,
            mineral_class=item.mineral_class,
            properties=item.properties,
            page_url=item.page_url,
            picture_url=item.picture_url,
            thumbnail=item.thumbnail,
        )
        if line["format"] is None:
            self.dropped["not an image"] += 1
            raise DropItem(f"not an image: {item.picture_url}")
        try:
            (self.store / path).parent.mkdir(parents=True, exist_ok=True)
            (self.store / path).write_bytes(item.body)
        except OSError as error:
            self.crawler.spider.stop_if_disk_is_full(error)  # type: ignore[union-attr]
            raise
        self.lines.append(line)
        self.progress.update()
        if self.log:
            with self.log.open("a", encoding="utf-8") as log:
                log.write(
                    json.dumps({"url": item.picture_url, "fetched": time.strftime("%FT%TZ", time.gmtime())}) + "\n"
                )
        return item

    def close_spider(self) -> None:
        """Ends the progress bar."""
        self.progress.close()


def manifest_line(path: str, gem: str, body: bytes, **more: Any) -> dict[str, Any]:
    """Returns a raw picture's manifest line: path, gem, SHA-256, size in bytes, format, and what else is known."""
    return {
        "path": path,
        "gem": gem,
        "sha256": hashlib.sha256(body).hexdigest(),
        "bytes": len(body),
        "format": image_format(body),
    } | more


def image_format(body: bytes) -> str | None:
    """Returns the format that the first bytes tell, whatever the file's name, or None for what is no picture."""
    try:
        with Image.open(io.BytesIO(body)) as image:
            return image.format
    except Exception:  # decoders of damaged files raise all kinds
        return None


def folder_name(gem: str) -> str:
    """Returns a gem's name as a folder name that is safe on Linux, macOS and Windows."""
    return str(sanitize_filename(gem.replace("/", " "), platform="universal")).strip(" .") or "unnamed"


def file_name(url: str) -> str:
    """Returns a picture's file name: its own, and a hash of its whole URL, so that no two are the same."""
    name = Path(str(sanitize_filename(unquote(urlsplit(url).path.rsplit("/", 1)[-1]), platform="universal")))
    return f"{name.stem[:80] or 'picture'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}{name.suffix[:8].lower()}"
