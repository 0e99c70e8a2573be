"""A killed crawl resumes; a repeated one revalidates its cache and downloads changed pictures only."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from loopback import (
    HTML,
    LIST,
    Crawl,
    Exchange,
    Reply,
    Site,
    content,
    crawl,
    gem_page,
    jpeg,
    list_page,
    serving,
    start,
)

pytestmark = pytest.mark.usefixtures("forked_crawls")

GEMS = {name: f"/gem/{name}" for name in ("Ruby", "Opal", "Jade")}
WITH_ETAG = {f"/{gem}/{i}.jpg": jpeg(1000 * index + i) for index, gem in enumerate(GEMS) for i in range(4)}
PLAIN = {f"/{gem}/plain.jpg": jpeg(9000 + index) for index, gem in enumerate(GEMS)}  # with neither ETag nor date
REQUESTS = 2 + len(GEMS) + len(WITH_ETAG) + len(PLAIN)


def with_etag(body: bytes) -> Callable[[Exchange], None]:
    """Reply with an ETag and the body in two parts, or with 304 to a client that has it."""
    tag = f'"{hash(body)}"'

    def reply(exchange: Exchange) -> None:
        if exchange.headers.get("if-none-match") == tag:
            exchange.send(b"", 304, ETag=tag)
        else:
            exchange.send(body[:100], Content_Length=str(len(body)), ETag=tag, Content_Type="image/jpeg")
            exchange.socket.sendall(body[100:])

    return reply


def routes() -> dict[str, Any]:
    pages: dict[str, Any] = {"/robots.txt": b"User-agent: *\nDisallow: /none\n", LIST: list_page(GEMS)} | PLAIN
    for gem, path in GEMS.items():
        pages[path] = gem_page(*(name for name in {**WITH_ETAG, **PLAIN} if name.startswith(f"/{gem}/")))
    return pages | {path: with_etag(body) for path, body in WITH_ETAG.items()}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving(routes()) as served:
        yield served


@pytest.fixture(scope="module")
def complete(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Crawl:
    """A crawl without an interruption."""
    result = crawl(tmp_path_factory.mktemp("complete"), site.url())
    assert len(site.requested) == REQUESTS
    assert len(result.pictures) == len(WITH_ETAG) + len(PLAIN)
    return result


@pytest.fixture(scope="module")
def earlier(site: Site, complete: Crawl, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures of an earlier crawl of one gem, which the next crawl replaces."""
    folder = tmp_path_factory.mktemp("earlier")
    assert crawl(folder, site.url(), only=["Opal"], max_per_gem=1).pictures
    shutil.rmtree(folder / ".scrapy")
    return folder


def forked_pid(process: subprocess.Popen[str]) -> int:
    """Return the process, and process group, of the fork that runs what a `forked_python` was started with."""
    folder = psutil.Process(process.pid).cwd()
    [pid] = [one.pid for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == folder and one.pid != process.pid]
    return int(pid)


@pytest.mark.parametrize("moment", range(2, REQUESTS + 1, 2))
def test_a_killed_crawl_resumes_and_gives_the_same_bytes(
    site: Site, complete: Crawl, earlier: Path, tmp_path: Path, forked_python: str, moment: int
) -> None:
    """The site kills the crawl at its n-th request: ten moments, five of them in the middle of a body."""
    folder = tmp_path / "crawl"
    shutil.copytree(earlier, folder)
    before = content(folder / "data")
    received: list[str] = []
    process = start(folder, site.url(), {}, {}, python=forked_python)

    def kill(exchange: Exchange) -> None:
        received.append(exchange.path)
        if len(received) == moment:
            if moment % 4 == 0:
                exchange.send(b"\xff\xd8 half", Content_Length="5000", ETag='"half"', Content_Type="image/jpeg")
            os.killpg(forked_pid(process), signal.SIGKILL)
            process.wait()

    site.before_reply = kill
    try:
        process.communicate(timeout=60)
    finally:
        site.before_reply = None
    assert process.returncode == -signal.SIGKILL
    assert {path: body for path, body in content(folder / "data").items() if path.startswith("raw/")} == before
    done = received[: moment - 1]
    assert len(done) == moment - 1
    count = len(site.requested)
    result = crawl(folder, site.url())
    after = site.requested[count:]
    assert result.raw == complete.raw
    assert {path.name for path in (folder / "data").iterdir()} == {"raw"}
    assert not set(done) & set(after)
    assert len(done) + len(after) == REQUESTS
    assert result.report["requests"] == len(after)


def test_only_changed_pictures_are_downloaded_again(site: Site, complete: Crawl, tmp_path: Path) -> None:
    folder = tmp_path / "crawl"
    first = crawl(folder, site.url())
    before = len(site.requested)
    second = crawl(folder, site.url())
    assert second.raw == first.raw == complete.raw
    assert len(site.requested) - before == REQUESTS  # each is requested
    assert second.report["cached"] == len(WITH_ETAG)  # and gets a 304 where the site supports it
    assert second.report["changes"] == {"new": [], "changed": [], "vanished": []}
    old = dict(site.routes)
    try:
        site.routes["/Ruby/1.jpg"] = with_etag(jpeg(77))
        site.routes["/Jade/new.jpg"] = with_etag(jpeg(78))
        site.routes["/gem/Jade"] = old["/gem/Jade"].replace(b"/Jade/0.jpg", b"/Jade/new.jpg")
        third = crawl(folder, site.url())
    finally:
        site.routes = old
    changes = {kind: [path.rpartition("-")[0] for path in paths] for kind, paths in third.report["changes"].items()}
    assert changes == {"new": ["Jade/new"], "changed": ["Ruby/1"], "vanished": ["Jade/0"]}
    assert third.report["cached"] == len(WITH_ETAG) - 2
    assert third.pictures[site.url("/Ruby/1.jpg")] == jpeg(77)
    numbers = {row["picture_url"]: row["number"] for row in first.rows}
    assert all(numbers.get(row["picture_url"], 5) == row["number"] for row in third.rows)


def test_damaged_cache_entries_are_ignored(site: Site, complete: Crawl, tmp_path: Path, forked_python: str) -> None:
    """As a crash of the machine leaves them: truncated, empty, and half-written."""
    folder = tmp_path / "crawl"
    process = start(folder, site.url(), {}, {}, python=forked_python)
    count = len(site.requested)

    def stop(exchange: Exchange) -> None:
        if len(site.requested) == count + REQUESTS:
            os.killpg(forked_pid(process), signal.SIGKILL)
            process.wait()

    site.before_reply = stop
    process.communicate(timeout=60)
    site.before_reply = None
    entries = sorted(path.parent for path in (folder / ".scrapy" / "httpcache" / "minerals").rglob("response_body"))
    assert len(entries) == REQUESTS - 1
    names = ("response_body", "response_headers", "pickled_meta", "sha256")
    for entry, name in zip(entries[: len(names)], names, strict=True):
        (entry / name).write_bytes((entry / name).read_bytes()[:-3])
    (entries[4] / "response_body").write_bytes(b"")
    (entries[5] / "response_data").unlink()
    shutil.copytree(entries[6], folder / ".scrapy" / "httpcache" / ".new" / "minerals" / "ab" / "cd")
    shutil.rmtree(entries[6])
    (folder / ".scrapy" / "httpcache" / "unfinished.new").write_text("{")
    result = crawl(folder, site.url())
    assert result.raw == complete.raw
    assert result.report["requests"] == 1 + 7
    assert not list((folder / ".scrapy" / "httpcache" / ".new").rglob("pickled_meta"))


def test_an_unreachable_site_leaves_the_pictures_unchanged(site: Site, tmp_path: Path, refused: Any) -> None:
    folder = tmp_path / "crawl"
    first = crawl(folder, site.url())
    old, reset = dict(site.routes), lambda exchange: exchange.reset()
    try:
        site.routes = dict.fromkeys(old, reset)
        refused(crawl(folder, site.url()).process, "crawl", site.url(), "robots.txt", "connection lost")
        site.routes = old | dict.fromkeys(WITH_ETAG, lambda exchange: exchange.send(b"", 500))
        refused(crawl(folder, site.url()).process, "crawl", site.url(), "12 HTTP status 500")
    finally:
        site.routes = old
    assert content(folder / "data" / "raw") == first.raw
    assert {path.name for path in (folder / "data").iterdir()} == {"raw"}


@pytest.mark.parametrize("moment", ["between requests", "during Retry-After", "twice"])
def test_an_interrupted_crawl_ends_in_one_line(
    site: Site, tmp_path: Path, refused: Any, forked_python: str, moment: str
) -> None:
    folder = tmp_path / "crawl"
    process = start(folder, site.url(), {}, {}, python=forked_python)
    before = len(site.requested)

    def interrupt(exchange: Exchange) -> None:
        if len(site.requested) == before + 8:
            if moment == "during Retry-After":
                exchange.send(b"", 429, Retry_After="500")
            pid, log = forked_pid(process), folder / "logs" / "crawl.log"
            os.kill(pid, signal.SIGINT)
            if moment == "twice":
                while "SIGINT" not in log.read_text():
                    time.sleep(0.01)
                os.kill(pid, signal.SIGINT)

    site.before_reply = interrupt
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        site.before_reply = None
    ended = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    refused(ended, "crawl", site.url(), "interrupted", "run it again")
    assert not list((folder / "data").iterdir())
    assert len(site.requested) < before + REQUESTS


@pytest.mark.parametrize(
    "failure",
    [
        lambda exchange: exchange.send(b"", 404),
        lambda exchange: exchange.send(b"", 410, ETag='"gone"'),
        lambda exchange: exchange.redirect(LIST),
        lambda exchange: exchange.send(b"no gzip", Content_Encoding="gzip", Content_Type=HTML),
    ],
    ids=["404", "410", "loop", "damaged"],
)
def test_a_passing_failure_of_the_list_does_not_outlast_it(tmp_path: Path, refused: Any, failure: Reply) -> None:
    with serving(routes() | {LIST: failure}) as site:
        refused(crawl(tmp_path, site.url()).process, "crawl", site.url(), "no response")
        site.routes[LIST] = list_page(GEMS)
        assert len(crawl(tmp_path, site.url()).pictures) == len(WITH_ETAG) + len(PLAIN)
        assert site.requested.count("/robots.txt") == 1  # it resumes the first crawl nevertheless


@pytest.mark.parametrize("damage", ["cut off", "damaged"])
def test_a_body_that_did_not_arrive_whole_is_fetched_by_the_next_crawl(tmp_path: Path, damage: str) -> None:
    """Without a Content-Length a lost connection looks like the end of the body."""
    body = jpeg(1, size=200)

    def reply(exchange: Exchange) -> None:
        if exchange.headers.get("if-none-match") == '"a"':
            exchange.send(b"", 304, ETag='"a"')
        elif exchange.site.requested.count("/a.jpg") > 1:
            exchange.send(body, ETag='"a"', Content_Type="image/jpeg")
        elif damage == "cut off":
            exchange.send(body[:400], Content_Length=None, ETag='"a"', Content_Type="image/jpeg")
        else:
            exchange.send(body, Content_Encoding="gzip", ETag='"a"', Content_Type="image/jpeg")

    pictures = {f"/{i}.jpg": jpeg(1000 * i) for i in range(2, 7)} | {"/a.jpg": reply}
    with serving({LIST: list_page({"Ruby": "/ruby"}), "/ruby": gem_page(*pictures), **pictures}) as site:
        assert crawl(tmp_path, site.url()).pictures.get(site.url("/a.jpg")) != body
        assert crawl(tmp_path, site.url()).pictures[site.url("/a.jpg")] == body
        assert crawl(tmp_path, site.url()).report["cached"] == 1


def test_pages_that_fail_count_as_many_pictures(tmp_path: Path, refused: Any) -> None:
    """With 4 of 10 pages 12 of 30 photos would vanish; 2 of 10 are few enough."""
    pages: dict[str, Any] = {
        f"/gem/{i}": gem_page(*(f"/{name}.jpg" for name in range(3 * i, 3 * i + 3))) for i in range(10)
    }
    pictures = {f"/{i}.jpg": jpeg(1000 * i) for i in range(30)}
    busy = dict.fromkeys([*pages][:4], lambda exchange: exchange.send(b"", 503))
    with serving({LIST: list_page({path[1:]: path for path in pages})} | pages | pictures) as site:
        first = crawl(tmp_path, site.url())
        site.routes |= busy
        refused(crawl(tmp_path, site.url()).process, "crawl", site.url(), "crawl incomplete", "4 HTTP status 503")
        assert content(tmp_path / "data" / "raw") == first.raw
        site.routes |= {path: pages[path] for path in [*pages][:2]}
        assert len(crawl(tmp_path, site.url()).pictures) == 24


def test_pictures_that_a_crawl_leaves_out_keep_their_numbers(site: Site, complete: Crawl, tmp_path: Path) -> None:
    first = crawl(tmp_path, site.url())
    old = dict(site.routes)
    try:
        site.routes["/gem/Jade"] = gem_page("/Jade/1.jpg", "/Jade/3.jpg", "/Jade/new.jpg")
        site.routes["/Jade/new.jpg"] = with_etag(jpeg(78))
        few = crawl(tmp_path, site.url(), only=["Jade", "Ruby"], max_per_gem=3)
    finally:
        site.routes = old
    numbers = {row["picture_url"]: row["number"] for row in first.rows}
    assert {row["number"] for row in few.rows if row["picture_url"] not in numbers} == {5}
    assert all(numbers.get(row["picture_url"], 5) == row["number"] for row in few.rows)
    assert few.report["changes"]["vanished"]
    again = crawl(tmp_path, site.url())
    assert {row["picture_url"]: row["number"] for row in again.rows} == numbers
    assert again.raw["manifest.jsonl"] == first.raw["manifest.jsonl"]
