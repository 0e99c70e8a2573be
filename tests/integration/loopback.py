"""A site on a loopback port that a test controls to the byte and that records its requests; and crawls of a site."""

import io
import json
import os
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
FAST = {"DOWNLOAD_DELAY": 0, "AUTOTHROTTLE_ENABLED": False, "RETRY_TIMES": 1, "DOWNLOAD_TIMEOUT": 2}
PYTHON = sys.executable  # of `crawl`
MANY = {"CONCURRENT_REQUESTS": 8, "CONCURRENT_REQUESTS_PER_DOMAIN": 8}
LIST = "/GemStoneMain.aspx"
TABLE = '<table id="ctl00_ContentPlaceHolder1_DataList1">'
HTML = "text/html; charset=utf-8"

# Arguments: URLs of the lists by source, and Scrapy's settings, both as JSON. It prints its peak memory in kB: VmHWM,
# since ru_maxrss would start with that of the test process.
CRAWL = """
import json, sys
from pathlib import Path
from gemmodel.core import files, params
from gemmodel.core.errors import cli_errors
from scraper import report, sources
with cli_errors("crawl"):
    list_urls, overrides = map(json.loads, sys.argv[1:])
    crawl_report = sources.crawl(params.load(Path("params.yaml")).crawl, Path("data/raw"), logs=Path("logs"),
                                 list_urls=list_urls, overrides=overrides)
    files.write_json(Path("reports/crawl.json"), crawl_report)
    files.write_text(Path("reports/crawl.md"), report.markdown(crawl_report))
    print(next((line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), 0))
"""


@dataclass
class Exchange:
    """One request and the socket for its response."""

    path: str
    headers: dict[str, str]
    socket: socket.socket
    site: "Site"

    def send(self, body: bytes = b"", status: int = 200, **headers: str | None) -> None:
        """Send a response; `_` in a header's name becomes `-`, and a header whose value is None is omitted."""
        fields = {"Content-Length": str(len(body)), "Connection": "close"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"HTTP/1.1 {status} So", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
        self.socket.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def redirect(self, url: str, status: int = 302) -> None:
        """Send a redirect."""
        self.send(status=status, Location=url)

    def send_forever(self, chunk: bytes, pause: float = 0.0) -> None:
        """Send a chunk repeatedly, until the client disconnects or the test ends."""
        with suppress(OSError):
            while not self.site.closing.wait(pause):
                self.socket.sendall(chunk)

    def reset(self) -> None:
        """Reset the connection after what was sent has arrived."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Reply = Callable[[Exchange], Any]


@dataclass
class Site:
    """What is served by path: bytes (a page or a picture) or a function that replies; and the requests received."""

    routes: dict[str, bytes | Reply] = field(default_factory=dict)
    port: int = 0
    requests: list[tuple[str, float]] = field(default_factory=list)  # path and time.monotonic()
    closing: threading.Event = field(default_factory=threading.Event)
    before_reply: Reply | None = None

    @property
    def requested(self) -> list[str]:
        """The paths of the requests so far."""
        return [path for path, _ in self.requests]

    def url(self, path: str = LIST) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def reply(self, exchange: Exchange) -> None:
        self.requests.append((exchange.path, time.monotonic()))
        if self.before_reply:
            self.before_reply(exchange)
        route = self.routes.get(exchange.path)
        if callable(route):
            route(exchange)
        elif route is None:
            exchange.send(b"not found", 404)
        else:
            exchange.send(route, Content_Type="image/jpeg" if route.startswith(b"\xff\xd8") else HTML)


class Handler(socketserver.StreamRequestHandler):
    """Reads one request and has the site reply."""

    def handle(self) -> None:
        with suppress(OSError, IndexError):
            path = self.rfile.readline(10**5).decode("latin-1").split()[1]
            headers = {}
            while line := self.rfile.readline(10**5).decode("latin-1").strip():
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            self.server.site.reply(Exchange(path, headers, self.connection, self.server.site))  # type: ignore[attr-defined]


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextmanager
def serving(routes: Mapping[str, bytes | Reply]) -> Iterator[Site]:
    """Serve paths on a free loopback port while the context lasts."""
    with Server(("127.0.0.1", 0), Handler) as server:
        site = server.site = Site(dict(routes), server.server_address[1])  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield site
        site.closing.set()
        server.shutdown()
        thread.join()


def list_page(gems: Mapping[str, str]) -> bytes:
    """Return a list of gems in the real site's markup, given the link of each."""
    rows = "".join(f'<tr><td><a class="bluelink" href="{link}">{gem}</a></td></tr>' for gem, link in gems.items())
    return f"<html><body>{TABLE}{rows}</table></body></html>".encode()


def gem_page(*sources: str, about: str = "") -> bytes:
    """Return a gem's page with pictures."""
    row = '<tr id="ctl00_ContentPlaceHolder1_trMineralClass"><td>Class</td><td>Stone</td></tr>'
    images = "".join(f'<td><img src="{source}"></td>' for source in sources)
    return f"<html><body><table>{row}</table>{about}{TABLE}<tr>{images}</tr></table></body></html>".encode()


def jpeg(color: int, size: int = 24) -> bytes:
    """Draw a picture of one colour, an RGB value below 2 ** 24."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (color >> 16 & 255, color >> 8 & 255, color & 255)).save(file, "JPEG", quality=95)
    return file.getvalue()


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder, by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Crawl:
    """A finished crawl; its files are read at once, since a later crawl of the folder replaces them."""

    folder: Path
    process: subprocess.CompletedProcess[str]
    raw: dict[str, bytes] = field(init=False)
    reports: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.raw = content(self.folder / "data" / "raw")
        self.reports = content(self.folder / "reports")

    @property
    def report(self) -> dict[str, Any]:
        assert self.process.returncode == 0, self.process.stderr
        return json.loads(self.reports["crawl.json"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The manifest; it and the summary are the only files of the raw folder besides the pictures."""
        assert self.process.returncode == 0, self.process.stderr
        rows = [json.loads(line) for line in self.raw["manifest.jsonl"].decode().splitlines()]
        assert set(self.raw) - {row["path"] for row in rows} == {"manifest.jsonl", "crawl.json"}
        return rows

    @property
    def pictures(self) -> dict[str, bytes]:
        """The stored bytes by the URL that they came from."""
        return {row["picture_url"]: self.raw[row["path"]] for row in self.rows}


def start(
    folder: Path, url: str, settings: Mapping[str, Any], params: Mapping[str, Any], *, python: str = sys.executable
) -> subprocess.Popen[str]:
    """Start a crawl in a folder, in its own process group."""
    folder.mkdir(parents=True, exist_ok=True)
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["crawl"] |= {"source": "minerals", **params}
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return subprocess.Popen(
        [python, "-c", CRAWL, json.dumps({"minerals": url}), json.dumps(FAST | settings)],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def crawl(folder: Path, url: str, settings: Mapping[str, Any] | None = None, **params: Any) -> Crawl:
    """Crawl a site into a folder; a crawl that takes more than five minutes is killed and fails the test."""
    process = start(folder, url, settings or {}, params, python=PYTHON)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return Crawl(folder, subprocess.CompletedProcess(process.args, process.returncode, out, err))
