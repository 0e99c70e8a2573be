"""Lazy-loaded pictures, thumbnails with a query, and placeholders: the photo is stored, and what is none is counted."""

import io
from pathlib import Path

import pytest
from loopback import LIST, crawl, gem_page, jpeg, list_page, serving
from PIL import Image

pytestmark = pytest.mark.usefixtures("forked_crawls")


def gif(side: int) -> bytes:
    """Draw a square GIF."""
    file = io.BytesIO()
    Image.new("P", (side, side)).save(file, "GIF")
    return file.getvalue()


def gem(*images: str) -> bytes:
    """Return a gem's page with the markup of its pictures."""
    return gem_page().replace(b"<tr></tr></table>", f"<tr><td>{''.join(images)}</td></tr></table>".encode())


def test_the_photo_is_stored_and_not_its_placeholder(tmp_path: Path) -> None:
    pages = {
        "Lazy": gem(
            '<img class="lazyload" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" data-src="/l1-t.jpg">',
            '<img src="/wait.gif" data-srcset="/l2-800.jpg 800w, /l2-1600.jpg 1600w">'
            '<noscript><img src="/l2.jpg"></noscript>',
            '<picture><source srcset="/l3.jpg 2x"><img src="/l3-small.jpg"></picture>',
            '<img src="/wait.gif" class="lazy" data-own="/l4.jpg">',
        ),
        "Query": gem(
            '<img src="/q1-t.jpg?v=3">',
            '<img src="/q2-t.jpg#x">',
            '<img src="/q3_thumb.jpg?w=100">',  # its full picture is a 404
            '<img src="/q4-t.jpg?v=3">',  # its full picture is a 403
        ),
        "Linked": gem(
            '<a href="/big.jpg"><img src="/small.jpg"></a>',
            '<a href="/wiki/File:page.jpg"><img src="/of-page.jpg"></a>',
            '<a href="http://cdn.example/far.jpg"><img src="/near.jpg"></a>',
        ),
        "One": gem('<img src="/soon1.jpg"><img src="/pixel.gif"><img src="/own.jpg">'),
        "Two": gem('<img src="/soon2.jpg">'),
        "Three": gem('<img src="/soon3.jpg"><img src="/wait.gif" data-lazy-src="/three.jpg">'),
        "None": gem().replace(b"<body>", b'<meta property="og:image" content="/logo.jpg">'),
    }
    photos = ["/l1.jpg", "/l2-1600.jpg", "/l3.jpg", "/l4.jpg", "/q1.jpg?v=3", "/q2.jpg", "/big.jpg", "/own.jpg"]
    smaller = ["/q3_thumb.jpg?w=100", "/q4-t.jpg?v=3", "/of-page.jpg", "/near.jpg"]
    stored = {path: jpeg(i * 1000) for i, path in enumerate([*photos, *smaller, "/three.jpg"])}
    routes = stored | {f"/soon{i}.jpg": gif(100) for i in (1, 2, 3)} | {"/pixel.gif": gif(1), "/wait.gif": gif(50)}
    routes |= {f"/{name}": page for name, page in pages.items()} | {
        LIST: list_page({name: f"/{name}" for name in pages})
    }
    with serving(routes | {"/wiki/File:page.jpg": b"<html>About this picture</html>"}) as site:
        site.routes["/q4.jpg?v=3"] = lambda exchange: exchange.send(b"", 403)
        result = crawl(tmp_path, site.url())
        assert {"/" + url.split("/", 3)[3]: body for url, body in result.pictures.items()} == stored
        assert not {"/wait.gif", "/logo.jpg"} & set(site.requested)
        report = result.report
    assert report["thumbnails"] == len(smaller)
    assert {row["picture_url"].rpartition(str(site.port))[2] for row in result.rows if row["thumbnail"]} == set(smaller)
    assert report["failed"] == {
        "a placeholder of 1 x 1 pixels": 1,
        "a placeholder, the same for 3 gems": 3,
        "leads to another host": 1,
    }
    assert not (tmp_path / "data" / "raw" / "Two").exists()
    assert report["gems_without_pictures"] == ["None"]
    unmatched = report["unmatched_markup"]
    assert unmatched["picture of an unknown attribute, <img data-own>"] == 1
    assert unmatched["link to a picture that leads to something else"] == 1
    assert unmatched["og:image of a page without pictures, which is not read"] == 1
