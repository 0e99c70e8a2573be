"""The sources of raw photos: a site with minerals.net's pages, or a folder of class folders."""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from scrapy.crawler import AsyncCrawlerProcess
from scrapy.settings import Settings
from tqdm import tqdm

from gemmodel.data import folders
from gemmodel.errors import DataError, ParameterError, SiteError
from gemmodel.params import CrawlParams
from scraper import settings as project_settings
from scraper.pipelines import OriginalPictures, folder_name, manifest_line
from scraper.sample_site import server
from scraper.spiders.minerals import Findings, MineralsSpider

# The bundled site is ours: nobody has to be spared.
IMPOLITE = {"DOWNLOAD_DELAY": 0, "AUTOTHROTTLE_ENABLED": False, "CONCURRENT_REQUESTS_PER_DOMAIN": 8}

# Failures that will be the same next time; a crawl with too many others (a network that went away) replaces nothing.
LASTING = {
    "HTTP status 403",
    "HTTP status 404",
    "HTTP status 410",
    "forbidden by robots.txt",
    "leads to another host",
    "not an image",
}
MOST_BROKEN = 0.25  # of all pictures


def crawl(params: CrawlParams, out: Path, *, logs: Path) -> dict[str, Any]:
    """Fills a raw folder from the source that the parameters name.

    Args:
        params: the source and its limits.
        out: becomes a folder a gem with the original bytes, and `manifest.jsonl`, one line a picture.
        logs: folder for Scrapy's log and the times of fetching.

    Returns:
        The crawl's report.

    Raises:
        ParameterError: a live site is to be crawled without a contact address.
        SiteError: the site does not answer, has no pictures, or much of it failed.
        DataError: the folder does not exist or holds no photos.
    """
    if params.source == "folder":
        return copy_folder(params, out)
    if params.source == "minerals":
        if "@" not in params.contact or params.contact.endswith(".example"):
            raise ParameterError(
                f"crawl.contact is {params.contact!r}; set it to your address, so that the site's owner can reach you"
            )
        return crawl_site(params, out, logs=logs)
    try:
        site: AbstractContextManager[str] = server.serve(gems=params.only)
        with site as proxy:
            # The site has a made-up host behind a proxy, so that no random port stands in the manifest.
            os.environ["http_proxy"], os.environ["no_proxy"] = proxy, ""
            return crawl_site(params, out, logs=logs, list_url=server.LIST_URL, overrides=IMPOLITE)
    except ValueError as error:
        raise DataError(f"crawl.only: {error}") from None


def crawl_site(
    params: CrawlParams,
    out: Path,
    *,
    logs: Path,
    list_url: str = MineralsSpider.list_url,
    overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Crawls a site into a raw folder; see `crawl`. Can run once in a process, as Twisted's reactor can."""
    logs.mkdir(parents=True, exist_ok=True)
    configured = Settings()
    configured.setmodule(project_settings)
    agent = f"{project_settings.USER_AGENT}; contact: {params.contact}"
    configured.setdict(
        {"USER_AGENT": agent, "LOG_FILE": str(logs / "crawl.log"), "LOG_FILE_APPEND": False, **(overrides or {})}
    )
    with folders.replacing(out) as new:
        new.mkdir()
        configured.setdict({"PICTURES_STORE": str(new), "PICTURES_LOG": str(logs / "fetched.jsonl")})
        process = AsyncCrawlerProcess(configured)
        crawler = process.create_crawler(MineralsSpider)
        process.crawl(crawler, list_url=list_url, only=params.only, max_per_gem=params.max_per_gem)
        process.start()
        pictures: OriginalPictures = crawler.pictures  # type: ignore[attr-defined]
        findings: Findings = crawler.spider.findings  # type: ignore[union-attr]
        stats: dict[str, Any] = crawler.stats.get_stats()
        if away := stats.get("offsite/filtered"):  # Scrapy drops these without a word to the spider
            findings.failed["leads to another host"] += away
        if findings.disk_error:
            raise findings.disk_error
        if findings.unreachable:
            raise SiteError(f"{list_url}: no answer ({findings.unreachable}); check the address and the connection")
        if stats["finish_reason"] != "finished":
            raise SiteError(f"{list_url}: crawl interrupted; run it again and it goes on from its cache")
        if not pictures.lines:
            raise SiteError(f"{list_url}: not one picture; {logs / 'crawl.log'} tells what came instead")
        failed = findings.failed + pictures.dropped
        broken = failed.total() - sum(number for reason, number in failed.items() if reason in LASTING)
        broken += sum(number for name, number in stats.items() if name.startswith("spider_exceptions/"))
        if broken > MOST_BROKEN * (len(pictures.lines) + broken):
            told = ", ".join(f"{number} {reason}" for reason, number in sorted(failed.items()))
            raise SiteError(f"{list_url}: too much failed to take the crawl for whole ({told}); run it again later")
        lines = sorted(pictures.lines, key=lambda line: str(line["path"]))
        folders.write_lines(new / "manifest.jsonl", lines)
    return {
        "source": list_url,
        "pages": findings.pages,
        **_counts(lines),
        "thumbnails": sum(line["thumbnail"] for line in lines),
        "failed": dict(sorted(failed.items())),
        "gems_without_pictures": sorted(findings.without_pictures),
        "unmatched_markup": dict(sorted(findings.unmatched.items())),
    }


def copy_folder(params: CrawlParams, out: Path) -> dict[str, Any]:
    """Copies a folder of class folders into a raw folder; see `crawl`."""
    found = folders.photos(Path(params.folder))
    if missing := sorted(set(params.only) - set(found)):
        raise DataError(f"crawl.only: {params.folder} has no {', '.join(missing)}")
    lines = []
    with folders.replacing(out) as new:
        for gem, paths in tqdm(found.items(), "crawl", unit=" gems", disable=None):
            if params.only and gem not in params.only:
                continue
            for path in paths[: params.max_per_gem or None]:
                target = f"{folder_name(gem)}/{path.relative_to(Path(params.folder, gem)).as_posix()}"
                if (new / target).exists():
                    raise DataError(
                        f"{path}: another folder is {folder_name(gem)} too once its name is made safe; rename one"
                    )
                folders.copy(path, new / target)
                lines.append(manifest_line(target, gem, path.read_bytes()))
        folders.write_lines(new / "manifest.jsonl", lines)
    return {"source": params.folder, **_counts(lines)}


def _counts(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by_gem = Counter(str(line["gem"]) for line in lines)
    return {"gems": len(by_gem), "pictures": len(lines), "by_gem": dict(sorted(by_gem.items()))}
