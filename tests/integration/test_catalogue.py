"""The spider for a catalogue that scripts fill in, with real headless Chromium: what it takes and what not."""

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

import pytest

from sample_site import server
from sample_site.pictures import BY_NAME, ordinary

Run = Callable[..., subprocess.CompletedProcess[str]]
GEMS = ("Ruby", "Citrine", "Painite", "Almandine")  # Painite has no products, Almandine's script fails
CRAWL = """
import json, sys
from pathlib import Path
from gemmodel import params
from gemmodel.errors import told_in_one_line
from scraper import sources
FAST = {"DOWNLOAD_DELAY": 0, "AUTOTHROTTLE_ENABLED": False, "RETRY_TIMES": 1, "RENDER_TIMEOUT": 4}
with told_in_one_line("crawl"):
    settings = params.load(Path("params.yaml")).crawl
    urls = {"rasavgems": sys.argv[1]}
    print(json.dumps(sources.crawl(settings, Path("raw"), logs=Path("logs"), list_urls=urls, overrides=FAST)))
"""


def browser() -> str | None:
    """Return the system's browser, None where it or the extra is missing."""
    if not importlib.util.find_spec("scrapy_playwright"):
        return None
    from scraper.browser import executable

    return executable()


needs_browser = pytest.mark.skipif(not browser(), reason="no Chromium, or not the extra: pip install -e '.[dynamic]'")


@dataclass
class Site:
    """The sample site as a proxy, and the lines of all requests that it got."""

    proxy: str
    asked: list[str] = field(default_factory=list)

    def content(self, url: str) -> bytes:
        """Return what stands at a URL."""
        with build_opener(ProxyHandler({"http": self.proxy})).open(url, timeout=30) as answer:
            return bytes(answer.read())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            served.asked.append(record.getMessage())

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
class Crawled:
    """What a crawl left: its report, its manifest by picture's URL, every file's bytes, and what it asked for."""

    report: dict[str, Any]
    manifest: dict[str, dict[str, Any]]
    files: dict[str, bytes]
    asked: list[str]


@pytest.fixture(scope="module")
def crawl(site: Site, run: Run) -> Callable[[Path], Crawled]:
    def crawled(folder: Path) -> Crawled:
        site.asked.clear()
        ended = run("-c", CRAWL, server.CATALOGUE_URL, cwd=folder, http_proxy=site.proxy, no_proxy="")
        assert ended.returncode == 0, ended.stderr
        asked = list(site.asked)
        raw = folder / "raw"
        lines = [json.loads(line) for line in (raw / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
        files = {path.relative_to(raw).as_posix(): path.read_bytes() for path in raw.rglob("*") if path.is_file()}
        return Crawled(json.loads(ended.stdout), {line["picture_url"]: line for line in lines}, files, asked)

    return crawled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_params: Callable[..., Path]) -> Path:
    place = tmp_path_factory.mktemp("catalogue")
    write_params(place, {"crawl.source": "rasavgems"})
    return place


@pytest.fixture(scope="module")
def first(crawl: Callable[[Path], Crawled], folder: Path) -> Crawled:
    return crawl(folder)


def count(asked: list[str], path: str) -> int:
    return sum(path in line for line in asked)


@needs_browser
def test_each_product_has_its_original_picture(first: Crawled, site: Site) -> None:
    expected = {
        f"{server.CATALOGUE_URL.rstrip('/')}{ordinary(BY_NAME[gem], number).path}": gem
        for gem in ("Ruby", "Citrine")
        for number in (0, 1)
    }
    assert {url: line["gem"] for url, line in first.manifest.items()} == expected
    for url, line in first.manifest.items():
        body = first.files[line["path"]]
        assert body == site.content(url)
        assert (line["sha256"], line["bytes"]) == (hashlib.sha256(body).hexdigest(), len(body))
        assert (line["format"], line["thumbnail"]) == ("JPEG", False)
        assert line["page_url"] == f"{server.CATALOGUE_URL}gems/{line['gem'].lower()}.html"
    assert len(first.files) == len(expected) + 2  # the manifest and the crawl's account


@needs_browser
def test_what_is_not_there_is_told_by_name_and_reason(first: Crawled) -> None:
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
def test_nothing_is_asked_of_another_host_and_each_picture_once(first: Crawled) -> None:
    targets = [re.search(r'"\w+ (\S+) HTTP', line) for line in first.asked]
    hosts = {urlsplit(target[1]).hostname for target in targets if target}
    assert all(targets), first.asked
    assert hosts == {server.CATALOGUE_HOST}, first.asked
    assert all(count(first.asked, urlsplit(url).path) == 1 for url in first.manifest)
    assert count(first.asked, "/gems/almandine.html") == 2  # it was given a second chance
    assert count(first.asked, "/gems/ruby.html") == count(first.asked, "/products/ruby.json") == 1
    assert 0 < first.report["requests"] <= len(first.asked)


@needs_browser
def test_a_second_crawl_renders_again_and_leaves_every_byte_as_it_was(
    first: Crawled, crawl: Callable[[Path], Crawled], folder: Path
) -> None:
    again = crawl(folder)
    assert again.files == first.files
    assert again.report["changes"] == {"new": [], "changed": [], "vanished": []}
    assert count(again.asked, "/products/ruby.json") == 1


@needs_browser
def test_an_interrupted_crawl_goes_on_with_the_pages_that_it_rendered(
    first: Crawled, crawl: Callable[[Path], Crawled], folder: Path
) -> None:
    unfinished = {"crawl": {"rasavgems": server.CATALOGUE_URL}, "since": (folder / "params.yaml").stat().st_mtime}
    (found,) = folder.rglob("httpcache")
    (found / "unfinished.json").write_text(json.dumps(unfinished))
    again = crawl(folder)
    assert again.files == first.files
    assert again.report["gems_without_pictures"] == ["Painite"]
    assert [count(again.asked, f"/products/{gem}.json") for gem in ("ruby", "painite", "almandine")] == [0, 0, 2]


@pytest.mark.parametrize(
    ("missing", "remedy"), [("extra", "pip install -e '.[dynamic]'"), ("browser", "apt-get install chromium")]
)
def test_what_is_missing_is_told_in_one_line(
    tmp_path: Path, run: Run, refused: Any, write_params: Any, missing: str, remedy: str
) -> None:
    if missing == "browser":
        pytest.importorskip("scrapy_playwright")
    write_params(tmp_path, {"crawl.source": "rasavgems"})
    block = "import sys\nsys.modules['scrapy_playwright'] = None\n" if missing == "extra" else ""
    ended = run("-c", block + CRAWL, server.CATALOGUE_URL, cwd=tmp_path, PATH=str(Path(sys.executable).parent))
    refused(ended, "crawl", "rasavgems", remedy)
    assert not (tmp_path / "raw").exists()
