"""The spider against a small hand-written site: what it stores, what it counts, and what it leaves alone."""

import hashlib
import io
import json
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., subprocess.CompletedProcess[str]]

CRAWL = """
import json, sys
from pathlib import Path
from gemmodel import params
from gemmodel.errors import told_in_one_line
from scraper.sources import crawl
FAST = {"DOWNLOAD_DELAY": 0, "AUTOTHROTTLE_ENABLED": False, "RETRY_TIMES": 1, "DOWNLOAD_TIMEOUT": 5}
with told_in_one_line("crawl"):
    settings = params.load(Path("params.yaml")).crawl
    report = crawl(settings, Path("raw"), logs=Path("logs"), list_urls={"minerals": sys.argv[1]}, overrides=FAST)
    print(json.dumps(report))
"""
MINERALS = {"crawl.source": "minerals"}
TABLE = '<table id="ctl00_ContentPlaceHolder1_DataList1">'
LIST = f"""<html><body>
<a href="/AboutUs.aspx">About us</a>
{TABLE}
<tr><td><table><tr>
  <td><a class="mineralimg" href="gemstone/ruby_gemstone.aspx"><img src="ruby-list.jpg"></a></td>
  <td><a class="mineralimg" href="gemstone/ruby_gemstone.aspx"></a>
      <a class="bluelink" href="gemstone/ruby_gemstone.aspx">Ruby</a></td></tr></table></td></tr>
<tr><td><a href="gemstone/tanzanite_gemstone.aspx"> Tanzanite
   Blue </a></td></tr>
<tr><td><a href="gemstone/painite_gemstone.aspx">Painite</a></td></tr>
<tr><td><a href="gemstone/opal_gemstone.aspx">Opal</a></td></tr>
<tr><td><a href="gemstone/lost_gemstone.aspx">Lost</a></td></tr>
<tr><td><a href="gemstone/ruby_gemstone.aspx">Ruby</a></td></tr>
</table></body></html>"""
PAGES = {
    "/robots.txt": "User-agent: *\nDisallow: /private/\n",
    "/GemStoneMain.aspx": LIST,
    "/BareList.aspx": '<a href="/gemstone/ruby_gemstone.aspx">Ruby</a>',
    "/EmptyList.aspx": "<html><body>closed</body></html>",
    "/gemstone/ruby_gemstone.aspx": f"""<table>
        <tr id="ctl00_ContentPlaceHolder1_trMineralClass"><td>Class</td><td><a href="/c"> Corundum </a></td></tr>
        <tr id="ctl00_ContentPlaceHolder1_trHardness"><td>Hardness</td><td>9</td></tr></table>
        <img src="/images/logo.gif">
        {TABLE}<tr><td><img src="GemStoneImages/ruby-t.jpg"></td>
        <td><img src="thumbnail.aspx?image=GemStoneImages/Ruby_cut-thb.jpg&amp;size=120"></td>
        <td><img src="GemStoneImages/ruby-t.jpg"></td>
        <td><img src="GemStoneImages/moved-t.jpg"><img src="GemStoneImages/abroad-t.jpg"></td>
        <td><img src="GemStoneImages/page-t.jpg"><img src="GemStoneImages/broken-t.jpg"></td>
        <td><img src="../private/ruby-laboratory-t.jpg"><img src="http://localhost:9/direct-t.jpg"></td>
        <td><img src="thumbnail.aspx?image=GemStoneImages/ruby-t.jpg&amp;size=120"></td></tr></table>""",
    "/gemstone/tanzanite_gemstone.aspx": f"""{TABLE}<tr>
        <td><img src="GemStoneImages/x-tanzania-t.jpg"><img src="GemStoneImages/only-small-t.jpg"></td>
        <td><img src="GemStoneImages/no-suffix.jpg"></td></tr></table>""",
    "/gemstone/painite_gemstone.aspx": f"{TABLE}</table>",
    "/gemstone/opal_gemstone.aspx": "<p>A page of another kind</p><img src='GemStoneImages/ruby-t.jpg'>",
}
IMAGES = "/gemstone/GemStoneImages/"


def jpeg(colour: str, size: int = 40) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "JPEG")
    return file.getvalue()


PICTURES = {
    f"{IMAGES}ruby.jpg": jpeg("red"),
    f"{IMAGES}Ruby_cut.jpg": jpeg("crimson"),
    f"{IMAGES}elsewhere.jpg": jpeg("pink"),
    f"{IMAGES}x-tanzania.jpg": jpeg("blue"),
    f"{IMAGES}only-small-t.jpg": jpeg("navy", 12),
    f"{IMAGES}no-suffix.jpg": jpeg("purple"),
    f"{IMAGES}page.jpg": b"<html><body>This picture has moved.</body></html>",
    "/private/ruby-laboratory.jpg": jpeg("black"),
    "/abroad.jpg": jpeg("green"),
}


@dataclass
class Site:
    """A server's address, and how often each host and path were asked for."""

    port: int
    asked: Counter[str] = field(default_factory=Counter)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = str(self.headers["Host"]).split(":")[0]
            served.asked[f"{host}{self.path}"] += 1
            if self.path == f"{IMAGES}moved.jpg":
                self.answer(302, Location=f"{IMAGES}elsewhere.jpg")
            elif self.path == f"{IMAGES}abroad.jpg":
                self.answer(302, Location=f"http://localhost:{served.port}/abroad.jpg")
            elif self.path == f"{IMAGES}broken.jpg":
                self.answer(500, b"out of order")
            elif self.path in PAGES:
                self.answer(200, PAGES[self.path].encode(), Content_Type="text/html; charset=utf-8")
            elif self.path in PICTURES:
                self.answer(200, PICTURES[self.path], Content_Type="image/jpeg")
            else:
                self.answer(404, b"not found")

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Site(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@dataclass
class Crawled:
    """What a crawl left: its report, its manifest by file name's stem, and every file's bytes."""

    report: dict[str, Any]
    manifest: dict[str, dict[str, Any]]
    files: dict[str, bytes]


def crawled(folder: Path, ended: subprocess.CompletedProcess[str]) -> Crawled:
    assert ended.returncode == 0, ended.stderr
    raw = folder / "raw"
    lines = [json.loads(line) for line in (raw / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    by_stem = {Path(line["path"]).stem.rpartition("-")[0]: line for line in lines}
    assert len(by_stem) == len(lines)
    files = {path.relative_to(raw).as_posix(): path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    return Crawled(json.loads(ended.stdout), by_stem, files)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_params: Callable[..., Path]) -> Path:
    place = tmp_path_factory.mktemp("crawl")
    write_params(place, MINERALS)
    return place


@pytest.fixture(scope="module")
def first(site: Site, folder: Path, run: Run) -> Crawled:
    return crawled(folder, run("-c", CRAWL, site.url("/GemStoneMain.aspx"), cwd=folder))


def test_each_picture_is_stored_with_its_original_bytes(first: Crawled) -> None:
    expected = {
        "ruby": ("Ruby", "ruby.jpg", False),
        "Ruby_cut": ("Ruby", "Ruby_cut.jpg", False),
        "elsewhere": ("Ruby", "elsewhere.jpg", False),
        "x-tanzania": ("Tanzanite Blue", "x-tanzania.jpg", False),
        "only-small-t": ("Tanzanite Blue", "only-small-t.jpg", True),
        "no-suffix": ("Tanzanite Blue", "no-suffix.jpg", False),
    }
    assert set(first.manifest) == set(expected)
    for stem, (gem, name, thumbnail) in expected.items():
        line, body = first.manifest[stem], PICTURES[f"{IMAGES}{name}"]
        assert (line["gem"], line["thumbnail"], line["format"], line["bytes"]) == (gem, thumbnail, "JPEG", len(body))
        assert line["sha256"] == hashlib.sha256(body).hexdigest()
        assert line["sha256"] == hashlib.sha256(first.files[line["path"]]).hexdigest()
        assert line["path"].startswith(f"{gem}/")
        assert line["picture_url"].endswith(f"{IMAGES}{name}")
    assert len(first.files) == len(expected) + 2  # the manifest, and the account of what could not be had


def test_what_is_known_of_a_gem_stands_in_the_manifest(first: Crawled) -> None:
    ruby, tanzanite = first.manifest["ruby"], first.manifest["x-tanzania"]
    assert (ruby["mineral_class"], ruby["properties"]) == ("Corundum", {"Hardness": "9"})
    assert (tanzanite["mineral_class"], tanzanite["properties"]) == (None, {})
    assert ruby["page_url"].endswith("/gemstone/ruby_gemstone.aspx")


def test_the_report_counts_what_was_not_to_be_had(first: Crawled) -> None:
    report = first.report
    assert (report["pages"], report["gems"], report["pictures"], report["thumbnails"]) == (5, 2, 6, 1)
    assert report["by_gem"] == {"Ruby": 3, "Tanzanite Blue": 3}
    assert report["gems_without_pictures"] == ["Opal", "Painite"]
    assert report["failed"] == {
        "HTTP status 404": 1,  # a gem's page
        "HTTP status 500": 1,
        "forbidden by robots.txt": 1,
        "leads to another host": 2,  # a redirect and a link
        "not an image": 1,
    }
    assert report["unmatched_markup"]["picture without a thumbnail suffix"] == 1
    assert report["unmatched_markup"]["gem page without a mineral class"] == 3


def test_nothing_is_asked_for_that_should_be_left_alone(first: Crawled, site: Site) -> None:
    asked = {path for path in site.asked if "private" in path or "localhost" in path or "logo" in path}
    assert asked == set()
    assert site.asked[f"127.0.0.1{IMAGES}broken.jpg"] >= 2  # it was given a second chance
    assert site.asked["127.0.0.1/robots.txt"] >= 1


def test_a_second_crawl_leaves_every_byte_as_it_was(first: Crawled, site: Site, folder: Path, run: Run) -> None:
    before = [(path, path.read_bytes()) for path in sorted((folder / "raw").rglob("*")) if path.is_file()]
    again = crawled(folder, run("-c", CRAWL, site.url("/GemStoneMain.aspx"), cwd=folder))
    assert [(path, path.read_bytes()) for path in sorted((folder / "raw").rglob("*")) if path.is_file()] == before
    traffic = ("seconds", "requests", "bytes_received", "cached", "retried", "changes")
    assert {k: v for k, v in again.report.items() if k not in traffic} == {
        k: v for k, v in first.report.items() if k not in traffic
    }
    assert len(first.report["changes"]["new"]) == 6
    assert again.report["changes"] == {"new": [], "changed": [], "vanished": []}


@pytest.mark.parametrize(
    ("changes", "stems"),
    [
        ({"crawl.max_per_gem": 1}, {"ruby", "x-tanzania"}),
        ({"crawl.only": ["Tanzanite Blue", "Kunzite"]}, {"x-tanzania", "only-small-t", "no-suffix"}),
    ],
)
def test_limits_are_kept(
    site: Site, tmp_path: Path, run: Run, write_params: Any, changes: dict[str, Any], stems: set[str]
) -> None:
    write_params(tmp_path, MINERALS | changes)
    found = crawled(tmp_path, run("-c", CRAWL, site.url("/GemStoneMain.aspx"), cwd=tmp_path))
    assert set(found.manifest) == stems
    missing = "crawl.only: Kunzite is not on the list"
    assert (missing in found.report["unmatched_markup"]) == ("crawl.only" in changes)


def test_a_list_without_its_table_is_read_by_its_links(site: Site, tmp_path: Path, run: Run, write_params: Any) -> None:
    write_params(tmp_path, MINERALS | {"crawl.max_per_gem": 1})
    found = crawled(tmp_path, run("-c", CRAWL, site.url("/BareList.aspx"), cwd=tmp_path))
    assert set(found.manifest) == {"ruby"}
    assert found.report["unmatched_markup"]["list without a table of gems"] == 1


def test_a_site_and_a_folder_are_merged(site: Site, tmp_path: Path, run: Run, write_params: Any) -> None:
    for name, colour in (("Ruby/mine.jpg", "red"), ("Jade/mine.jpg", "green"), ("Opal/mine.jpg", "white")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(colour))
    write_params(tmp_path, {"crawl.source": ["minerals", "folder"], "crawl.only": ["Ruby", "Jade"]})
    found = run("-c", CRAWL, site.url("/GemStoneMain.aspx"), cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["by_gem"] == {"Jade": 1, "Ruby": 4}
    assert report["sources"] == ["photos", site.url("/GemStoneMain.aspx")]
    lines = [json.loads(line) for line in (tmp_path / "raw" / "manifest.jsonl").read_text().splitlines()]
    assert sorted(line["number"] for line in lines if line["gem"] == "Ruby") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("path", "told"),
    [("/NoSuchList.aspx", "HTTP status 404"), ("/EmptyList.aspx", "not one picture"), ("closed", "no answer")],
)
def test_a_site_without_pictures_ends_in_one_line_and_keeps_the_old_folder(
    site: Site, tmp_path: Path, run: Run, refused: Any, write_params: Any, path: str, told: str
) -> None:
    write_params(tmp_path, MINERALS)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "old.jpg").write_text("old")
    url = site.url(path) if path != "closed" else f"http://127.0.0.1:{free_port()}/GemStoneMain.aspx"
    refused(run("-c", CRAWL, url, cwd=tmp_path), "crawl", url, told)
    assert [file.name for file in (tmp_path / "raw").rglob("*")] == ["old.jpg"]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
