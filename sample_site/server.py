"""The sample site over HTTP on a loopback port, as an origin server and as a proxy for its made-up host."""

import hashlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sample_site import catalogue
from sample_site.gems import BY_NAME, GEMS, Gem
from sample_site.pages import gem_page, gem_path, list_page
from sample_site.pictures import THUMBNAIL, Picture, content, pictures

HOST = "minerals.example"
LIST_URL = f"http://{HOST}/GemStoneMain.aspx"
CATALOGUE_HOST = "rasavgems.example"
CATALOGUE_URL = f"http://{CATALOGUE_HOST}/"
ROBOTS = "User-agent: *\nDisallow: /private/\n"
LOGO = bytes.fromhex("47494638396101000100800000ffffff0000002c00000000010001000002024401003b")  # a GIF of one pixel
HTML = "text/html; charset=utf-8"
Reply = Callable[[], tuple[str, bytes]]  # makes the media type and the body of a response
logger = logging.getLogger(__name__)


@contextmanager
def serve(*, pictures_per_gem: int = 36, gems: Sequence[str] = ()) -> Iterator[str]:
    """Serves the site while the context lasts; worker processes render its pictures on request.

    Args:
        pictures_per_gem: Ordinary pictures of each gem, to which the defects are added.
        gems: Names of the site's gems; all when empty.

    Yields:
        The server's address, `http://127.0.0.1:<port>`, for direct requests or as the HTTP proxy for LIST_URL.

    Raises:
        ValueError: There is no such gem.
    """
    if unknown := sorted(set(gems) - set(BY_NAME)):
        raise ValueError(f"no gem {', '.join(unknown)} in the sample site; it has {', '.join(BY_NAME)}")
    chosen = [gem for gem in GEMS if not gems or gem.name in gems]
    with _Renderers() as renderers, _Server(_Site(chosen, pictures_per_gem, renderers)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            renderers.close()
            server.close_connections()


class _Renderers:
    """A pool of one process per core, started with the first picture."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._closed = False

    def __enter__(self) -> "_Renderers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def content(self, picture: Picture, thumbnail_size: int = 0) -> tuple[str, bytes]:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the sample site is closing")
            if self._pool is None:
                cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
                spawn = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(cores, mp_context=spawn, initializer=_end_with_parent)
            future = self._pool.submit(content, picture, thumbnail_size)
        return future.result()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None


def _end_with_parent() -> None:
    """Leaves Ctrl-C to the parent process, and exits when the parent does, even after a kill."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Site:
    """The responses by path."""

    def __init__(self, gems: Sequence[Gem], count: int, renderers: _Renderers) -> None:
        listed = {gem.name: pictures(gem, count, gems) for gem in gems}
        first_pictures = {name: gem_pictures[0] for name, gem_pictures in listed.items() if gem_pictures}
        self._replies: dict[str, Reply] = {
            "/robots.txt": lambda: ("text/plain; charset=utf-8", ROBOTS.encode()),
            "/images/logo.gif": lambda: ("image/gif", LOGO),
            "/GemStoneMain.aspx": lambda: (HTML, list_page(gems, first_pictures).encode()),
        }
        self._replies |= {gem_path(gem): partial(_gem_reply, gem, listed[gem.name]) for gem in gems}
        self._replies |= {
            f"{CATALOGUE_HOST}{path}": partial(lambda *reply: reply, media, page.encode())
            for path, (media, page) in catalogue.pages(gems, listed, ROBOTS).items()
        }
        self._pages = frozenset(self._replies)
        self._thumbnails = {p.thumbnail: p for gem_pictures in listed.values() for p in gem_pictures}
        self._pictures = {p.path: p for gem_pictures in listed.values() for p in gem_pictures if p.defect != "missing"}
        self._renderers = renderers
        source = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
        self._version = hashlib.sha256(f"{version('numpy')} {version('pillow')} ".encode() + source).hexdigest()
        self._settings = f"{count} {[gem.name for gem in gems]}"

    def find(self, target: str) -> tuple[str, Reply] | None:
        """Returns the ETag and the reply for a request's target; None for a 404."""
        url = urlsplit(target)
        if url.scheme and url.hostname not in (HOST, CATALOGUE_HOST, "127.0.0.1", "localhost"):
            return None
        page = f"{CATALOGUE_HOST}{url.path}" if url.hostname == CATALOGUE_HOST else url.path
        reply = self._replies.get(page) or self._picture(url.path, url.query)
        if reply is None:
            return None
        settings = self._settings if page in self._pages else ""  # a picture does not depend on them
        digest = hashlib.sha256(f"{self._version} {page}?{url.query} {settings}".encode()).hexdigest()
        return f'"{digest[:32]}"', reply

    def _picture(self, path: str, query: str) -> Reply | None:
        size = THUMBNAIL
        if path == "/gemstone/thumbnail.aspx":
            arguments = parse_qs(query)
            path = "/gemstone/" + arguments.get("image", [""])[0]
            side = arguments.get("size", [""])[0]
            size = min(max(int(side), 16), 420) if side.isdecimal() else size
        elif path in self._pictures:
            return lambda: self._renderers.content(self._pictures[path])
        picture = self._thumbnails.get(path)
        return (lambda: self._renderers.content(picture, size)) if picture else None


def _gem_reply(gem: Gem, listed: Sequence[Picture]) -> tuple[str, bytes]:
    return HTML, gem_page(gem, listed).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, site: _Site) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.site = site
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Closes the connections that clients keep alive."""
        for connection in list(self._open):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("request from %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each response waits for the client's delayed ACK
    server: _Server

    def do_GET(self) -> None:
        if self.path == f"{CATALOGUE_URL}{catalogue.MOVED}":
            self._send(HTTPStatus.FOUND, "text/plain; charset=utf-8", b"", Location=catalogue.ELSEWHERE)
            return
        match = self.server.site.find(self.path)
        if match is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"not found\n")
            return
        etag, reply = match
        cached = [tag.strip().removeprefix("W/") for tag in self.headers.get("If-None-Match", "").split(",")]
        if etag in cached or "*" in cached:
            self._send(HTTPStatus.NOT_MODIFIED, "", b"", etag)
            return
        try:
            media, body = reply()
        except BrokenExecutor:
            logger.exception("a process that renders pictures died")
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", b"no renderer\n")
        else:
            self._send(HTTPStatus.OK, media, body, etag)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, status: HTTPStatus, media: str, body: bytes, etag: str = "", **headers: str) -> None:
        self.send_response(status)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", media)
            self.send_header("Content-Length", str(len(body)))
        if etag:
            self.send_header("ETag", etag)
            self.send_header("Cache-Control", "no-cache")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
