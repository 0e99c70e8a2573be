"""The spider against a small hand-written site: what it stores, what it counts, and what it does not request."""

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import LIST, TABLE, Crawl, Exchange, Site, crawl, gem_page, jpeg, list_page, serving

pytestmark = pytest.mark.usefixtures("forked_crawls")

LIST_PAGE = f"""<html><body>
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
    LIST: LIST_PAGE,
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
PICTURES = {
    f"{IMAGES}ruby.jpg": jpeg(0xFF0000),
    f"{IMAGES}Ruby_cut.jpg": jpeg(0xDC143C),
    f"{IMAGES}elsewhere.jpg": jpeg(0xFFC0CB),
    f"{IMAGES}x-tanzania.jpg": jpeg(0x0000FF),
    f"{IMAGES}only-small-t.jpg": jpeg(0x000080, 12),
    f"{IMAGES}no-suffix.jpg": jpeg(0x800080),
    f"{IMAGES}page.jpg": b"<html><body>This picture has moved.</body></html>",
    "/private/ruby-laboratory.jpg": jpeg(0x000000),
    "/abroad.jpg": jpeg(0x008000),
}
TIMEOUT = {"DOWNLOAD_TIMEOUT": 5}


def redirect_abroad(exchange: Exchange) -> None:
    exchange.redirect(f"http://localhost:{exchange.site.port}/abroad.jpg")


@pytest.fixture(scope="module")
def hosts() -> set[str]:
    """The hosts that the requests to the site name."""
    return set()


@pytest.fixture(scope="module")
def site(hosts: set[str]) -> Iterator[Site]:
    routes: dict[str, Any] = {path: page.encode() for path, page in PAGES.items()} | PICTURES
    routes |= {
        f"{IMAGES}moved.jpg": lambda exchange: exchange.redirect(f"{IMAGES}elsewhere.jpg"),
        f"{IMAGES}abroad.jpg": redirect_abroad,
        f"{IMAGES}broken.jpg": lambda exchange: exchange.send(b"out of order", 500),
    }
    with serving(routes) as served:
        served.before_reply = lambda exchange: hosts.add(exchange.headers["host"].split(":")[0])
        yield served


def by_stem(result: Crawl) -> dict[str, dict[str, Any]]:
    """Return the manifest rows by the file name's stem, without the hash."""
    rows = {Path(row["path"]).stem.rpartition("-")[0]: row for row in result.rows}
    assert len(rows) == len(result.rows)
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crawl")


@pytest.fixture(scope="module")
def first(site: Site, folder: Path) -> Crawl:
    return crawl(folder, site.url(), TIMEOUT)


def test_each_picture_is_stored_with_its_original_bytes(first: Crawl) -> None:
    expected = {
        "ruby": ("Ruby", "ruby.jpg", False),
        "Ruby_cut": ("Ruby", "Ruby_cut.jpg", False),
        "elsewhere": ("Ruby", "elsewhere.jpg", False),
        "x-tanzania": ("Tanzanite Blue", "x-tanzania.jpg", False),
        "only-small-t": ("Tanzanite Blue", "only-small-t.jpg", True),
        "no-suffix": ("Tanzanite Blue", "no-suffix.jpg", False),
    }
    manifest = by_stem(first)
    assert set(manifest) == set(expected)
    for stem, (gem, name, thumbnail) in expected.items():
        row, body = manifest[stem], PICTURES[f"{IMAGES}{name}"]
        assert (row["gem"], row["thumbnail"], row["format"], row["bytes"]) == (gem, thumbnail, "JPEG", len(body))
        assert row["sha256"] == hashlib.sha256(body).hexdigest()
        assert first.raw[row["path"]] == body
        assert row["path"].startswith(f"{gem}/")
        assert row["picture_url"].endswith(f"{IMAGES}{name}")


def test_the_manifest_has_the_properties_of_each_gem(first: Crawl) -> None:
    ruby, tanzanite = by_stem(first)["ruby"], by_stem(first)["x-tanzania"]
    assert (ruby["mineral_class"], ruby["properties"]) == ("Corundum", {"Hardness": "9"})
    assert (tanzanite["mineral_class"], tanzanite["properties"]) == (None, {})
    assert ruby["page_url"].endswith("/gemstone/ruby_gemstone.aspx")


def test_the_report_counts_failures_by_reason(first: Crawl) -> None:
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


def test_only_the_list_and_allowed_pages_and_pictures_are_requested(first: Crawl, site: Site, hosts: set[str]) -> None:
    assert hosts == {"127.0.0.1"}
    assert not [path for path in site.requested if "private" in path or "logo" in path]
    assert site.requested.count(f"{IMAGES}broken.jpg") >= 2  # it is retried
    assert "/robots.txt" in site.requested


def test_a_second_crawl_gives_the_same_bytes(first: Crawl, site: Site, folder: Path) -> None:
    second = crawl(folder, site.url(), TIMEOUT)
    assert second.raw == first.raw
    traffic = ("seconds", "requests", "bytes_received", "cached", "retried", "changes")
    assert {k: v for k, v in second.report.items() if k not in traffic} == {
        k: v for k, v in first.report.items() if k not in traffic
    }
    assert len(first.report["changes"]["new"]) == 6
    assert second.report["changes"] == {"new": [], "changed": [], "vanished": []}


@pytest.mark.parametrize(
    ("limits", "stems"),
    [
        ({"max_per_gem": 1}, {"ruby", "x-tanzania"}),
        ({"only": ["Tanzanite Blue", "Kunzite"]}, {"x-tanzania", "only-small-t", "no-suffix"}),
    ],
)
def test_limits_apply(site: Site, tmp_path: Path, limits: dict[str, Any], stems: set[str]) -> None:
    result = crawl(tmp_path, site.url(), TIMEOUT, **limits)
    assert set(by_stem(result)) == stems
    assert ("crawl.only: Kunzite is not on the list" in result.report["unmatched_markup"]) == ("only" in limits)


def test_a_list_without_its_table_is_read_by_its_links(site: Site, tmp_path: Path) -> None:
    result = crawl(tmp_path, site.url("/BareList.aspx"), TIMEOUT, max_per_gem=1)
    assert set(by_stem(result)) == {"ruby"}
    assert result.report["unmatched_markup"]["list without a table of gems"] == 1


def test_a_site_and_a_folder_are_merged(site: Site, tmp_path: Path) -> None:
    for i, name in enumerate(("RUBY/mine.jpg", "Jade/mine.jpg", "Opal/mine.jpg")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(i))
    result = crawl(tmp_path, site.url(), TIMEOUT, source=["minerals", "folder"], only=["ruby", "Jade "])
    assert result.report["by_gem"] == {"Jade": 1, "Ruby": 4}
    assert result.report["sources"] == ["photos", site.url()]
    assert sorted(row["number"] for row in result.rows if row["gem"] == "Ruby") == [0, 1, 2, 3]
    assert result.report["joined"] == {"RUBY": "Ruby"}
    assert {name.split("/")[0] for name in result.raw if "/" in name} == {"Jade", "Ruby"}


def test_a_gem_of_one_merged_source_is_no_error_of_the_others(site: Site, tmp_path: Path, refused: Any) -> None:
    for i, name in enumerate(("Ruby/mine.jpg", "Jade/mine.jpg")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(i))
    only = ["Ruby", "Tanzanite Blue", "Jadee"]
    result = crawl(tmp_path, site.url(), TIMEOUT, source=["minerals", "folder"], only=only)
    assert result.report["by_gem"] == {"Ruby": 4, "Tanzanite Blue": 3}
    missing = [kind for kind in result.report["unmatched_markup"] if kind.startswith("crawl.only: ")]
    assert len(missing) == 3
    assert "crawl.only: Jadee is not in photos; did you mean Jade?" in missing
    none = crawl(tmp_path, site.url(), TIMEOUT, source=["minerals", "folder"], only=["Tanzanite Blue"])
    refused(none.process, "crawl", "crawl.only", "photos has no Tanzanite Blue")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/NoSuchList.aspx", "HTTP status 404"), ("/EmptyList.aspx", "no pictures"), ("closed", "no response")],
)
def test_a_site_without_pictures_ends_in_one_line_and_keeps_the_old_folder(
    site: Site, tmp_path: Path, refused: Any, path: str, expected: str
) -> None:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / "old.jpg").write_text("old")
    url = site.url(path) if path != "closed" else f"http://127.0.0.1:{free_port()}{LIST}"
    result = crawl(tmp_path, url, TIMEOUT)
    refused(result.process, "crawl", url, expected)
    assert result.raw == {"old.jpg": b"old"}


@pytest.mark.parametrize(
    ("robots", "page", "only", "expected"),
    [
        ("", "/ruby", ["Rubby"], "crawl.only: Rubby is not on the list; did you mean Ruby? (1)"),
        ("User-agent: *\nDisallow: /private", "/private/ruby", [], "forbidden by robots.txt (1)"),
        ("", "http://localhost:9/ruby", [], "leads to another host (1)"),
    ],
)
def test_the_error_of_a_site_without_pictures_has_what_was_recorded(
    tmp_path: Path, refused: Any, robots: str, page: str, only: list[str], expected: str
) -> None:
    routes = {"/robots.txt": robots.encode(), LIST: list_page({"Ruby": page}), "/ruby": gem_page("/a.jpg")}
    with serving(routes) as served:
        refused(crawl(tmp_path, served.url(), only=only).process, "crawl", "no pictures", expected, "logs/crawl.log")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
