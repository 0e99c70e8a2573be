"""A crawl that is killed goes on where it was; one that is repeated asks only whether anything has changed."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import LIST, Crawl, Exchange, Site, content, crawl, gem_page, jpeg, list_page, serving, start

GEMS = {name: f"/gem/{name}" for name in ("Ruby", "Opal", "Jade")}
MARKED = {f"/{gem}/{number}.jpg": jpeg(1000 * place + number) for place, gem in enumerate(GEMS) for number in range(4)}
PLAIN = {f"/{gem}/plain.jpg": jpeg(9000 + place) for place, gem in enumerate(GEMS)}  # with neither ETag nor date
REQUESTS = 2 + len(GEMS) + len(MARKED) + len(PLAIN)


def marked(body: bytes) -> Callable[[Exchange], None]:
    """Answer with an ETag, or with 304 to whom has it; the body comes in two halves."""
    tag = f'"{hash(body)}"'

    def answer(exchange: Exchange) -> None:
        if exchange.headers.get("if-none-match") == tag:
            exchange.send(b"", 304, ETag=tag)
        else:
            exchange.send(body[:100], Content_Length=str(len(body)), ETag=tag, Content_Type="image/jpeg")
            exchange.socket.sendall(body[100:])

    return answer


def routes() -> dict[str, Any]:
    found: dict[str, Any] = {"/robots.txt": b"User-agent: *\nDisallow: /none\n", LIST: list_page(GEMS)} | PLAIN
    for gem, path in GEMS.items():
        found[path] = gem_page(*(name for name in {**MARKED, **PLAIN} if name.startswith(f"/{gem}/")))
    return found | {path: marked(body) for path, body in MARKED.items()}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serving(routes()) as served:
        yield served


@pytest.fixture(scope="module")
def whole(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Crawl:
    """A crawl that nobody interrupted."""
    made = crawl(tmp_path_factory.mktemp("whole"), site.url())
    assert len(site.asked) == REQUESTS
    assert len(made.pictures) == len(MARKED) + len(PLAIN)
    return made


@pytest.fixture(scope="module")
def earlier(site: Site, whole: Crawl, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an earlier crawl's pictures, of one gem, that the next crawl is to replace."""
    folder = tmp_path_factory.mktemp("earlier")
    assert crawl(folder, site.url(), only=["Opal"], max_per_gem=1).pictures
    shutil.rmtree(folder / ".scrapy")
    return folder


@pytest.mark.parametrize("moment", range(2, REQUESTS + 1, 2))
def test_a_killed_crawl_goes_on_and_ends_as_if_nothing_had_been(
    site: Site, whole: Crawl, earlier: Path, tmp_path: Path, moment: int
) -> None:
    """The site kills the crawl when it is asked for the n-th time: ten moments, five of them amid a body."""
    folder = tmp_path / "crawl"
    shutil.copytree(earlier, folder)
    before = content(folder / "data")
    seen: list[str] = []
    process = start(folder, site.url(), {}, {})

    def kill(exchange: Exchange) -> None:
        seen.append(exchange.path)
        if len(seen) == moment:
            if moment % 4 == 0:
                exchange.send(b"\xff\xd8 half", Content_Length="5000", ETag='"half"', Content_Type="image/jpeg")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    site.watch = kill
    try:
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert {path: body for path, body in content(folder / "data").items() if path.startswith("raw/")} == before
        done = seen[: moment - 1]  # the crawl asks for one thing after the other
        assert len(done) == moment - 1
        seen.clear()
        seen.extend(["killed already"] * REQUESTS)
        made = crawl(folder, site.url())
    finally:
        site.watch = None
    assert made.raw == whole.raw
    assert {path.name for path in (folder / "data").iterdir()} == {"raw"}
    again = seen[REQUESTS:]
    assert not set(done) & set(again)
    assert len(done) + len(again) == REQUESTS
    assert made.report["requests"] == len(again)


def test_only_what_has_changed_is_loaded_again(site: Site, whole: Crawl, tmp_path: Path) -> None:
    folder = tmp_path / "crawl"
    first = crawl(folder, site.url())
    began = len(site.asked)
    second = crawl(folder, site.url())
    assert second.raw == first.raw == whole.raw
    assert len(site.asked) - began == REQUESTS  # each is asked for
    assert second.report["cached"] == len(MARKED)  # and answered with 304 where the site can
    assert second.report["changes"] == {"new": [], "changed": [], "vanished": []}
    old = dict(site.routes)
    try:
        site.routes["/Ruby/1.jpg"] = marked(jpeg(77))
        site.routes["/Jade/new.jpg"] = marked(jpeg(78))
        site.routes["/gem/Jade"] = old["/gem/Jade"].replace(b"/Jade/0.jpg", b"/Jade/new.jpg")
        third = crawl(folder, site.url())
    finally:
        site.routes = old
    told = {kind: [path.rpartition("-")[0] for path in paths] for kind, paths in third.report["changes"].items()}
    assert told == {"new": ["Jade/new"], "changed": ["Ruby/1"], "vanished": ["Jade/0"]}
    assert third.report["cached"] == len(MARKED) - 2
    assert third.pictures[site.url("/Ruby/1.jpg")] == jpeg(77)
    numbers = {line["picture_url"]: line["number"] for line in first.lines}
    assert all(numbers.get(line["picture_url"], 5) == line["number"] for line in third.lines)


def test_half_an_entry_of_the_cache_is_none(site: Site, whole: Crawl, tmp_path: Path) -> None:
    """As a crash of the machine leaves them: cut off, emptied, and one that was being written."""
    folder = tmp_path / "crawl"
    process = start(folder, site.url(), {}, {})
    count = len(site.asked)

    def stop(exchange: Exchange) -> None:
        if len(site.asked) == count + REQUESTS:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    site.watch = stop
    process.communicate(timeout=60)
    site.watch = None
    entries = sorted(path.parent for path in (folder / ".scrapy" / "httpcache" / "minerals").rglob("response_body"))
    assert len(entries) == REQUESTS - 1
    for entry, name in zip(entries, ("response_body", "response_headers", "pickled_meta", "sha256"), strict=False):
        (entry / name).write_bytes((entry / name).read_bytes()[:-3])
    (entries[4] / "response_body").write_bytes(b"")
    (entries[5] / "response_data").unlink()
    shutil.copytree(entries[6], folder / ".scrapy" / "httpcache" / ".new" / "minerals" / "ab" / "cd")
    shutil.rmtree(entries[6])
    (folder / ".scrapy" / "httpcache" / "unfinished.new").write_text("{")
    made = crawl(folder, site.url())
    assert made.raw == whole.raw
    assert made.report["requests"] == 1 + 7
    assert not list((folder / ".scrapy" / "httpcache" / ".new").rglob("pickled_meta"))


def test_a_site_that_went_away_leaves_the_pictures_as_they_were(site: Site, tmp_path: Path, refused: Any) -> None:
    folder = tmp_path / "crawl"
    first = crawl(folder, site.url())
    old, reset = dict(site.routes), lambda exchange: exchange.reset()
    try:
        site.routes = dict.fromkeys(old, reset)
        refused(crawl(folder, site.url()).ended, "crawl", site.url(), "no answer (connection broken off)")
        site.routes = old | dict.fromkeys(MARKED, lambda exchange: exchange.send(b"", 500))
        refused(crawl(folder, site.url()).ended, "crawl", site.url(), "12 HTTP status 500")
    finally:
        site.routes = old
    assert content(folder / "data" / "raw") == first.raw
    assert {path.name for path in (folder / "data").iterdir()} == {"raw"}


@pytest.mark.parametrize("pause", [False, True], ids=["between requests", "while the site wants a pause"])
def test_an_interrupted_crawl_says_so_in_one_line(site: Site, tmp_path: Path, refused: Any, pause: bool) -> None:
    folder = tmp_path / "crawl"
    process = start(folder, site.url(), {}, {})
    begun = len(site.asked)

    def interrupt(exchange: Exchange) -> None:
        if len(site.asked) == begun + 8:
            if pause:
                exchange.send(b"", 429, Retry_After="500")
            os.kill(process.pid, signal.SIGINT)

    site.watch = interrupt
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        site.watch = None
    ended = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    refused(ended, "crawl", site.url(), "interrupted", "run it again")
    assert not list((folder / "data").iterdir())
    assert len(site.asked) < begun + REQUESTS
