"""The spider for a catalogue that is filled by scripts, with real headless Chromium."""

import hashlib
import importlib.util
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import loopback
import pytest

from sample_site import server
from sample_site.gems import BY_NAME
from sample_site.pictures import ordinary

Run = Callable[..., subprocess.CompletedProcess[str]]
GEMS = ("Ruby", "Citrine", "Painite", "Almandine")  # Painite has no products, Almandine's script fails
OPTIONS = (  # of loopback.CRAWL
    json.dumps({"rasavgems": server.CATALOGUE_URL}),
    json.dumps({"DOWNLOAD_DELAY": 0, "AUTOTHROTTLE_ENABLED": False, "RETRY_TIMES": 1, "RENDER_TIMEOUT": 4}),
)


def browser() -> str | None:
    """Return the system's browser, None where it or the extra is missing."""
    if not importlib.util.find_spec("scrapy_playwright"):
        return None
    from scraper.browser import executable

    return executable()


needs_browser = pytest.mark.skipif(not browser(), reason="no Chromium, or not the extra: pip install -e '.[dynamic]'")


@dataclass
class Site:
    """The sample site as a proxy, and the log lines of its requests."""

    proxy: str
    requests: list[str] = field(default_factory=list)

    def content(self, url: str) -> bytes:
        """Return the body of a URL."""
        with build_opener(ProxyHandler({"http": self.proxy})).open(url, timeout=30) as response:
            return bytes(response.read())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            served.requests.append(record.getMessage())

    log, listener = logging.getLogger(server.__name__), Listener()
    log.addHandler(listener)
    before = log.level
    log.setLevel(logging.DEBUG)
    with server.serve(pictures_per_gem=2, gems=GEMS) as proxy:
        served = Site(proxy)
        yield served
    log.removeHandler(listener)
    log.setLevel(before)


@dataclass
class Crawl(loopback.Crawl):
    """A finished crawl with the log lines of its requests."""

    requests: list[str]

    @property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """The manifest rows by the picture's URL."""
        return {row["picture_url"]: row for row in self.rows}

    def count(self, path: str) -> int:
        """The number of requests for a path."""
        return sum(path in line for line in self.requests)


@pytest.fixture(scope="module")
def crawl(site: Site, run: Run) -> Callable[[Path], Crawl]:
    def start(folder: Path) -> Crawl:
        site.requests.clear()
        process = run("-c", loopback.CRAWL, *OPTIONS, cwd=folder, http_proxy=site.proxy, no_proxy="")
        return Crawl(folder, process, list(site.requests))

    return start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_params: Callable[..., Path]) -> Path:
    path = tmp_path_factory.mktemp("catalogue")
    write_params(path, {"crawl.source": "rasavgems"})
    return path


@pytest.fixture(scope="module")
def first(crawl: Callable[[Path], Crawl], folder: Path) -> Crawl:
    return crawl(folder)


@needs_browser
def test_the_picture_of_each_product_is_stored_with_its_original_bytes(first: Crawl, site: Site) -> None:
    expected = {
        f"{server.CATALOGUE_URL.rstrip('/')}{ordinary(BY_NAME[gem], number).path}": gem
        for gem in ("Ruby", "Citrine")
        for number in (0, 1)
    }
    assert {url: row["gem"] for url, row in first.manifest.items()} == expected
    for url, row in first.manifest.items():
        body = first.raw[row["path"]]
        assert body == site.content(url)
        assert (row["sha256"], row["bytes"]) == (hashlib.sha256(body).hexdigest(), len(body))
        assert (row["format"], row["thumbnail"]) == ("JPEG", False)
        assert row["page_url"] == f"{server.CATALOGUE_URL}gems/{row['gem'].lower()}.html"


@needs_browser
def test_each_failure_is_reported_with_its_reason(first: Crawl) -> None:
    report = first.report
    assert (report["gems"], report["pictures"]) == (2, 4)
    assert report["gems_without_pictures"] == ["Painite"]
    assert {(urlsplit(failure["url"]).path, failure["reason"]) for failure in report["failures"]} == {
        ("/gems/almandine.html", "not filled by its scripts in time"),
        ("/gems/moved.html", "leads to another host"),
        ("/ruby.jpg", "leads to another host"),
        ("/citrine.jpg", "leads to another host"),
    }
    assert report["unmatched_markup"] == {}


@needs_browser
def test_no_other_host_gets_a_request_and_each_picture_is_requested_once(first: Crawl) -> None:
    targets = [re.search(r'"\w+ (\S+) HTTP', line) for line in first.requests]
    hosts = {urlsplit(target[1]).hostname for target in targets if target}
    assert all(targets), first.requests
    assert hosts == {server.CATALOGUE_HOST}, first.requests
    assert all(first.count(urlsplit(url).path) == 1 for url in first.manifest)
    assert first.count("/gems/almandine.html") == 2  # retried once
    assert first.count("/gems/ruby.html") == first.count("/products/ruby.json") == 1
    assert 0 < first.report["requests"] <= len(first.requests)


@needs_browser
def test_a_second_crawl_renders_the_pages_again_and_gives_the_same_bytes(
    first: Crawl, crawl: Callable[[Path], Crawl], folder: Path
) -> None:
    second = crawl(folder)
    assert second.raw == first.raw
    assert second.report["changes"] == {"new": [], "changed": [], "vanished": []}
    assert second.count("/products/ruby.json") == 1


@needs_browser
def test_a_resumed_crawl_does_not_render_pages_again(
    first: Crawl, crawl: Callable[[Path], Crawl], folder: Path
) -> None:
    unfinished = {"crawl": {"rasavgems": server.CATALOGUE_URL}, "since": (folder / "params.yaml").stat().st_mtime}
    (cache,) = folder.rglob("httpcache")
    (cache / "unfinished.json").write_text(json.dumps(unfinished))
    second = crawl(folder)
    assert second.raw == first.raw
    assert second.report["gems_without_pictures"] == ["Painite"]
    assert [second.count(f"/products/{gem}.json") for gem in ("ruby", "painite", "almandine")] == [0, 0, 2]


@pytest.mark.parametrize(
    ("missing", "remedy"), [("extra", "pip install -e '.[dynamic]'"), ("browser", "apt-get install chromium")]
)
def test_a_missing_browser_or_extra_ends_in_one_line_with_the_remedy(
    tmp_path: Path, run: Run, refused: Any, write_params: Any, missing: str, remedy: str
) -> None:
    if missing == "browser":
        pytest.importorskip("scrapy_playwright")
    write_params(tmp_path, {"crawl.source": "rasavgems"})
    block = "import sys\nsys.modules['scrapy_playwright'] = None\n" if missing == "extra" else ""
    process = run("-c", block + loopback.CRAWL, *OPTIONS, cwd=tmp_path, PATH=str(Path(sys.executable).parent))
    refused(process, "crawl", "rasavgems", remedy)
    assert not (tmp_path / "data" / "raw").exists()
