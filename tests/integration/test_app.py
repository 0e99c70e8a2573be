"""The web page, in a browser, and the requests that it makes."""

import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 240  # of the server, on a busy machine


@pytest.fixture(scope="module")
def trained(finished_project: Any) -> Path:
    """Return the folder of a project with a trained model."""
    return Path(finished_project.root)


class Server:
    """The application in a process of its own."""

    def __init__(self, root: Path, scratch: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        scratch.mkdir()
        self.log = (root / f"{self.port}.log").open("w+", encoding="utf-8")
        command = ["-m", "gemmodel.cli", "app", "--model", "models", "--port", str(self.port), *options]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(scratch), "no_proxy": "*"},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.url = f"http://127.0.0.1:{self.port}/"

    def request(self, path: str, data: bytes | None = None) -> tuple[int, Any]:
        """Return the status and the body, of JSON parsed; data is sent by POST."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET" if data is None else "POST", path, data)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if "json" in response.headers["content-type"] else body

    def wait(self) -> "Server":
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.request("/")
                return self
            except ConnectionRefusedError:
                time.sleep(0.1)
        raise AssertionError(Path(self.log.name).read_text(encoding="utf-8"))

    def stop(self) -> str:
        """Press Ctrl+C, and return the log."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)
        return Path(self.log.name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(trained, tmp_path_factory.mktemp("scratch") / "tmp", "--per-minute", "10000").wait()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def photos(trained: Path) -> list[Path]:
    return sorted((trained / "data" / "split" / "test").rglob("*.jpg"))


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page on a phone. It must send no request to another host, and report no error but of refused uploads."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, permissions=["camera"])
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on(
        "request",
        lambda request: None if request.url.startswith((server.url, "blob:")) else problems.append(request.url),
    )
    opened.goto(server.url)
    yield opened
    refused = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    assert [line for line in problems if line != refused] == []


def wait_for_explanation(page: Any) -> None:
    page.wait_for_selector("#explanation:not([hidden])", timeout=120_000)
    assert page.locator("#status").inner_text() == ""


def test_chosen_photo_is_predicted_and_explained(page: Any, server: Server, photos: list[Path]) -> None:
    page.set_input_files("#file", photos[0])
    wait_for_explanation(page)
    status, prediction = server.request("/predict", photos[0].read_bytes())
    assert status == 200
    assert page.locator("#text").inner_text() == prediction["text"]
    bars = page.locator("#top meter").evaluate_all("all => all.map(one => one.value)")
    assert bars == [probability for _, probability in prediction["top"]]
    assert page.locator("#top li").first.inner_text().split("\n")[0] == prediction["gem"]
    assert prediction["mineral_class"] in page.locator("#details").inner_text()
    assert page.locator("#why li").count() == (1 if prediction["unknown"] else 3)
    assert page.locator("#nearest img").count() == len(prediction["nearest"]) > 0
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")  # fails where one is broken
    assert prediction["properties"]["Hardness"] in page.locator("#properties").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_photo_can_be_pasted_dropped_or_taken_by_the_camera(page: Any, photos: list[Path]) -> None:
    data = base64.b64encode(photos[0].read_bytes()).decode()
    dispatch = """([data, kind]) => {
        const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "stone.jpg", {type: "image/jpeg"}));
        const event = kind === "drop" ? new DragEvent("drop", {dataTransfer: transfer, bubbles: true})
            : new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true});
        document.body.dispatchEvent(event);
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(dispatch, [data, kind])
        wait_for_explanation(page)
        page.reload()
    page.click("#camera")
    page.evaluate("new Promise((done) => document.querySelector('video').requestVideoFrameCallback(done))")
    page.click("#capture")
    wait_for_explanation(page)


def test_page_can_be_used_by_keyboard(page: Any) -> None:
    focused = []
    for _ in range(2):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.id"))
    assert focused == ["file", "camera"]
    with page.expect_file_chooser():
        page.focus("#file")
        page.keyboard.press("Enter")


def bad_files(photo: Path) -> dict[str, bytes]:
    """Return files that are not usable photos, by part of the error message for each."""
    bomb = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    data = photo.read_bytes()
    return {
        "not an image; send a JPEG": b"<html>",
        "damaged": data[: len(data) // 2],
        "of at most 50 megapixels": bomb.getvalue(),
        "not an image": b"",
    }


def test_unusable_file_is_refused_with_a_message(page: Any, server: Server, photos: list[Path], tmp_path: Path) -> None:
    for expected, data in bad_files(photos[0]).items():
        status, body = server.request("/predict", data)
        assert status == 400
        assert expected in body["error"]
        assert server.request("/explain", data) == (status, body)
        file = tmp_path / "file.jpg"
        file.write_bytes(data)
        page.set_input_files("#file", file)
        page.wait_for_selector("#status.error")
        assert page.locator("#status").inner_text() == body["error"]
    page.set_input_files("#file", photos[0])
    wait_for_explanation(page)


def test_ten_clients_at_once_get_the_same_predictions_as_one(server: Server, photos: list[Path]) -> None:
    alone = [server.request("/predict", photo.read_bytes()) for photo in photos]
    with ThreadPoolExecutor(10) as clients:
        at_once = list(clients.map(lambda photo: server.request("/predict", photo.read_bytes()), photos * 3))
    assert at_once == alone * 3
    assert {status for status, _ in at_once} == {200}


def test_uploads_are_limited_in_size_and_rate_and_not_stored(trained: Path, photos: list[Path], tmp_path: Path) -> None:
    before = sorted(trained.rglob("*"))
    server = Server(trained, tmp_path / "scratch", "--per-minute", "3").wait()
    photo = photos[0].read_bytes()
    large = photo + bytes(19_000_000)  # some libraries write uploads of more than 1 MB to disk
    assert server.request("/predict", large)[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", "/predict", bytes(40_000_000))
        status: int | None = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):  # the server stops reading
        status = None
    assert status in (413, None)
    assert server.request("/predict", photo)[0] == 200
    status, body = server.request("/predict", photo)
    assert (status, "3 requests per minute" in body["error"]) == (429, True)
    assert list((tmp_path / "scratch").rglob("*")) == []
    assert server.stop().splitlines() == [server.url.rstrip("/")]
    assert [path for path in sorted(trained.rglob("*")) if path.suffix not in (".log", ".pyc")] == [
        path for path in before if path.suffix not in (".log", ".pyc")
    ]


def test_only_the_page_and_reference_photos_are_served(server: Server) -> None:
    assert server.request("/reference/0")[0] == 200
    assert server.request("/reference/100000")[0] == 404
    for path in ("../../params.yaml", "%2e%2e/app.py", "reference/../../params.yaml"):
        assert server.request("/" + path)[0] == 404
    assert server.request("/" + urllib.parse.quote("../../app.py", safe=""))[0] == 404
