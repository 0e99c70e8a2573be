"""The web page, as people in front of a browser have it."""

import base64
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(split_project: Any, new_project: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a project with a trained model."""
    project = new_project(tmp_path_factory.mktemp("served"))
    shutil.copytree(split_project.root / "data", project.root / "data", dirs_exist_ok=True)
    project.run("embed", "train")
    return Path(project.root)


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

    def ask(self, path: str, data: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET" if data is None else "POST", path, data)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if "json" in answer.headers["content-type"] else body

    def wait(self) -> "Server":
        while True:  # pytest's own time limit ends a server that never starts
            assert self.process.poll() is None, Path(self.log.name).read_text(encoding="utf-8")
            try:
                self.ask("/")
                return self
            except ConnectionRefusedError:
                pass

    def stop(self) -> str:
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
    """The page on a phone; it asks no other host, and nothing goes wrong in it."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, permissions=["camera"])
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on(
        "request", lambda request: None if request.url.startswith((server.url, "blob:")) else wrong.append(request.url)
    )
    opened.goto(server.url)
    yield opened
    refused = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    assert [line for line in wrong if line != refused] == []


def answered(page: Any) -> None:
    page.wait_for_selector("#why:not([hidden])", timeout=120_000)
    assert page.locator("#status").inner_text() == ""


def test_a_chosen_photo_is_named_and_explained(page: Any, server: Server, photos: list[Path]) -> None:
    page.set_input_files("#file", photos[0])
    answered(page)
    status, told = server.ask("/answer", photos[0].read_bytes())
    assert status == 200
    assert page.locator("#words").inner_text() == told["text"]
    bars = page.locator("#top meter").evaluate_all("all => all.map(one => one.value)")
    assert bars == pytest.approx([share for _, share in told["top"]])
    assert page.locator("#top li").first.inner_text().split("\n")[0] == told["gem"]
    assert told["mineral_class"] in page.locator("#look").inner_text()
    known = page.locator("#alike img")
    assert known.count() == len(told["nearest"]) > 0
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")  # fails where one is broken
    assert told["properties"]["Hardness"] in page.locator("#about").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_photos_come_by_paste_drop_and_camera(page: Any, photos: list[Path]) -> None:
    data = base64.b64encode(photos[0].read_bytes()).decode()
    give = """([data, kind]) => {
        const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "stone.jpg", {type: "image/jpeg"}));
        const event = kind === "drop" ? new DragEvent("drop", {dataTransfer: transfer, bubbles: true})
            : new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true});
        document.body.dispatchEvent(event);
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(give, [data, kind])
        answered(page)
        page.reload()
    page.click("#camera")
    page.evaluate("new Promise((done) => document.querySelector('video').requestVideoFrameCallback(done))")
    page.click("#take")
    answered(page)


def test_it_can_be_used_by_keyboard_alone(page: Any) -> None:
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached[:2] == ["file", "camera"]
    with page.expect_file_chooser():
        page.focus("#file")
        page.keyboard.press("Enter")


def bad_files(photo: Path) -> dict[str, bytes]:
    huge = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(huge, "PNG")
    data = photo.read_bytes()
    return {"no photo": b"<html>", "damaged": data[: len(data) // 2], "100 megapixels": huge.getvalue(), "": b""}


def test_what_is_no_photo_is_refused_in_words(page: Any, server: Server, photos: list[Path], tmp_path: Path) -> None:
    for words, data in bad_files(photos[0]).items():
        status, told = server.ask("/answer", data)
        assert (status, words in told["error"] or "not a photo" in told["error"]) == (400, True)
        assert server.ask("/why", data)[0] == 400
        file = tmp_path / "file.jpg"
        file.write_bytes(data)
        page.set_input_files("#file", file)
        page.wait_for_selector("#status.error")
        assert page.locator("#status").inner_text() == told["error"]
    page.set_input_files("#file", photos[0])
    answered(page)


def test_ten_people_at_once(server: Server, photos: list[Path]) -> None:
    alone = [server.ask("/answer", photo.read_bytes()) for photo in photos]
    with ThreadPoolExecutor(10) as people:
        together = list(people.map(lambda photo: server.ask("/answer", photo.read_bytes()), photos * 3))
    assert together == alone * 3
    assert {status for status, _ in together} == {200}


def test_uploads_are_limited_in_size_and_rate_and_leave_no_trace(
    trained: Path, photos: list[Path], tmp_path: Path
) -> None:
    before = sorted(trained.rglob("*"))
    server = Server(trained, tmp_path / "scratch", "--per-minute", "3").wait()
    photo = photos[0].read_bytes()
    large = photo + bytes(19_000_000)  # kept in memory: an upload of some libraries goes to disk from 1 MB on
    assert server.ask("/answer", large)[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", "/answer", bytes(40_000_000))
        status: int | None = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):  # the server does not read on
        status = None
    assert status in (413, None)
    assert server.ask("/answer", photo)[0] == 200
    status, told = server.ask("/answer", photo)
    assert (status, "minute" in told["error"]) == (429, True)
    assert list((tmp_path / "scratch").rglob("*")) == []
    assert server.stop().splitlines() == [server.url.rstrip("/")]
    assert [path for path in sorted(trained.rglob("*")) if path.suffix not in (".log", ".pyc")] == [
        path for path in before if path.suffix not in (".log", ".pyc")
    ]


def test_only_photos_that_were_learnt_from_are_shown(server: Server) -> None:
    assert server.ask("/known/0")[0] == 200
    assert server.ask("/known/100000")[0] == 404
    for path in ("../../params.yaml", "%2e%2e/app.py", "known/../../params.yaml"):
        assert server.ask("/" + path)[0] == 404
    assert server.ask("/" + urllib.parse.quote("../../app.py", safe=""))[0] == 404
