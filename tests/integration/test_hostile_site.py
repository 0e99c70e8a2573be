"""A site that means harm, or is broken: what it may cost, what is counted, and that its good pictures are all there.

Each crawl meets several attacks at once; a second server stands for everything that must never be asked.
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
    Answer,
    Crawl,
    Exchange,
    Site,
    content,
    crawl,
    gem_page,
    jpeg,
    list_page,
    serving,
)

MOST_MEMORY = 500  # MB
GOOD = {f"/good/{number}.jpg": jpeg(number * 1000) for number in range(60)}


@pytest.fixture(scope="module")
def victim() -> Iterator[Site]:
    """Another server, that nothing on the site may make the crawl ask."""
    with serving({"/picture.jpg": jpeg(1), "/robots.txt": b""}) as other:
        yield other
        assert other.asked == []


def harmless(made: Crawl) -> dict[str, bytes]:
    """Check that a crawl stayed in its folders and its memory; return the pictures by path on the site."""
    assert made.ended.returncode == 0, made.ended.stderr
    assert int(made.ended.stdout.split()[-1]) / 1024 < MOST_MEMORY
    top = {path.relative_to(made.folder).parts[0] for path in made.folder.rglob("*")}
    assert top == {"params.yaml", "data", "logs", "reports", ".scrapy"}
    assert {path.name for path in (made.folder / "data").iterdir()} == {"raw"}
    assert {path.name for path in made.folder.parent.iterdir()} == {made.folder.name}
    for path in content(made.folder / "data" / "raw"):
        assert len(PurePosixPath(path).parts) <= 2
        for part in PurePosixPath(path).parts:
            assert len(part.encode()) <= 255
            assert part == part.strip(" .")
            assert part.isprintable()
            assert not PureWindowsPath(part).is_reserved()
            assert not set(part) & set('<>:"|?*\\\u202e')
    alike = [unicodedata.normalize("NFC", path.casefold()) for path in content(made.folder / "data" / "raw")]
    assert len(set(alike)) == len(alike)
    return {"/" + url.split("/", 3)[3]: body for url, body in made.pictures.items()}


def failed(made: Crawl, *ports: int) -> list[tuple[str, str]]:
    """Return reason and address of each failure, sorted, without the ports, which differ each time."""
    found = []
    for failure in made.report["failures"]:
        url = failure["url"]
        for number, port in enumerate(ports):
            url = url.replace(f"127.0.0.1:{port}/", "site/" if not number else "other/").replace(str(port), "PORT")
        found.append((failure["reason"], url.removeprefix("http://site")))
    return sorted(found)


def test_nothing_leads_away_from_the_site(tmp_path: Path, victim: Site) -> None:
    away = f"http://127.0.0.1:{victim.port}/picture.jpg"  # the same host, another port
    routes = GOOD | {
        "/again.jpg": lambda exchange: (
            exchange.redirect(away) if exchange.site.asked.count("/again.jpg") > 1 else exchange.send(b"", 500)
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
        made = crawl(tmp_path / "crawl", site.url(), MANY)
        assert harmless(made) == GOOD
        assert failed(made, site.port, victim.port) == sorted(
            [
                ("is no address of a web site", "data:image/gif;base64,R0lGODlhAQABAAAAACw="),
                ("is no address of a web site", "data:text/html,%3Cimg%20src=x%3E"),
                ("is no address of a web site", "file:///etc/hostname.jpg"),
                ("is no address of a web site", "file:///etc/passwd"),
                ("is no address of a web site", "ftp://site/ftp.jpg"),
                ("is no address of a web site", "http://127.0.0.1:99999/port.jpg"),
                ("is no address of a web site", "http://[/"),
                ("is no address of a web site", "http://[bad.jpg"),
                ("is no address of a web site", "javascript:alert(1).jpg"),
                ("is no address of a web site", "javascript:void(0)"),
                ("is no address of a web site", "mailto:root@localhost"),
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
                ("redirects to no address of a web site", "/to/broken.jpg"),
                ("redirects to no address of a web site", "/to/data.jpg"),
                ("redirects to no address of a web site", "/to/file.jpg"),
                ("redirects to no address of a web site", "/to/ftp.jpg"),
                ("redirects to no address of a web site", "/to/script.jpg"),
            ]
        )
        assert site.asked.count("/again.jpg") == 2
        assert not set(site.asked) - set(routes) - {LIST, "/ruby", "/robots.txt"}


def png_of(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims to be of any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, data, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def start_of(size: int, body: bytes = b"\xff\xd8\xff\xe0", then: str = "wait", **headers: str | None) -> Answer:
    """Announce more bytes than are sent; then wait, close or reset."""

    def answer(exchange: Exchange) -> None:
        exchange.send(body, Content_Type="image/jpeg", **{"Content_Length": str(size)} | headers)
        if then == "wait":
            exchange.site.closing.wait(30)
        elif then == "reset":
            exchange.reset()

    return answer


def stream(chunk: bytes, pause: float = 0.0, **headers: str | None) -> Answer:
    """Send for ever."""

    def answer(exchange: Exchange) -> None:
        exchange.send(b"", Content_Type="image/jpeg", **headers)
        exchange.for_ever(chunk, pause)

    return answer


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Crawl, Site]]:
    chunked = {"Content_Length": None, "Transfer_Encoding": "chunked"}
    megabyte = bytes(2**20)
    bomb = gzip.compress(bytes(200 * 2**20))
    routes: dict[str, bytes | Answer] = {
        "/page.jpg": b"<html><body>This picture has moved.</body></html>",
        "/script.jpg": lambda exchange: exchange.send(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
        ),
        "/empty.jpg": b"",
        "/huge.jpg": start_of(10 * 10**9),
        "/chunked.jpg": stream(b"100000\r\n" + megabyte + b"\r\n", **chunked),
        "/endless.jpg": stream(megabyte, Content_Length=None),
        "/headers.jpg": lambda exchange: exchange.for_ever(b"HTTP/1.1 200 OK\r\n" + b"X-Filler: much\r\n" * 500, 0.01),
        "/drip.jpg": stream(b".", 0.1, Content_Length="100000"),
        "/dripping-headers.jpg": lambda exchange: exchange.for_ever(b"H", 0.1),
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
    good = {f"/good/{number}.jpg": jpeg(number * 1000) for number in range(100)}
    with serving(routes | good | {LIST: list_page({"Ruby": "/ruby"})}) as site:
        site.routes["/ruby"] = gem_page(*good, *(path for path in routes if path != "/pong.jpg"))
        yield (
            crawl(tmp_path_factory.mktemp("bodies") / "crawl", site.url(), MANY | {"DOWNLOAD_MAXSIZE": 4 * 2**20}),
            site,
        )


def test_no_body_costs_much_or_is_taken_for_a_picture(bodies: tuple[Crawl, Site]) -> None:
    made, site = bodies
    assert set(harmless(made)) == {path for path in site.routes if "good" in path}
    assert harmless(made)["/gzipped-good.jpg"] == harmless(made)["/good/1.jpg"] == GOOD["/good/1.jpg"]
    assert failed(made, site.port) == [
        ("HTTP status 302", "/nowhere.jpg"),
        ("HTTP status 304", "/unchanged.jpg"),
        ("HTTP status 403", "/forbidden.jpg"),
        ("HTTP status 500", "/error.jpg"),
        ("connection broken off", "/bad-chunk.jpg"),
        ("connection broken off", "/bad-length.jpg"),
        ("connection broken off", "/closed.jpg"),
        ("connection broken off", "/garbage.jpg"),
        ("connection broken off", "/refused.jpg"),
        ("connection broken off", "/reset.jpg"),
        ("connection broken off", "/short.jpg"),
        ("damaged on its way", "/no-brotli.jpg"),
        ("damaged on its way", "/no-deflate.jpg"),
        ("damaged on its way", "/no-gzip.jpg"),
        ("damaged on its way", "/no-zstd.jpg"),
        ("larger than a photo", "/chunked.jpg"),
        ("larger than a photo", "/endless.jpg"),
        ("larger than a photo", "/gzip.jpg"),
        ("larger than a photo", "/huge.jpg"),
        ("larger than a photo", "/twice.jpg"),
        ("more pixels than a photo has", "/many-pixels.jpg"),
        ("more pixels than a photo has", "/pixels.jpg"),
        ("no whole answer in time", "/drip.jpg"),
        ("no whole answer in time", "/dripping-headers.jpg"),
        ("no whole answer in time", "/headers.jpg"),
        ("no whole answer in time", "/silent.jpg"),
        ("not an image", "/empty.jpg"),
        ("not an image", "/page.jpg"),
        ("not an image", "/script.jpg"),
        ("redirects in a loop", "/loop.jpg"),
        ("redirects in a loop", "/pong.jpg"),
    ]


@pytest.mark.parametrize(
    ("path", "times"),
    [("/error.jpg", 2), ("/reset.jpg", 2), ("/drip.jpg", 2), ("/huge.jpg", 1), ("/forbidden.jpg", 1), ("/loop.jpg", 1)],
)
def test_only_what_may_pass_is_tried_again(bodies: tuple[Crawl, Site], path: str, times: int) -> None:
    assert bodies[1].asked.count(path) == times


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


def test_names_stay_names(tmp_path: Path) -> None:
    pages = {f"/gem/{number}": name for number, name in enumerate(NAMES)}
    routes = {path: gem_page(f"/of{path}.jpg") for path in pages} | {
        f"/of{path}.jpg": jpeg(number) for number, path in enumerate(pages)
    }
    routes |= {f"/files/{quote(name, safe='%?;=/.#').partition('#')[0]}": jpeg(500 + n) for n, name in enumerate(FILES)}
    routes["/gem/0"] = gem_page("/of/gem/0.jpg", *(f"/files/{name}" for name in FILES))
    listed = {name.replace("<", "&lt;"): path for path, name in pages.items()}
    with serving(routes | {LIST: list_page(listed)}) as site:
        made = crawl(tmp_path / "crawl", site.url(), MANY)
        assert harmless(made) == {path: body for path, body in routes.items() if body.startswith(b"\xff\xd8")}
        assert failed(made, site.port) == []
    gems = {PurePosixPath(line["path"]).parts[0]: line["gem"] for line in made.lines}
    assert sorted(gems.values()) == sorted(" ".join(name.split())[:1000].strip() for name in NAMES)
    assert len(gems) == len(NAMES)
    assert "<b>" not in (made.folder / "reports" / "crawl.md").read_text(encoding="utf-8")


def test_damaged_html_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Each page holds one good picture, before or after what is wrong."""
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
        "attributes": (b"<p " + b" ".join(b"a%d" % number for number in range(500_000)) + b">" + end, HTML),
        "binary": (bytes(range(256)) * 100 + end, HTML),
        "no type": (end, None),
        "picture type": (end, "image/jpeg"),
        "entities": (b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>&b;&#0;&#xD800;&#99999999;" + end, HTML),
        "external": (b"<!DOCTYPE x [<!ENTITY f SYSTEM 'file:///etc/passwd'>]>&f;" + end, HTML),
        "prose": (prose + end, HTML),
        "cut": (end[: end.rindex(b">", 0, end.rindex(b"</table>")) + 1], HTML),
        "deep first": (deep + end, HTML),  # lxml does not look so far down
        "base": (b"<base href='http://localhost:9/'>" + end, HTML),
        "no page": (b"\x1f\x8b" + bytes(range(256)), "application/octet-stream"),
    }
    routes: dict[str, bytes | Answer] = {"/good.jpg": jpeg(1)}
    for name, (body, kind) in pages.items():
        routes[f"/{quote(name)}"] = lambda exchange, body=body, kind=kind: exchange.send(body, Content_Type=kind)
    listed = list_page({name: f"/{quote(name)}" for name in pages})
    with serving(routes | {LIST: listed.replace(b"</table>", b"\0<tr><td><a href='/latin'>")}) as site:
        made = crawl(tmp_path / "crawl", site.url(), MANY)
        assert set(harmless(made)) == {"/good.jpg"}
        assert made.report["failures"] == [{"url": "http://localhost:9/good.jpg", "reason": "leads to another host"}]
        assert made.report["gems_without_pictures"] == ["deep first", "no page"]
        assert set(made.report["by_gem"]) == set(pages) - {"deep first", "no page", "base"}
    assert max(len(json.dumps(line)) for line in made.lines) < 20_000


def test_a_list_without_end_is_cut_and_a_picture_without_end_is_left(tmp_path: Path) -> None:
    """With the limits as shipped: 2,000 gems of a list, 500 pictures of a gem, 32 MiB of a picture."""
    gems = {"Ruby": "/ruby"} | {f"Gem {number}": f"/gem/{number}" for number in range(100_000)}
    page = gem_page("/endless.jpg", *(f"/good/{number}.jpg" for number in range(5000)))
    good = jpeg(3)
    routes: dict[str, bytes | Answer] = {f"/good/{number}.jpg": good for number in range(5000)}
    routes |= {LIST: list_page(gems), "/ruby": page, "/endless.jpg": stream(bytes(2**20), Content_Length=None)}
    with serving(routes) as site:
        made = crawl(tmp_path / "crawl", site.url(), MANY | {"DOWNLOAD_TIMEOUT": 60})
        assert set(harmless(made)) == {f"/good/{number}.jpg" for number in range(499)}
        assert made.report["failed"] == {"HTTP status 404": 1999, "larger than a photo": 1}
        assert made.report["unmatched_markup"] == {
            "gem of more than 500 pictures: picture left out": 4501,
            "list of more than 2000 gems: gem left out": 98_001,
            "picture without a thumbnail suffix": 5001,
        }
        assert len(site.asked) == 2 + 2000 + 500
    assert "98001" in (made.folder / "reports" / "crawl.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "path"), [("seconds", "/slow.jpg"), ("date", "/slow.jpg"), ("seconds", "/robots.txt")]
)
def test_nothing_is_asked_while_the_site_wants_a_pause(tmp_path: Path, kind: str, path: str) -> None:
    until = []

    def busy(exchange: Exchange) -> None:
        if until:
            exchange.send(good[path], Content_Type="text/html" if path != "/slow.jpg" else "image/jpeg")
        elif kind == "seconds":
            until.append(time.time() + 1)
            exchange.send(b"", 429, Retry_After="1")
        else:
            until.append(int(time.time()) + 2)
            exchange.send(b"", 503, Retry_After=formatdate(until[0], usegmt=True))

    pictures = {f"/{number}.jpg": jpeg(number) for number in range(6)} | {"/slow.jpg": jpeg(9)}
    good = pictures | {LIST: list_page({"Ruby": "/ruby"}), "/ruby": gem_page(*pictures), "/robots.txt": b""}
    with serving(good | {path: busy}) as site:
        made = crawl(tmp_path / "crawl", site.url())
        assert harmless(made) == pictures
        assert made.report["failed"] == {}
        assert made.report["retried"] == 1
        after = site.asked.index(path) + 1
        assert all(asked >= until[0] - 0.01 for _, asked in site.times[after:])
        assert site.asked.count(path) == 2
