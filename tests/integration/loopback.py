"""A site on a loopback port that answers as a test says, down to the bytes, and remembers what it was asked."""

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
MANY = {"CONCURRENT_REQUESTS": 8, "CONCURRENT_REQUESTS_PER_DOMAIN": 8}
LIST = "/GemStoneMain.aspx"
TABLE = '<table id="ctl00_ContentPlaceHolder1_DataList1">'
HTML = "text/html; charset=utf-8"

# VmHWM is the most memory of the program itself; ru_maxrss would start with that of the test that started it.
CRAWL = """
import json, sys
from pathlib import Path
from gemmodel import params
from gemmodel.data import folders
from gemmodel.errors import told_in_one_line
from scraper import report, sources
with told_in_one_line("crawl"):
    found = sources.crawl(params.load(Path("params.yaml")).crawl, Path("data/raw"), logs=Path("logs"),
                          list_urls={"minerals": sys.argv[1]}, overrides=json.loads(sys.argv[2]))
    folders.write_json(Path("reports/crawl.json"), found)
    folders.write_text(Path("reports/crawl.md"), report.markdown(found))
    print(next((line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), 0))
"""


@dataclass
class Exchange:
    """One request and the socket to answer it on."""

    path: str
    headers: dict[str, str]
    socket: socket.socket
    site: "Site"

    def send(self, body: bytes = b"", status: int = 200, **headers: str | None) -> None:
        """Answer; a header whose value is None is left out, `_` stands for `-`."""
        given = {"Content-Length": str(len(body)), "Connection": "close"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"HTTP/1.1 {status} So", *(f"{name}: {value}" for name, value in given.items() if value is not None)]
        self.socket.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def redirect(self, url: str, status: int = 302) -> None:
        """Lead elsewhere."""
        self.send(status=status, Location=url)

    def for_ever(self, chunk: bytes, pause: float = 0.0) -> None:
        """Send a chunk again and again, until the other side or the test has had enough."""
        with suppress(OSError):
            while not self.site.closing.wait(pause):
                self.socket.sendall(chunk)

    def reset(self) -> None:
        """Break the connection off with an RST, once what was sent has arrived."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Answer = Callable[[Exchange], Any]


@dataclass
class Site:
    """What is served by path: bytes (a page or a picture), or what answers; and what was asked for, when."""

    routes: dict[str, bytes | Answer] = field(default_factory=dict)
    port: int = 0
    asked: list[str] = field(default_factory=list)
    times: list[tuple[str, float]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    watch: Answer | None = None  # sees each request before it is answered

    def url(self, path: str = LIST) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def answer(self, exchange: Exchange) -> None:
        self.asked.append(exchange.path)
        self.times.append((exchange.path, time.time()))
        if self.watch:
            self.watch(exchange)
        found = self.routes.get(exchange.path)
        if callable(found):
            found(exchange)
        elif found is None:
            exchange.send(b"not found", 404)
        else:
            exchange.send(found, Content_Type="image/jpeg" if found.startswith(b"\xff\xd8") else HTML)


class Handler(socketserver.StreamRequestHandler):
    """Reads one request and has the site answer it."""

    def handle(self) -> None:
        with suppress(OSError, IndexError):
            path = self.rfile.readline(10**5).decode("latin-1").split()[1]
            headers = {}
            while line := self.rfile.readline(10**5).decode("latin-1").strip():
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            self.server.site.answer(Exchange(path, headers, self.connection, self.server.site))  # type: ignore[attr-defined]


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextmanager
def serving(routes: Mapping[str, bytes | Answer]) -> Iterator[Site]:
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
    """Return the list of gems as the real site writes it: text and link of each."""
    rows = "".join(f'<tr><td><a class="bluelink" href="{link}">{gem}</a></td></tr>' for gem, link in gems.items())
    return f"<html><body>{TABLE}{rows}</table></body></html>".encode()


def gem_page(*sources: str, about: str = "") -> bytes:
    """Return a gem's page with pictures."""
    row = '<tr id="ctl00_ContentPlaceHolder1_trMineralClass"><td>Class</td><td>Stone</td></tr>'
    images = "".join(f'<td><img src="{source}"></td>' for source in sources)
    return f"<html><body><table>{row}</table>{about}{TABLE}<tr>{images}</tr></table></body></html>".encode()


def jpeg(shade: int, size: int = 24) -> bytes:
    """Draw a picture of one colour, another for each number below 2 ** 24."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (shade >> 16 & 255, shade >> 8 & 255, shade & 255)).save(file, "JPEG", quality=95)
    return file.getvalue()


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Crawl:
    """A crawl that has ended, and the folder that it ran in."""

    folder: Path
    ended: subprocess.CompletedProcess[str]

    @property
    def report(self) -> dict[str, Any]:
        assert self.ended.returncode == 0, self.ended.stderr
        return json.loads((self.folder / "reports" / "crawl.json").read_text(encoding="utf-8"))

    @property
    def raw(self) -> dict[str, bytes]:
        return content(self.folder / "data" / "raw")

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw["manifest.jsonl"].decode().splitlines()]

    @property
    def pictures(self) -> dict[str, bytes]:
        """Return what was stored by the address that it came from, having checked that the manifest tells the truth."""
        raw = self.raw
        assert set(raw) - {line["path"] for line in self.lines} == {"manifest.jsonl", "crawl.json"}
        return {line["picture_url"]: raw[line["path"]] for line in self.lines}


def start(folder: Path, url: str, settings: Mapping[str, Any], params: Mapping[str, Any]) -> subprocess.Popen[str]:
    """Start a crawl in a folder, in a process group of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["crawl"] |= {"source": "minerals", **params}
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-c", CRAWL, url, json.dumps(FAST | settings)],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def crawl(folder: Path, url: str, settings: Mapping[str, Any] | None = None, **params: Any) -> Crawl:
    """Crawl a site into a folder; a crawl that does not end in two minutes is killed and fails the test."""
    process = start(folder, url, settings or {}, params)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return Crawl(folder, subprocess.CompletedProcess(process.args, process.returncode, out, err))
