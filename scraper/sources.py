"""The sources of raw photos: sites, and folders or archives of class folders; several can be merged."""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrapy.crawler import AsyncCrawlerProcess, Crawler
from scrapy.settings import Settings
from scrapy.utils.project import data_path

from gemmodel.core import files
from gemmodel.core.errors import DataError, ParameterError, SiteError
from gemmodel.core.params import CrawlParams
from sample_site import server
from scraper import cache, local_photos, manifest
from scraper import settings as project_settings
from scraper.middlewares import ANOTHER_HOST, NO_WEB_PAGE
from scraper.spiders.base import NOWHERE, ROBOTS, CrawlStats, GemSpider
from scraper.spiders.minerals import MineralsSpider
from scraper.spiders.rasavgems import RasavgemsSpider

SITES: dict[str, type[GemSpider]] = {"minerals": MineralsSpider, "rasavgems": RasavgemsSpider}
SAMPLE = "sample"
FOLDER = "folder"

# The bundled site is ours: nobody has to be spared.
LOCAL_SETTINGS = {
    "DOWNLOAD_DELAY": 0,
    "AUTOTHROTTLE_ENABLED": False,
    "CONCURRENT_REQUESTS": 8,
    "CONCURRENT_REQUESTS_PER_DOMAIN": 8,
}

# Failures that will be the same next time; a crawl with too many others (a network that went away) replaces nothing.
PERMANENT_FAILURES = {
    "HTTP status 403",
    "HTTP status 404",
    "HTTP status 410",
    ROBOTS,
    ANOTHER_HOST,
    NO_WEB_PAGE,
    NOWHERE,
    "redirects in a loop",
    "larger than a photo",
    "more pixels than a photo has",
    "not an image",
}
MAX_BROKEN = 0.25  # of all pictures


@dataclass(frozen=True)
class SourceResult:
    """What one source gave: manifest lines without their numbers, what stays the same, and what is of this crawl."""

    lines: list[dict[str, Any]]
    account: dict[str, Any]
    traffic: dict[str, int]


def crawl(
    params: CrawlParams,
    out: Path,
    *,
    logs: Path,
    list_urls: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fills a raw folder from the sources that the parameters name. Can run once in a process, as Twisted can.

    Args:
        params: the sources and their limits.
        out: becomes a folder a gem with the original bytes, `manifest.jsonl`, one line a picture, and `crawl.json`,
            which tells what could not be had. A picture that was there before keeps its number.
        logs: folder for Scrapy's log and the times of fetching.
        list_urls: for other addresses than the real ones, the list of gems by source.
        overrides: Scrapy settings.

    Returns:
        The crawl's report.

    Raises:
        ParameterError: a live site is to be crawled without a contact address, or sources do not go together.
        SiteError: a site does not answer, has no pictures, or much of it failed.
        DataError: a folder or archive does not exist or holds no photos.
    """
    began = time.monotonic()
    if SAMPLE in params.source and len(params.source) > 1:
        raise ParameterError("crawl.source: sample stands alone; its pictures are drawn, those of others are not")
    urls, settings = dict(list_urls or {}), dict(overrides or {})
    old = manifest.load_previous(out)
    with ExitStack() as stack:
        if SAMPLE in params.source:
            try:
                # The site has a made-up host behind a proxy, so that no random port stands in the manifest.
                os.environ["http_proxy"] = stack.enter_context(server.serve(gems=params.only))
                os.environ["no_proxy"] = ""
            except ValueError as error:
                raise DataError(f"crawl.only: {error}") from None
            urls, settings = {"minerals": server.LIST_URL}, LOCAL_SETTINGS | settings
        sites = {name: spider for name, spider in SITES.items() if name in params.source or name in urls}
        if set(sites) - set(urls) and ("@" not in params.contact or params.contact.endswith(".example")):
            raise ParameterError(
                f"crawl.contact is {params.contact!r}; set it to your address, so that the site's owner can reach you"
            )
        new = stack.enter_context(files.atomic_write(out))
        new.mkdir()
        found: list[SourceResult] = []
        if FOLDER in params.source:
            found.append(SourceResult(*local_photos.copy(params, new), {}))
        if sites:
            found += crawl_sites(sites, urls, params, new, logs=logs, overrides=settings)
        lines = manifest.assign_numbers([line for source in found for line in source.lines], old)
        accounts = [source.account for source in found]
        files.write_jsonl(new / manifest.MANIFEST, lines)
        files.write_json(new / manifest.SUMMARY, accounts)
    traffic: Counter[str] = sum((Counter(source.traffic) for source in found), Counter())
    return _report(accounts, lines) | {
        "changes": manifest.changes(lines, old),
        "seconds": round(time.monotonic() - began, 1),
        **{name: traffic[name] for name in ("requests", "bytes_received", "cached", "retried")},
    }


def crawl_sites(
    sites: Mapping[str, type[GemSpider]],
    list_urls: Mapping[str, str],
    params: CrawlParams,
    store: Path,
    *,
    logs: Path,
    overrides: Mapping[str, Any],
) -> list[SourceResult]:
    """Crawls sites side by side into a folder; see `crawl`."""
    logs.mkdir(parents=True, exist_ok=True)
    configured = Settings()
    configured.setmodule(project_settings)
    agent = f"{project_settings.USER_AGENT}; contact: {params.contact}"
    configured.setdict({"USER_AGENT": agent, "LOG_FILE": str(logs / "crawl.log"), "LOG_FILE_APPEND": False})
    configured.setdict({"PICTURES_STORE": str(store), "PICTURES_LOG": str(logs / "fetched.jsonl"), **overrides})
    urls = {name: list_urls.get(name, spider.list_url) for name, spider in sites.items()}
    with cache.session(Path(data_path(configured["HTTPCACHE_DIR"])), urls) as since:
        configured.set("CRAWL_SINCE", since)
        process = AsyncCrawlerProcess(configured)
        crawlers = {name: process.create_crawler(spider) for name, spider in sites.items()}
        for name, crawler in crawlers.items():
            process.crawl(crawler, list_url=urls[name], only=params.only, max_per_gem=params.max_per_gem)
        process.start()
        for name, crawler in crawlers.items():
            _check(urls[name], crawler)
    for name, crawler in crawlers.items():
        if not crawler.pictures.lines:  # type: ignore[attr-defined]
            raise SiteError(f"{urls[name]}: not one picture; {logs / 'crawl.log'} tells what came instead")
    return [_found(urls[name], crawler) for name, crawler in crawlers.items()]


def _check(url: str, crawler: Crawler) -> None:
    """Refuses a crawl that was cut short; what it got is in the cache, and the next one goes on from there."""
    findings: CrawlStats = crawler.spider.findings  # type: ignore[union-attr]
    stats: dict[str, Any] = crawler.stats.get_stats()
    if findings.disk_error:
        raise findings.disk_error
    if findings.unreachable:
        raise SiteError(f"{url}: no answer ({findings.unreachable}); check the address and the connection")
    if stats["finish_reason"] != "finished":
        raise SiteError(f"{url}: crawl interrupted; run it again and it goes on where it was")
    failed = Counter(failure["reason"] for failure in findings.failures)
    broken = failed.total() - sum(number for reason, number in failed.items() if reason in PERMANENT_FAILURES)
    broken += sum(number for name, number in stats.items() if name.startswith("spider_exceptions/"))
    if broken > MAX_BROKEN * (len(crawler.pictures.lines) + broken):  # type: ignore[attr-defined]
        told = ", ".join(f"{number} {reason}" for reason, number in sorted(failed.items()))
        raise SiteError(f"{url}: too much failed to take the crawl for whole ({told}); run it again later")


def _found(url: str, crawler: Crawler) -> SourceResult:
    findings: CrawlStats = crawler.spider.findings  # type: ignore[union-attr]
    stats: dict[str, Any] = crawler.stats.get_stats()
    account = {
        "source": url,
        "pages": findings.pages,
        "failures": sorted(findings.failures, key=lambda failure: (failure["url"], failure["reason"])),
        "gems_without_pictures": sorted(findings.without_pictures),
        "unmatched_markup": dict(sorted(findings.unmatched.items())),
    }
    traffic = {
        "requests": findings.requests,
        "bytes_received": findings.received,
        "cached": sum(stats.get(f"httpcache/{kind}", 0) for kind in ("hit", "revalidate")),
        "retried": stats.get("retry/count", 0),
    }
    return SourceResult(list(crawler.pictures.lines.values()), account, traffic)  # type: ignore[attr-defined]


def _report(accounts: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    failures = [failure for account in accounts for failure in account["failures"]]
    by_gem = Counter(str(line["gem"]) for line in lines)
    return {
        "sources": [account["source"] for account in accounts],
        "pages": sum(account["pages"] for account in accounts),
        "gems": len(by_gem),
        "pictures": len(lines),
        "bytes": sum(line["bytes"] for line in lines),
        "thumbnails": sum(line.get("thumbnail", False) for line in lines),
        "by_gem": dict(sorted(by_gem.items())),
        "failed": dict(sorted(Counter(failure["reason"] for failure in failures).items())),
        "failures": failures,
        "skipped_by_robots": sum(failure["reason"] == ROBOTS for failure in failures),
        "gems_without_pictures": sorted(gem for account in accounts for gem in account["gems_without_pictures"]),
        "unmatched_markup": dict(sum((Counter(account["unmatched_markup"]) for account in accounts), Counter())),
    }
