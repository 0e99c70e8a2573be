"""The server of the page against clients that are slow, many, or sent by another site; and behind nginx."""

import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gemmodel.core import hashing
from gemmodel.core.errors import ParameterError
from gemmodel.serve.server import listen
from tests.integration.conftest import CLASSES

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 240  # of a server, on a busy machine
WAIT_S = 60
PER_ADDRESS = 10
# The page as `gemmodel app` serves it, with times that a test can wait for, and buffers that a response fills.
APP = """
import socket, sys
from gemmodel import cli
from gemmodel.serve import server, uploads
server.HEADER_TIMEOUT_S, server.WRITE_TIMEOUT_S, uploads.UPLOAD_TIMEOUT_S, server.BODY_TIMEOUT_S = 2, 2, 4, 6
listen = server.listen
def with_small_buffers(host, port):
    listening = listen(host, port)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return listening
server.listen = with_small_buffers
sys.argv = ["gemmodel", "app", *sys.argv[1:]]
cli.main()
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 as addresses")


@pytest.mark.parametrize("host", ["127..0.1", f"{'a' * 64}.example"])
def test_a_host_that_cannot_be_a_name_is_an_error_with_a_remedy(host: str) -> None:
    with pytest.raises(ParameterError, match=r"--host: .*; name an address of this machine"):
        listen(host, 0)


class Page:
    """The page in a process of its own; each client of a test has its own loopback address."""

    def __init__(self, model: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-c", APP, "--model", str(model), "--port", str(self.port), *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, cwd=model, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        assert self.process.stdout.readline().startswith("http://")  # it listens

    def client(self, address: str, data: bytes = b"") -> socket.socket:
        """Return a connection from an address, on which data is sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), START_TIMEOUT_S, (address, 0))
        connection.sendall(data)
        return connection

    def status(self, address: str, path: str = "/about", *, method: str = "GET", **headers: str) -> int:
        """Return the status of a response; 0 where the connection ends without one."""
        fields = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        with self.client(address, "\r\n".join([*lines, "", ""]).encode()) as connection:
            return status(received(connection))

    def begin(self, length: int, path: str = "/predict") -> bytes:
        """Return the header of a body."""
        return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=WAIT_S) == 0


def received(connection: socket.socket) -> bytes:
    """Return what arrives until the other side ends the connection."""
    connection.settimeout(WAIT_S)
    content = b""
    try:
        while chunk := connection.recv(65536):
            content += chunk
    except ConnectionResetError:
        pass
    return content


def status(response: bytes) -> int:
    return int(response.split(b" ")[1]) if response else 0


@pytest.fixture(scope="module")
def page(tiny_model: Path) -> Iterator[Page]:
    options = (
        "--per-address",
        str(PER_ADDRESS),
        "--per-minute",
        "100000",
        "--allowed-hosts",
        "gems.example.org,stones",
    )
    running = Page(tiny_model, *options)
    yield running
    running.stop()


def test_half_sent_headers_shut_out_nobody_else_and_are_ended(page: Page) -> None:
    slow = [page.client("127.0.0.2", b"GET / HTTP/1.1\r\nHost: 127") for _ in range(70)]
    assert page.status("127.0.0.1") == 200
    responses = [received(connection) for connection in slow]
    assert responses.count(b"") == PER_ADDRESS  # ended after a time
    assert all(b" 503 " in response and b"Retry-After: " in response for response in responses if response)
    assert page.status("127.0.0.2") == 200  # they no longer count


def test_half_sent_header_of_a_later_request_is_ended(page: Page) -> None:
    whole = b"GET /about HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with page.client("127.0.0.3", whole) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        connection.sendall(whole[:-3])
        received(connection)


def test_slow_bodies_are_ended_also_where_none_is_read(page: Page) -> None:
    with page.client("127.0.0.4", page.begin(100) + b"begun") as read:
        with page.client("127.0.0.4", page.begin(100, "/about") + b"begun") as unread:
            assert status(received(unread)) == 405
        assert b" 408 " in read.recv(1000)


def test_clients_that_do_not_read_are_ended(page: Page) -> None:
    with ExitStack() as stack:
        for _ in range(PER_ADDRESS):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.bind(("127.0.0.6", 0))
            connection.connect(("127.0.0.1", page.port))
            connection.sendall(100 * b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        deadline = time.monotonic() + WAIT_S
        while page.status("127.0.0.6") != 200:  # as long as they all count
            assert time.monotonic() < deadline


def test_uploads_of_one_address_take_bounded_memory(page: Page) -> None:
    uploads = [page.client("127.0.0.5", page.begin(20_000_000) + bytes(19_000_000)) for _ in range(3)]
    first = [select.select(uploads, [], [], WAIT_S)[0][0].recv(1000)]
    assert b" 503 " in first[0] and b"retry-after: " in first[0].lower()
    assert page.status("127.0.0.1") == 200
    for connection in uploads:
        connection.close()


def test_body_of_unknown_or_large_length_is_refused_by_its_header(page: Page) -> None:
    assert page.status("127.0.0.1", "/predict", method="POST", Transfer_Encoding="chunked") == 411
    with page.client("127.0.0.1", page.begin(200_000_000)) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("rebound.example", 403),
        ("127.0.0.1.example", 403),
        ("localhost.example", 403),
        ("", 403),
        ("[", 403),
        ("localhost", 200),
        ("192.0.2.1:81", 200),
        ("[::1]:8000", 200),
        ("GEMS.example.org:8443", 200),
        ("stones", 200),
    ],
)
def test_only_addresses_and_allowed_names_are_served(page: Page, host: str, expected: int) -> None:
    assert page.status("127.0.0.1", Host=host) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 400),  # there is no photo
        ({"Origin": "https://gems.example.org"}, 400),  # through a proxy that changes the host
        ({}, 400),
    ],
)
def test_only_the_page_itself_may_send_photos(page: Page, headers: dict[str, str], expected: int) -> None:
    assert page.status("127.0.0.1", "/predict", method="POST", Content_Length="0", **headers) == expected
    own = f"http://127.0.0.1:{page.port}"
    assert page.status("127.0.0.1", "/predict", method="POST", Content_Length="0", Origin=own) == 400


@pytest.mark.parametrize(
    "path", ["/reference/" + "1" * 4301, "/example/" + "9" * 4301, "/%00", "/%ff", "/" + "a" * 5000]
)
def test_strange_paths_are_not_found(page: Page, path: str) -> None:
    assert page.status("127.0.0.1", path) == 404


@pytest.fixture
def thai_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model of gems with long Thai names, as a former version has it: without hashes."""
    folder = tmp_path / "models"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns(hashing.HASHES))
    for path in folder.glob("*.json"):
        content = path.read_text(encoding="utf-8")
        for gem, letter in zip(CLASSES, "กขค", strict=True):
            content = content.replace(f'"{gem}"', f'"{40 * letter}"')
        path.write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def proxy(thai_model: Path, tmp_path: Path) -> Iterator[tuple[int, Page]]:
    """The port of nginx with docs/nginx.conf, but for ports and certificate, and the page behind it."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if not nginx or not shutil.which("openssl"):
        pytest.skip("nginx or openssl is not installed")
    page = Page(thai_model, "--per-address", "400", "--per-minute", "3", "--allowed-hosts", "gems.example.org")
    certificate = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt"), "-subj", "/CN=gems.example.org"]
    extension = ["-addext", "subjectAltName=DNS:gems.example.org"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *certificate, *extension],
        check=True,
        capture_output=True,
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site = (ROOT / "docs" / "nginx.conf").read_text(encoding="utf-8")
    for shipped, tested in {
        "listen 443": f"listen 127.0.0.1:{port}",
        "/etc/nginx/gems.example.org.": f"{tmp_path}/",
        "127.0.0.1:8000": f"127.0.0.1:{page.port}",
    }.items():
        assert shipped in site
        site = site.replace(shipped, tested)
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/temporary;\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""  # pytest's folders are closed to others
    main = f"{user}daemon off;\npid {tmp_path}/pid;\nerror_log {tmp_path}/log warn;\nevents {{}}\nhttp {{\n{temporary}"
    (tmp_path / "nginx.conf").write_text(f"{main}{site}}}\n", encoding="utf-8")
    running = subprocess.Popen([nginx, "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "log")])
    yield port, page
    running.terminate()
    running.wait(timeout=WAIT_S)
    page.stop()
    assert not [file for file in (tmp_path / "temporary").rglob("*") if file.is_file()]  # no photo on disk
    warnings = (tmp_path / "log").read_text(encoding="utf-8")
    assert "buffered to a temporary file" not in warnings


def through(
    port: int, address: str, head: str, body: bytes = b"", *, trust: Path, host: str = "gems.example.org"
) -> bytes:
    """Return what nginx responds to a request from an address."""
    context = ssl.create_default_context(cafile=str(trust))
    context.check_hostname = host == "gems.example.org"
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), WAIT_S, (address, 0))
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with context.wrap_socket(connection, server_hostname=host) as secure:
        secure.sendall(f"{head}\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode() + body)
        return received(secure)


def test_page_behind_the_documented_nginx(proxy: tuple[int, Page], tmp_path: Path, draw: Any) -> None:
    port, _ = proxy
    trust = tmp_path / "crt"
    assert status(through(port, "127.0.0.2", "GET / HTTP/1.1", trust=trust)) == 200
    draw(1, size=(800, 600)).save(tmp_path / "stone.jpg", quality=95)
    photo = (tmp_path / "stone.jpg").read_bytes() + bytes(5_000_000)
    upload = "POST /predict HTTP/1.1\r\nOrigin: https://gems.example.org"
    sized = f"{upload}\r\nContent-Length: {len(photo)}"
    # The page counts by the client's address, which a client cannot choose.
    forged = f"{sized}\r\nX-Forwarded-For: 192.0.2.7"
    assert [status(through(port, "127.0.0.2", forged, photo, trust=trust)) for _ in range(4)] == [200, 200, 200, 429]
    assert status(through(port, "127.0.0.3", sized, photo, trust=trust)) == 200
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (photo[:7], photo[7:], b""))
    assert status(through(port, "127.0.0.3", f"{upload}\r\nTransfer-Encoding: chunked", chunked, trust=trust)) == 200
    evil = sized.replace("gems.", "evil.")  # refused before its body is read: nginx must not say 502
    assert {status(through(port, "127.0.0.3", evil, photo, trust=trust)) for _ in range(20)} == {403}
    assert status(through(port, "127.0.0.3", "GET / HTTP/1.1", trust=trust, host="rebound.example")) == 403
    assert status(through(port, "127.0.0.3", f"{upload}\r\nContent-Length: 30000000", trust=trust)) == 413
    answered = through(port, "127.0.0.4", sized, photo, trust=trust)
    [token] = re.findall(rb'"token":"([^"]+)"', answered)
    explained = through(port, "127.0.0.4", f"GET /explain/{token.decode()} HTTP/1.1", trust=trust)
    assert status(explained) == 200
    assert len(explained.split(b"\r\n\r\n")[0]) > 4096  # what nginx takes by itself


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--allowed-hosts", "https://gems.example.org"], "name it without scheme and port"),
        (["--per-address", "0"], "--per-address: 0 is less than 1"),
    ],
)
def test_bad_option_is_refused(
    forked: Any, refused: Any, tmp_path: Path, options: Sequence[str], expected: str
) -> None:
    for command in ("app", "serve"):
        refused(forked("-m", "gemmodel.cli", command, *options, cwd=tmp_path), "gemmodel", expected)
