"""The sources of raw photos: web sites, and folders or archives of photos; several can be merged."""

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from scrapy.crawler import AsyncCrawlerProcess, Crawler
from scrapy.settings import Settings
from scrapy.utils.project import data_path

from gemmodel.core import files
from gemmodel.core.errors import DataError, ParameterError, SiteError, did_you_mean, shortened
from gemmodel.core.image_folder import class_key, class_names
from gemmodel.core.params import CrawlParams
from sample_site import server
from sample_site.gems import BY_NAME
from scraper import cache, local_photos, manifest, safe_names
from scraper import settings as project_settings
from scraper.middlewares import NOT_A_WEB_ADDRESS, OTHER_HOST
from scraper.spiders.base import BAD_REDIRECT, REDIRECT_LOOP, ROBOTS, TOO_LARGE, CrawlStats, GemSpider
from scraper.spiders.minerals import MineralsSpider
from scraper.spiders.rasavgems import RasavgemsSpider

SITES: dict[str, type[GemSpider]] = {"minerals": MineralsSpider, "rasavgems": RasavgemsSpider}
SAMPLE = "sample"
FOLDER = "folder"

# The bundled site runs on this machine, so it needs no polite delays.
LOCAL_SETTINGS = {
    "DOWNLOAD_DELAY": 0,
    "AUTOTHROTTLE_ENABLED": False,
    "CONCURRENT_REQUESTS": 8,
    "CONCURRENT_REQUESTS_PER_DOMAIN": 8,
}

# Failures that the next crawl would meet again. With too many others (a network that is down) a crawl is incomplete.
PERMANENT_FAILURES = {
    "HTTP status 403",
    "HTTP status 404",
    "HTTP status 410",
    ROBOTS,
    OTHER_HOST,
    NOT_A_WEB_ADDRESS,
    BAD_REDIRECT,
    REDIRECT_LOOP,
    TOO_LARGE,
}
MIN_FRACTION = 0.5  # of the photos of the previous crawl; fewer do not replace them unasked
MAX_RECORDED = 300  # characters of what was recorded, in an error
MAX_FAILED_FRACTION = 0.25  # of all pictures; more temporary failures make the crawl incomplete


@dataclass(frozen=True)
class SourceResult:
    """What one source gave.

    Attributes:
        rows: manifest rows, without their numbers.
        summary: what was not stored, and why; the same in every crawl of an unchanged source.
        traffic: counts that differ between crawls: requests, bytes, cache hits, retries.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    traffic: dict[str, int]


def crawl(
    params: CrawlParams,
    out: Path,
    *,
    logs: Path,
    list_urls: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fills a raw folder from the sources that the parameters name. Twisted allows one such crawl per process.

    Args:
        params: the sources and their limits.
        out: the raw folder, which is replaced: one folder per gem with the original bytes, `manifest.jsonl` with one
            row per picture, and `crawl.json` with what failed, and the numbers of pictures that earlier crawls had. A
            picture of an earlier crawl keeps its number.
        logs: folder for Scrapy's log and the times of the downloads.
        list_urls: URL of the list of gems by source, where it is not the real site's.
        overrides: Scrapy settings.

    Returns:
        The crawl's report, for `report.markdown` and as JSON.

    Raises:
        ParameterError: a live site without a contact address, or sources that exclude each other.
        SiteError: a site is unreachable, has no pictures, or too many requests failed.
        DataError: a folder or archive does not exist or holds no photos.
    """
    started = time.monotonic()
    if SAMPLE in params.source and len(params.source) > 1:
        raise ParameterError(
            "crawl.source: sample excludes other sources; its pictures are rendered, theirs are photos"
        )
    urls, settings = dict(list_urls or {}), dict(overrides or {})
    with ExitStack() as stack:
        if SAMPLE in params.source:
            try:
                # The server is a proxy for a made-up host: URLs in the manifest do not name its random port.
                names = {class_key(name): name for name in BY_NAME}
                only = [names.get(class_key(gem), gem) for gem in params.only]
                hint = "".join(did_you_mean(gem, BY_NAME) for gem in only if gem not in BY_NAME)
                os.environ["http_proxy"] = stack.enter_context(server.serve(gems=only))
                os.environ["no_proxy"] = ""
            except ValueError as error:
                raise DataError(f"crawl.only: {error}{hint}") from None
            urls, settings = {"minerals": server.LIST_URL}, LOCAL_SETTINGS | settings
        sites = {name: spider for name, spider in SITES.items() if name in params.source or name in urls}
        if set(sites) - set(urls) and ("@" not in params.contact or params.contact.endswith(".example")):
            raise ParameterError(
                f"crawl.contact is {params.contact!r}; set it to your address, so that the site's owner can reach you"
            )
        new = stack.enter_context(files.atomic_write(out))
        new.mkdir()
        previous = manifest.load_previous(out)  # after atomic_write put back what a killed crawl had moved away
        results: list[SourceResult] = []
        if FOLDER in params.source:
            results.append(SourceResult(*local_photos.copy(params, new), {}))
        if sites:
            results += crawl_sites(sites, urls, params, new, logs=logs, overrides=settings)
        summaries = [result.summary for result in results]
        rows, joined = _join_spellings([row for result in results for row in result.rows], new)
        same_sources = manifest.previous_sources(out) == [summary["source"] for summary in summaries]
        if same_sources and not params.allow_fewer:
            _check_not_fewer(rows, previous, params, out)
        earlier = [*manifest.load_retired(out), *previous]
        if not same_sources:
            earlier = manifest.drop_vanished_gems(earlier, rows)
        rows = manifest.assign_numbers(rows, earlier)
        retired = manifest.list_retired(rows, earlier)
        files.write_jsonl(new / manifest.MANIFEST, rows)
        files.write_json(new / manifest.SUMMARY, [*summaries, *([{"retired": retired}] if retired else [])])
    traffic: Counter[str] = sum((Counter(result.traffic) for result in results), Counter())
    return _report(summaries, rows, joined) | {
        "changes": manifest.changes(rows, previous),
        "seconds": round(time.monotonic() - started, 1),
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
    """Crawls sites in parallel into a folder; see `crawl`."""
    logs.mkdir(parents=True, exist_ok=True)
    logging.raiseExceptions = False  # where the log's disk is full, too, the crawl's own error says so
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
            _check_complete(urls[name], crawler)
    for name, crawler in crawlers.items():
        if not crawler.pictures.rows:  # type: ignore[attr-defined]
            recorded = _recorded(crawler.spider.crawl_stats)  # type: ignore[union-attr]
            raise SiteError(f"{urls[name]}: no pictures{recorded}; {logs / 'crawl.log'} lists the responses")
    return [_source_result(urls[name], crawler) for name, crawler in crawlers.items()]


def _recorded(crawl_stats: CrawlStats) -> str:
    """Returns what a crawl counted of failures and unexpected markup, as the end of a message; empty for nothing."""
    counts = Counter(failure["reason"] for failure in crawl_stats.failures + crawl_stats.unusable)
    text = ", ".join(f"{what} ({count})" for what, count in (crawl_stats.unmatched + counts).items())
    return f": {shortened(text, MAX_RECORDED)}" if text else ""


def _join_spellings(rows: Sequence[dict[str, Any]], store: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Joins gems whose names differ between sources in capitals, Unicode form or spaces only.

    Returns:
        The rows, with the files moved to one folder per gem, and the name of the gem by other spelling.
    """
    names = class_names(Counter(row["gem"] for row in rows))
    joined = {name: names[name] for name in sorted(names) if names[name] != name}
    if not joined:
        return list(rows), {}
    folders = {row["gem"]: row["path"].split("/")[0] for row in rows}
    result, taken = [], {safe_names.name_key(row["path"]) for row in rows if row["gem"] not in joined}
    for row in rows:
        gem = names[row["gem"]]
        if row["gem"] in joined:
            path = PurePosixPath(folders.get(gem, safe_names.safe_name(gem)), *row["path"].split("/")[1:])
            while safe_names.name_key(path.as_posix()) in taken:
                path = path.with_stem(f"{path.stem}-{row['sha256'][:8]}")
            taken.add(safe_names.name_key(path.as_posix()))
            (store / path).parent.mkdir(parents=True, exist_ok=True)
            (store / row["path"]).rename(store / path)
            row = row | {"gem": gem, "path": path.as_posix()}
        result.append(row)
    return result, joined


def _check_not_fewer(
    rows: Sequence[Mapping[str, Any]], previous: Sequence[Mapping[str, Any]], params: CrawlParams, out: Path
) -> None:
    """Raises if there are far fewer photos than in the previous crawl of the same sources, of the gems requested now.

    Raises:
        DataError: there are less than MIN_FRACTION of them.
    """
    only = {class_key(gem) for gem in params.only}
    counts = Counter(row["gem"] for row in previous if not only or class_key(row["gem"]) in only)
    before = sum(min(count, params.max_per_gem or count) for count in counts.values())
    if len(rows) < MIN_FRACTION * before:
        raise DataError(
            f"{out}: this crawl found {len(rows)} photos, the previous one {before}; those are kept. "
            "If it is right that there are so few, set crawl.allow_fewer to true"
        )


def _check_complete(url: str, crawler: Crawler) -> None:
    """Raises if a crawl is incomplete; the cache has its responses, so the next crawl resumes it."""
    crawl_stats: CrawlStats = crawler.spider.crawl_stats  # type: ignore[union-attr]
    scrapy_stats: dict[str, Any] = crawler.stats.get_stats()
    if crawl_stats.disk_error:
        raise crawl_stats.disk_error
    if crawl_stats.list_error:
        remedy = "" if "run the crawl again" in crawl_stats.list_error else "; check the address and the connection"
        raise SiteError(f"{url}: no response ({crawl_stats.list_error}){remedy}")
    if scrapy_stats.get("finish_reason") != "finished":  # without one after a second Ctrl+C
        raise SiteError(f"{url}: crawl interrupted; run it again to resume")
    failed = Counter(failure["reason"] for failure in crawl_stats.failures)
    pictures, pages = (
        sum(count for reason, count in counts.items() if reason not in PERMANENT_FAILURES)
        for counts in (failed - crawl_stats.failed_pages, crawl_stats.failed_pages)
    )
    pages += sum(count for name, count in scrapy_stats.items() if name.startswith("spider_exceptions/"))
    listed = len(crawler.pictures.rows) + pictures  # type: ignore[attr-defined]
    unlisted = pages * max(1.0, listed / max(1, crawl_stats.pages - 1))  # as many as the other pages have on average
    if pictures + unlisted > MAX_FAILED_FRACTION * (listed + unlisted):
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(failed.items()))
        raise SiteError(f"{url}: crawl incomplete, too many requests failed ({counts}); run it again later")


def _source_result(url: str, crawler: Crawler) -> SourceResult:
    crawl_stats: CrawlStats = crawler.spider.crawl_stats  # type: ignore[union-attr]
    scrapy_stats: dict[str, Any] = crawler.stats.get_stats()
    failures = crawl_stats.failures + crawl_stats.unusable
    summary = {
        "source": url,
        "pages": crawl_stats.pages,
        "failures": sorted(failures, key=lambda failure: (failure["url"], failure["reason"])),
        "gems_without_pictures": sorted(crawl_stats.without_pictures),
        "unmatched_markup": dict(sorted(crawl_stats.unmatched.items())),
    }
    traffic = {
        "requests": crawl_stats.requests,
        "bytes_received": crawl_stats.received_bytes,
        "cached": sum(scrapy_stats.get(f"httpcache/{kind}", 0) for kind in ("hit", "revalidate")),
        "retried": scrapy_stats.get("retry/count", 0),
    }
    return SourceResult(list(crawler.pictures.rows.values()), summary, traffic)  # type: ignore[attr-defined]


def _report(
    summaries: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], joined: Mapping[str, str]
) -> dict[str, Any]:
    failures = [failure for summary in summaries for failure in summary["failures"]]
    by_gem = Counter(str(row["gem"]) for row in rows)
    folders = {str(row["gem"]): str(row["path"]).split("/")[0] for row in rows}
    return {
        "sources": [summary["source"] for summary in summaries],
        "pages": sum(summary["pages"] for summary in summaries),
        "gems": len(by_gem),
        "pictures": len(rows),
        "bytes": sum(row["bytes"] for row in rows),
        "thumbnails": sum(row.get("thumbnail", False) for row in rows),
        "by_gem": dict(sorted(by_gem.items())),
        "failed": dict(sorted(Counter(failure["reason"] for failure in failures).items())),
        "failures": failures,
        "skipped_by_robots": sum(failure["reason"] == ROBOTS for failure in failures),
        "gems_without_pictures": sorted(gem for summary in summaries for gem in summary["gems_without_pictures"]),
        "joined": {name: gem for summary in summaries for name, gem in summary.get("joined", {}).items()}
        | dict(joined),
        "renamed": {gem: folder for gem, folder in sorted(folders.items()) if gem != folder},
        "guesses": [guess for summary in summaries for guess in summary.get("guesses", ())],
        "unmatched_markup": dict(sum((Counter(summary["unmatched_markup"]) for summary in summaries), Counter())),
    }
