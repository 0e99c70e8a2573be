"""A hostile or broken site: limits on memory, time and paths, a record of each failure, and all of its good pictures.

Each crawl meets several attacks at once. A second server represents all hosts that must never get a request.
"""

import gzip
import json
import struct
import time
import unicodedata
import zlib
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import quote

import pytest
from loopback import (
    HTML,
    LIST,
    MANY,
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
)

from gemmodel.core.image_folder import class_names

MAX_MEMORY = 500  # MB; these crawls need 100 to 310
GOOD = {f"/good/{i}.jpg": jpeg(i * 1000) for i in range(60)}


@pytest.fixture(scope="module")
def victim() -> Iterator[Site]:
    """Another server, which must not get a request."""
    with serving({"/picture.jpg": jpeg(1), "/robots.txt": b""}) as other:
        yield other
        assert other.requested == []


def check_harmless(result: Crawl) -> dict[str, bytes]:
    """Check that a crawl stayed within its folders and its memory; return the pictures by path on the site."""
    assert result.process.returncode == 0, result.process.stderr
    assert int(result.process.stdout.split()[-1]) / 1024 < MAX_MEMORY
    top = {path.relative_to(result.folder).parts[0] for path in result.folder.rglob("*")}
    assert top == {"params.yaml", "data", "logs", "reports", ".scrapy"}
    assert {path.name for path in (result.folder / "data").iterdir()} == {"raw"}
    assert {path.name for path in result.folder.parent.iterdir()} == {result.folder.name}
    for path in content(result.folder / "data" / "raw"):
        assert len(PurePosixPath(path).parts) <= 2
        for part in PurePosixPath(path).parts:
            assert len(part.encode()) <= 255
            assert part == part.strip(" .")
            assert part.isprintable()
            assert not PureWindowsPath(part).is_reserved()
            assert not set(part) & set('<>:"|?*\\\u202e')
    keys = [unicodedata.normalize("NFC", path.casefold()) for path in content(result.folder / "data" / "raw")]
    assert len(set(keys)) == len(keys)
    return {"/" + url.split("/", 3)[3]: body for url, body in result.pictures.items()}


def failed(result: Crawl, *ports: int) -> list[tuple[str, str]]:
    """Return reason and URL of each failure, sorted, without the ports, which differ each time."""
    failures = []
    for failure in result.report["failures"]:
        url = failure["url"]
        for port, host in zip(ports, ("site", "other")[: len(ports)], strict=True):
            url = url.replace(f"127.0.0.1:{port}/", f"{host}/").replace(str(port), "PORT")
        failures.append((failure["reason"], url.removeprefix("http://site")))
    return sorted(failures)


def test_no_link_or_redirect_leaves_the_site(tmp_path: Path, victim: Site) -> None:
    away = f"http://127.0.0.1:{victim.port}/picture.jpg"  # the same host, another port
    routes = GOOD | {
        "/again.jpg": lambda exchange: (
            exchange.redirect(away) if exchange.site.requested.count("/again.jpg") > 1 else exchange.send(b"", 500)
        ),
    }
    redirects = {
        "host": f"http://localhost:{victim.port}/picture.jpg",
        "port": away,
        "private": "http://192.168.0.1/picture.jpg",
        "metadata": "http://169.254.169.254/latest/meta-data/",
        "relative": f"//localhost:{victim.port}/picture.jpg",
        "decimal": f"http://2130706433:{victim.port}/picture.jpg",
        "six": f"http://[::1]:{victim.port}/picture.jpg",
        "user": "http://127.0.0.1@localhost:PORT/picture.jpg".replace("PORT", str(victim.port)),
        "file": "file:///etc/passwd",
        "data": "data:image/png;base64,AAAA",
        "script": "javascript:alert(1)",
        "ftp": f"ftp://127.0.0.1:{victim.port}/picture.jpg",
        "broken": "http://[::1",
    }
    for name, target in redirects.items():
        routes[f"/to/{name}.jpg"] = lambda exchange, target=target: exchange.redirect(target)
    with serving(routes) as site:
        direct = [
            f"http://localhost:{victim.port}/direct.jpg",
            f"http://127.0.0.1:{victim.port}/direct.jpg",
            f"//127.0.0.1:{victim.port}/without-scheme.jpg",
            f"http://2130706433:{site.port}/decimal.jpg",
            f"http://0x7f.1:{site.port}/hex.jpg",
            f"http://[::1]:{site.port}/six.jpg",
            f"http://user:secret@127.0.0.1:{site.port}/user.jpg",
            f"http://127.0.0.1:{site.port}@localhost:{victim.port}/userinfo.jpg",
            f"http://localhost:{victim.port}\\@127.0.0.1:{site.port}/backslash.jpg",
            f"https://127.0.0.1:{victim.port}/tls.jpg",
            "file:///etc/hostname.jpg",
            "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
            "javascript:alert(1).jpg",
            f"ftp://127.0.0.1:{site.port}/ftp.jpg",
            "http://[bad.jpg",
            "http://127.0.0.1:99999/port.jpg",
        ]
        site.routes[LIST] = list_page(
            {
                "Ruby": "/ruby",
                "Abroad": f"http://127.0.0.1:{victim.port}/gem",
                "File": "file:///etc/passwd",
                "Script": "javascript:void(0)",
                "Mail": "mailto:root@localhost",
                "Data": "data:text/html,<img src=x>",
                "Broken": "http://[/",
                "Empty": "",
            }
        )
        site.routes["/ruby"] = gem_page(*GOOD, *direct, "/again.jpg", *(f"/to/{name}.jpg" for name in redirects))
        result = crawl(tmp_path / "crawl", site.url(), MANY)
        assert check_harmless(result) == GOOD
        assert failed(result, site.port, victim.port) == sorted(
            [
                ("not a web address", "data:image/gif;base64,R0lGODlhAQABAAAAACw="),
                ("not a web address", "data:text/html,%3Cimg%20src=x%3E"),
                ("not a web address", "file:///etc/hostname.jpg"),
                ("not a web address", "file:///etc/passwd"),
                ("not a web address", "ftp://site/ftp.jpg"),
                ("not a web address", "http://127.0.0.1:99999/port.jpg"),
                ("not a web address", "http://[/"),
                ("not a web address", "http://[bad.jpg"),
                ("not a web address", "javascript:alert(1).jpg"),
                ("not a web address", "javascript:void(0)"),
                ("not a web address", "mailto:root@localhost"),
                ("leads to another host", "http://0x7f.1:PORT/hex.jpg"),
                ("leads to another host", "http://127.0.0.1:PORT@localhost:PORT/userinfo.jpg"),
                ("leads to another host", "http://127.0.0.1@localhost:PORT/picture.jpg"),
                ("leads to another host", "http://169.254.169.254/latest/meta-data/"),
                ("leads to another host", "http://192.168.0.1/picture.jpg"),
                ("leads to another host", "http://2130706433:PORT/decimal.jpg"),
                ("leads to another host", "http://2130706433:PORT/picture.jpg"),
                ("leads to another host", "http://[::1]:PORT/picture.jpg"),
                ("leads to another host", "http://[::1]:PORT/six.jpg"),
                ("leads to another host", "http://localhost:PORT/@site/backslash.jpg"),
                ("leads to another host", "http://localhost:PORT/direct.jpg"),
                ("leads to another host", "http://localhost:PORT/picture.jpg"),  # a redirect with a scheme
                ("leads to another host", "http://localhost:PORT/picture.jpg"),  # and one without
                ("leads to another host", "http://other/direct.jpg"),
                ("leads to another host", "http://other/gem"),
                ("leads to another host", "http://other/picture.jpg"),  # a redirect
                ("leads to another host", "http://other/picture.jpg"),  # and one after an error 500
                ("leads to another host", "http://other/without-scheme.jpg"),
                ("leads to another host", "http://user:secret@site/user.jpg"),
                ("leads to another host", "https://other/tls.jpg"),
                ("redirects to no web address", "/to/broken.jpg"),
                ("redirects to no web address", "/to/data.jpg"),
                ("redirects to no web address", "/to/file.jpg"),
                ("redirects to no web address", "/to/ftp.jpg"),
                ("redirects to no web address", "/to/script.jpg"),
            ]
        )
        assert site.requested.count("/again.jpg") == 2
        assert not set(site.requested) - set(routes) - {LIST, "/ruby", "/robots.txt"}


def png_of(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header claims some size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, data, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def start_of(size: int, body: bytes = b"\xff\xd8\xff\xe0", then: str = "wait", **headers: str | None) -> Reply:
    """Announce more bytes than are sent; then wait, close or reset."""

    def reply(exchange: Exchange) -> None:
        exchange.send(body, Content_Type="image/jpeg", **{"Content_Length": str(size)} | headers)
        if then == "wait":
            exchange.site.closing.wait(30)
        elif then == "reset":
            exchange.reset()

    return reply


def stream(chunk: bytes, pause: float = 0.0, **headers: str | None) -> Reply:
    """Send without end."""

    def reply(exchange: Exchange) -> None:
        exchange.send(b"", Content_Type="image/jpeg", **headers)
        exchange.send_forever(chunk, pause)

    return reply


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Crawl, Site]]:
    chunked = {"Content_Length": None, "Transfer_Encoding": "chunked"}
    megabyte = bytes(2**20)
    bomb = gzip.compress(bytes(200 * 2**20))
    routes: dict[str, bytes | Reply] = {
        "/page.jpg": b"<html><body>This picture has moved.</body></html>",
        "/script.jpg": lambda exchange: exchange.send(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        ),
        "/empty.jpg": b"",
        "/huge.jpg": start_of(10 * 10**9),
        "/chunked.jpg": stream(b"100000\r\n" + megabyte + b"\r\n", **chunked),
        "/endless.jpg": stream(megabyte, Content_Length=None),
        "/headers.jpg": lambda exchange: exchange.send_forever(
            b"HTTP/1.1 200 OK\r\n" + b"X-Filler: much\r\n" * 500, 0.01
        ),
        "/drip.jpg": stream(b".", 0.1, Content_Length="100000"),
        "/dripping-headers.jpg": lambda exchange: exchange.send_forever(b"H", 0.1),
        "/silent.jpg": lambda exchange: exchange.site.closing.wait(30),
        "/pixels.jpg": png_of(60_000, 60_000),
        "/many-pixels.jpg": png_of(10_000, 10_000),
        "/gzip.jpg": lambda exchange: exchange.send(bomb, Content_Type="image/jpeg", Content_Encoding="gzip"),
        "/twice.jpg": lambda exchange: exchange.send(
            gzip.compress(bomb), Content_Type="image/jpeg", Content_Encoding="gzip, gzip"
        ),
        "/no-gzip.jpg": lambda exchange: exchange.send(jpeg(5), Content_Encoding="gzip"),
        "/no-deflate.jpg": lambda exchange: exchange.send(jpeg(5), Content_Encoding="deflate"),
        "/no-brotli.jpg": lambda exchange: exchange.send(jpeg(5), Content_Encoding="br"),
        "/no-zstd.jpg": lambda exchange: exchange.send(jpeg(5), Content_Encoding="zstd"),
        "/error.jpg": lambda exchange: exchange.send(b"out of order", 500),
        "/forbidden.jpg": lambda exchange: exchange.send(b"no", 403),
        "/unchanged.jpg": lambda exchange: exchange.send(b"", 304),
        "/reset.jpg": start_of(9999, jpeg(6), then="reset"),
        "/short.jpg": start_of(9999, jpeg(6), then="close"),
        "/closed.jpg": lambda exchange: None,
        "/refused.jpg": lambda exchange: exchange.reset(),
        "/garbage.jpg": lambda exchange: exchange.socket.sendall(b"\x00\xff no HTTP\r\n\r\n"),
        "/bad-length.jpg": lambda exchange: exchange.send(jpeg(7), Content_Length="many"),
        "/bad-chunk.jpg": lambda exchange: exchange.send(b"many\r\n", **chunked),
        "/loop.jpg": lambda exchange: exchange.redirect("/loop.jpg"),
        "/ping.jpg": lambda exchange: exchange.redirect("/pong.jpg"),
        "/pong.jpg": lambda exchange: exchange.redirect("/ping.jpg"),
        "/nowhere.jpg": lambda exchange: exchange.send(b"", 302),
        "/gzipped-good.jpg": lambda exchange: exchange.send(
            gzip.compress(GOOD["/good/1.jpg"]), Content_Encoding="gzip"
        ),
    }
    good = {f"/good/{i}.jpg": jpeg(i * 1000) for i in range(100)}
    with serving(routes | good | {LIST: list_page({"Ruby": "/ruby"})}) as site:
        site.routes["/ruby"] = gem_page(*good, *(path for path in routes if path != "/pong.jpg"))
        yield (
            crawl(tmp_path_factory.mktemp("bodies") / "crawl", site.url(), MANY | {"DOWNLOAD_MAXSIZE": 4 * 2**20}),
            site,
        )


def test_bad_bodies_are_refused_within_the_limits(bodies: tuple[Crawl, Site]) -> None:
    result, site = bodies
    assert set(check_harmless(result)) == {path for path in site.routes if "good" in path}
    assert check_harmless(result)["/gzipped-good.jpg"] == check_harmless(result)["/good/1.jpg"] == GOOD["/good/1.jpg"]
    assert failed(result, site.port) == sorted(
        [
            ("HTTP status 302", "/nowhere.jpg"),
            ("HTTP status 304", "/unchanged.jpg"),
            ("HTTP status 403", "/forbidden.jpg"),
            ("HTTP status 500", "/error.jpg"),
            ("connection lost", "/bad-chunk.jpg"),
            ("connection lost", "/bad-length.jpg"),
            ("connection lost", "/closed.jpg"),
            ("connection lost", "/garbage.jpg"),
            ("connection lost", "/refused.jpg"),
            ("connection lost", "/reset.jpg"),
            ("connection lost", "/short.jpg"),
            ("damaged in transfer", "/no-brotli.jpg"),
            ("damaged in transfer", "/no-deflate.jpg"),
            ("damaged in transfer", "/no-gzip.jpg"),
            ("damaged in transfer", "/no-zstd.jpg"),
            ("larger than a photo", "/chunked.jpg"),
            ("larger than a photo", "/endless.jpg"),
            ("larger than a photo", "/gzip.jpg"),
            ("larger than a photo", "/huge.jpg"),
            ("larger than a photo", "/twice.jpg"),
            ("more pixels than the 89478485 of a photo", "/many-pixels.jpg"),
            ("more pixels than the 89478485 of a photo", "/pixels.jpg"),
            ("timed out", "/drip.jpg"),
            ("timed out", "/dripping-headers.jpg"),
            ("timed out", "/headers.jpg"),
            ("timed out", "/silent.jpg"),
            ("not an image", "/empty.jpg"),
            ("not an image", "/page.jpg"),
            ("not an image", "/script.jpg"),
            ("redirects in a loop", "/loop.jpg"),
            ("redirects in a loop", "/pong.jpg"),
        ]
    )


@pytest.mark.parametrize(
    ("path", "times"),
    [("/error.jpg", 2), ("/reset.jpg", 2), ("/drip.jpg", 2), ("/huge.jpg", 1), ("/forbidden.jpg", 1), ("/loop.jpg", 1)],
)
def test_only_temporary_failures_are_retried(bodies: tuple[Crawl, Site], path: str, times: int) -> None:
    assert bodies[1].requested.count(path) == times


LONG = "Long " * 60
NAMES = [
    "Ruby", "RUBY", "../../escaped", "..", ".", "/absolute", "C:\\windows", "a/b\\c", "CON", "nul.jpg", "aux", "Com1.",
    "bell\abell", "line\u2028break", "\u202egpj.exe", LONG, LONG + "other", "红宝石", "ياقوت", "💎💎", "é" * 200,
    unicodedata.normalize("NFC", "Grün"), unicodedata.normalize("NFD", "Grün"), "manifest.jsonl", "crawl.json",
    ".hidden", "~", "-rf", "$(id)", "a:b*c?", "%2e%2e%2f", "<b>bold</b>", "x" * 5000,
]  # fmt: skip
FILES = [
    "%2e%2e%2f%2e%2e%2fescaped.jpg", "..%5c..%5cescaped.jpg", "nul.jpg", "CON", "a%00b.jpg", "a%0ab.jpg",
    "x" * 300 + ".jpg", "%E7%BA%A2.jpg", "%ff%fe.jpg", ".htaccess", "Same.jpg", "same.jpg", "picture",
    "a.jpg%20%20%20%20%20%20x",
    "%F0%9F%92%8E.jpg",
    "get.aspx?image=../../../etc/passwd", "manifest.jsonl", "~", "a.jpg#part",
]  # fmt: skip


def test_hostile_names_become_safe_paths(tmp_path: Path) -> None:
    pages = {f"/gem/{i}": name for i, name in enumerate(NAMES)}
    routes = {path: gem_page(f"/of{path}.jpg") for path in pages} | {
        f"/of{path}.jpg": jpeg(i) for i, path in enumerate(pages)
    }
    routes |= {f"/files/{quote(name, safe='%?;=/.#').partition('#')[0]}": jpeg(500 + i) for i, name in enumerate(FILES)}
    routes["/gem/0"] = gem_page("/of/gem/0.jpg", *(f"/files/{name}" for name in FILES))
    listed = {name.replace("<", "&lt;"): path for path, name in pages.items()}
    with serving(routes | {LIST: list_page(listed)}) as site:
        result = crawl(tmp_path / "crawl", site.url(), MANY)
        assert check_harmless(result) == {path: body for path, body in routes.items() if body.startswith(b"\xff\xd8")}
        assert failed(result, site.port) == []
    gems = {PurePosixPath(row["path"]).parts[0]: row["gem"] for row in result.rows}
    names = [" ".join(name.split())[:1000].strip() for name in NAMES]
    joined = class_names({name: 1 + (name == "Ruby") for name in names})  # the page of Ruby has most pictures
    assert sorted(gems.values()) == sorted(set(joined.values()))
    assert len(gems) == len(NAMES) - 2  # RUBY, and one form of Grün
    assert "<b>" not in (result.folder / "reports" / "crawl.md").read_text(encoding="utf-8")


def test_damaged_html_is_read_as_far_as_possible(tmp_path: Path) -> None:
    """Each page has one good picture, before or after the damage, and no two pages the same one."""
    end, deep = gem_page("/good.jpg"), b"<div>" * 200_000
    nested = b"".join(b'<table id="ctl00_ContentPlaceHolder1_DataList1"><tr><td>' for _ in range(300))
    prose = b'<span id="ctl00_ContentPlaceHolder1_lblUses">' + b"much " * 200_000 + b"</span>"
    pages: dict[str, tuple[bytes, str | None]] = {
        "latin": ("<p>Türkis</p>".encode("latin-1") + end, HTML),
        "unknown charset": (b"<meta charset='no-such-code'>" + end, "text/html; charset=no-such-code"),
        "utf-7": (end, "text/html; charset=utf-7"),
        "utf-16": (end.decode().encode("utf-16"), "text/html; charset=utf-16"),
        "zero": (b"\0\0<p>\0" + end + b"\0", HTML),
        "unclosed": (end.replace(b"</td>", b"").replace(b"</table>", b""), HTML),
        "deep": (end + deep, HTML),
        "nested": (nested + b'<img src="/good.jpg">' * 1000, HTML),
        "one id": (b'<p id="ctl00_ContentPlaceHolder1_lblUses">text</p>' * 100_000 + end, HTML),
        "attributes": (b"<p " + b" ".join(b"a%d" % i for i in range(500_000)) + b">" + end, HTML),
        "binary": (bytes(range(256)) * 100 + end, HTML),
        "no type": (end, None),
        "picture type": (end, "image/jpeg"),
        "entities": (b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>&b;&#0;&#xD800;&#99999999;" + end, HTML),
        "external": (b"<!DOCTYPE x [<!ENTITY f SYSTEM 'file:///etc/passwd'>]>&f;" + end, HTML),
        "prose": (prose + end, HTML),
        "cut": (end[: end.rindex(b">", 0, end.rindex(b"</table>")) + 1], HTML),
        "deep first": (deep + end, HTML),  # lxml does not parse so deep
        "base": (b"<base href='http://localhost:9/'>" + end, HTML),
        "no page": (b"\x1f\x8b" + bytes(range(256)), "application/octet-stream"),
    }
    routes: dict[str, bytes | Reply] = {f"/g{i:03}.jpg": jpeg(i) for i in range(len(pages))}
    for i, (name, (body, kind)) in enumerate(pages.items()):
        for encoding in ("ascii", "utf-16-le"):
            body = body.replace("/good.jpg".encode(encoding), f"/g{i:03}.jpg".encode(encoding))
        routes[f"/{quote(name)}"] = lambda exchange, body=body, kind=kind: exchange.send(body, Content_Type=kind)
    listed = list_page({name: f"/{quote(name)}" for name in pages})
    with serving(routes | {LIST: listed.replace(b"</table>", b"\0<tr><td><a href='/latin'>")}) as site:
        result = crawl(tmp_path / "crawl", site.url(), MANY)
        assert len(check_harmless(result)) == len(pages) - 3
        assert [failure["reason"] for failure in result.report["failures"]] == ["leads to another host"]
        assert result.report["gems_without_pictures"] == ["deep first", "no page"]
        assert set(result.report["by_gem"]) == set(pages) - {"deep first", "no page", "base"}
    assert max(len(json.dumps(row)) for row in result.rows) < 20_000


def test_a_huge_list_is_cut_and_an_endless_picture_is_skipped(tmp_path: Path) -> None:
    """With the default limits: 2,000 gems per list, 500 pictures per gem, 32 MiB per picture."""
    gems = {"Ruby": "/ruby"} | {f"Gem {i}": f"/gem/{i}" for i in range(100_000)}
    page = gem_page("/endless.jpg", *(f"/good/{i}.jpg" for i in range(5000)))
    good = jpeg(3)
    routes: dict[str, bytes | Reply] = {f"/good/{i}.jpg": good for i in range(5000)}
    routes |= {LIST: list_page(gems), "/ruby": page, "/endless.jpg": stream(bytes(2**20), Content_Length=None)}
    with serving(routes) as site:
        result = crawl(tmp_path / "crawl", site.url(), MANY | {"DOWNLOAD_TIMEOUT": 60})
        assert set(check_harmless(result)) == {f"/good/{i}.jpg" for i in range(499)}
        assert result.report["failed"] == {"HTTP status 404": 1999, "larger than a photo": 1}
        assert result.report["unmatched_markup"] == {
            "gem of more than 500 pictures: picture skipped": 4501,
            "list of more than 2000 gems: gem skipped": 98_001,
            "picture without a thumbnail suffix": 5001,
        }
        assert len(site.requested) == 2 + 2000 + 500
    assert "98001" in (result.folder / "reports" / "crawl.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "path"), [("seconds", "/slow.jpg"), ("date", "/slow.jpg"), ("seconds", "/robots.txt")]
)
def test_no_request_is_sent_during_retry_after(tmp_path: Path, kind: str, path: str) -> None:
    until = []

    def busy(exchange: Exchange) -> None:
        if until:
            exchange.send(good[path], Content_Type="text/html" if path != "/slow.jpg" else "image/jpeg")
        elif kind == "seconds":
            until.append(time.monotonic() + 1)
            exchange.send(b"", 429, Retry_After="1")
        else:
            date = int(time.time()) + 2
            until.append(time.monotonic() + date - time.time())
            exchange.send(b"", 503, Retry_After=formatdate(date, usegmt=True))

    pictures = {f"/{i}.jpg": jpeg(i) for i in range(6)} | {"/slow.jpg": jpeg(9)}
    good = pictures | {LIST: list_page({"Ruby": "/ruby"}), "/ruby": gem_page(*pictures), "/robots.txt": b""}
    with serving(good | {path: busy}) as site:
        result = crawl(tmp_path / "crawl", site.url())
        assert check_harmless(result) == pictures
        assert result.report["failed"] == {}
        assert result.report["retried"] == 1
        after = site.requested.index(path) + 1
        assert all(sent >= until[0] - 0.01 for _, sent in site.requests[after:])  # 10 ms for the resolution of sleep
        assert site.requested.count(path) == 2
