"""Situations from public issue trackers, each one a gem of a site: no picture is lost without being counted."""

import contextlib
import socket
from itertools import count
from pathlib import Path

import pytest
from loopback import LIST, Exchange, Reply, Server, crawl, gem_page, jpeg, list_page, serving

pytestmark = pytest.mark.usefixtures("forked_crawls")


def test_pages_of_real_sites_are_read(tmp_path: Path) -> None:
    sessions = count(1)

    def with_session(exchange: Exchange) -> None:
        exchange.send(gem_page(f"/session.jpg?v=1&PHPSESSID={next(sessions):032x}"))

    def busy(exchange: Exchange) -> None:
        first = exchange.site.requested.count("/busy.jpg") == 1
        exchange.send(b"" if first else jpeg(1000), 429 if first else 200, Retry_After="1.5")

    def of(name: str, head: str = "") -> bytes:
        return gem_page(f"{name}.jpg").replace(b"<body>", f"<head>{head}</head><body>".encode())

    pages: dict[str, bytes | Reply] = {
        "late base": of("late", f"<!--{'x' * 5000}--><base href='/img/'>"),  # Scrapy issue 3017
        "invalid base": of("/invalid", "<base href='http://[x'>"),
        "refresh": b"<meta http-equiv=refresh content='0; url=/refreshed'>",  # Scrapy issue 1422
        "reload": of("/reload", "<meta http-equiv=refresh content='300; url=/reload'>"),  # mechanize issue 67
        "invalid refresh": of("/norefresh", "<meta http-equiv=refresh content='0; url=http://[x'>"),
        "query": lambda exchange: exchange.send(  # Scrapy pull request 1949
            b"<meta charset=cp1252>" + of("/get.jpg?n=é").decode().encode("cp1252"), Content_Type="text/html"
        ),
        "session": with_session,  # wpull issue 203
        "next": of("/next", "<link rel=next href='/next?page=2'>"),
        "busy": of("/busy"),
    }
    pictures = ["/img/late.jpg", *(f"/{name}.jpg" for name in ("invalid", "refreshed", "reload", "norefresh", "next"))]
    pictures += ["/get.jpg?n=%E9.jpg", "/session.jpg?v=1"]
    stored = {path: jpeg(i * 1000) for i, path in enumerate(pictures, 2)}
    routes = stored | {f"/{name}".replace(" ", "%20"): page for name, page in pages.items()}
    routes |= {"/refreshed": of("/refreshed"), "/busy.jpg": busy}
    listed = list_page({name: f"/{name}" for name in pages})
    unnamed = b'<tr><td><a href="/opal"><img src="opal.jpg"></a><a href="/other">next</a></td></tr></table>'
    with serving(routes | {LIST: listed.replace(b"</table>", unnamed)}) as site:
        site.before_reply = lambda exchange: setattr(exchange, "path", exchange.path.partition("&PHPSESSID")[0])
        first, second = (crawl(tmp_path, site.url()) for _ in range(2))
        refused, retried = [sent for path, sent in site.requests if path == "/busy.jpg"][:2]
    assert {"/" + url.split("/", 3)[3]: body for url, body in first.pictures.items()} == stored | {
        "/busy.jpg": jpeg(1000)
    }
    assert first.raw == second.raw  # with other sessions
    assert first.report["failed"] == {}
    assert first.report["unmatched_markup"] == {
        "gem listed again with another page, which is not read": 1,
        "link of the list without a name, which is not read": 1,
        "next page of a gem, which is not read": 1,
        "picture without a thumbnail suffix": len(pictures) + 1,
    }
    assert retried - refused > 1.4


class SixServer(Server):
    address_family = socket.AF_INET6


def test_a_site_with_an_ipv6_address_is_crawled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapy's default resolver knows IPv4 only (Scrapy issue 1832)."""
    with contextlib.closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 on this machine")
    monkeypatch.setattr("loopback.Server", lambda address, handler: SixServer(("::1", 0), handler))
    with serving({LIST: list_page({"Ruby": "/ruby"}), "/ruby": gem_page("/a.jpg"), "/a.jpg": jpeg(1)}) as site:
        result = crawl(tmp_path, f"http://[::1]:{site.port}{LIST}")
    assert list(result.pictures.values()) == [jpeg(1)]
