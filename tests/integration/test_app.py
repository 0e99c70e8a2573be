"""The web page, in a browser, and the requests that it makes."""

import base64
import csv
import http.client
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from loopback import serving
from PIL import ExifTags, Image

from gemmodel.core import files
from gemmodel.explain import cues

ROOT = Path(__file__).parents[2]
LANGUAGES = ROOT / "gemmodel" / "serve" / "page" / "languages"
EXPECTED_ERRORS = [  # which Chromium reports of requests that a test makes fail
    f"Failed to load resource: {reason}"
    for reason in ("the server responded with a status of 400 (Bad Request)", "net::ERR_INTERNET_DISCONNECTED")
]
START_TIMEOUT_S = 240  # of the server, on a busy machine
IMPATIENT = """
from gemmodel import cli
from gemmodel.serve import server, uploads
server.HEADER_TIMEOUT_S, uploads.UPLOAD_TIMEOUT_S, server.BODY_TIMEOUT_S = 2, 4, 6
cli.main()
"""


@pytest.fixture(scope="module")
def trained(finished_project: Any) -> Path:
    """Return the folder of a project with a trained model."""
    return Path(finished_project.root)


class Server:
    """The application in a process of its own."""

    def __init__(
        self, root: Path, scratch: Path, *options: str, program: tuple[str, str] = ("-m", "gemmodel.cli")
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        scratch.mkdir()
        self.log = (root / f"{self.port}.log").open("w+", encoding="utf-8")
        command = [*program, "app", "--model", "models", "--port", str(self.port), *options]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(scratch), "no_proxy": "*"},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.url = f"http://127.0.0.1:{self.port}/"

    def request(
        self, path: str, data: bytes | None = None, headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, Any]:
        """Return the status and the body, of JSON parsed; data is sent by POST."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET" if data is None else "POST", path, data, headers)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if "json" in response.headers.get("content-type", "") else body

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
def feedback_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("given") / "feedback"


@pytest.fixture(scope="module")
def server(trained: Path, feedback_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--per-minute", "10000", "--feedback", str(feedback_folder))
    running = Server(trained, tmp_path_factory.mktemp("scratch") / "tmp", *options).wait()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def photos(trained: Path) -> list[Path]:
    return sorted((trained / "data" / "split" / "test").rglob("*.jpg"))


@contextmanager
def on_phone(browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """Yield a tab of a phone's browser, and a list to which the errors of its pages are added."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, permissions=["camera"], locale="en")
    tab, problems = context.new_page(), []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    yield tab, problems
    context.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page on a phone. It must send no request to another host, and report no error but of refused uploads."""
    with on_phone(browser) as (opened, problems):
        opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        opened.on(
            "request",
            lambda request: None if request.url.startswith((server.url, "blob:")) else problems.append(request.url),
        )
        open_page(opened, server)
        yield opened
        assert [line for line in problems if line not in EXPECTED_ERRORS] == []


def open_page(page: Any, server: Server) -> None:
    page.goto(server.url)
    page.wait_for_selector("#gems li", state="attached")


def wait_for_answer(page: Any, name: str) -> None:
    """Wait until all photos are answered and the photo with a name is shown, and explained unless it is unknown."""
    page.wait_for_selector(f"#name:has-text({json.dumps(name)})", timeout=120_000)
    page.wait_for_selector("#work", state="hidden", timeout=120_000)
    page.wait_for_selector("#status:empty", state="attached", timeout=120_000)


def wait_for_explanation(page: Any) -> None:
    page.wait_for_selector("#explanation:not([hidden])", timeout=120_000)
    assert page.locator("#status").inner_text() == ""


def encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def dispatch(page: Any, kind: str, *photos: bytes) -> None:
    """Drop or paste photos."""
    script = """([photos, kind]) => {
        const transfer = new DataTransfer();
        photos.forEach((data, index) => {
            const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
            transfer.items.add(new File([bytes], `stone-${index}.jpg`, {type: "image/jpeg"}));
        });
        const event = kind === "drop" ? new DragEvent("drop", {dataTransfer: transfer, bubbles: true})
            : new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true});
        document.body.dispatchEvent(event);
    }"""
    page.evaluate(script, [[base64.b64encode(photo).decode() for photo in photos], kind])


def test_model_of_rendered_pictures_says_first_that_it_is_a_demonstration(page: Any, server: Server) -> None:
    status, about = server.request("/about")
    assert (status, about["sources"], about["rendered"]) == (200, ["sample"], True)
    assert about["photos"] == sum(gem["photos"] for gem in about["gems"]) > 0
    assert page.locator(".page > *:visible").first.inner_text().startswith("This is a demonstration.")
    assert f"{about['photos']} rendered pictures of {len(about['gems'])} gems" in page.inner_text("#demonstration")
    page.click("#gems summary")
    page.evaluate("[...document.querySelectorAll('#gems img')].forEach((image) => { image.loading = 'eager'; })")
    page.evaluate("Promise.all([...document.querySelectorAll('#gems img')].map((image) => image.decode()))")
    assert page.locator("#gems img").count() == len(about["gems"])


def test_chosen_photo_is_predicted_and_explained(page: Any, server: Server, photos: list[Path]) -> None:
    page.set_input_files("#file", photos[0])
    wait_for_explanation(page)
    status, prediction = server.request("/predict", photos[0].read_bytes())
    assert status == 200
    assert page.locator("#text").inner_text() == prediction["text"]
    assert page.inner_text("#announcement").startswith(f"{photos[0].name}: {prediction['text']}. Demonstration")
    bars = page.locator("#top meter").evaluate_all("all => all.map(one => one.value)")
    assert bars == [probability for _, probability in prediction["top"]]
    assert page.locator("#top > li").first.inner_text().split("\n")[0] == prediction["gem"]
    assert page.locator("#top > li:has(img)").count() == len(prediction["top"])
    assert prediction["mineral_class"] in page.locator("#details").inner_text()
    assert page.locator("#reasons li").count() == 3
    assert page.locator("#nearest img").count() == len(prediction["nearest"]) > 0
    page.evaluate("Promise.all([...document.querySelectorAll('#result img[src]')].map((image) => image.decode()))")
    assert prediction["properties"]["Hardness"] in page.locator("#properties").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_unknown_photo_gets_no_probabilities_and_no_properties(page: Any, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "noise.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file.write_bytes(encoded(Image.fromarray(noise), quality=95))
    assert server.request("/predict", file.read_bytes())[1]["unknown"]
    page.set_input_files("#file", file)
    wait_for_answer(page, "noise.jpg")
    assert page.inner_text("#text").startswith("Unknown")
    assert "%" not in page.inner_text("main")
    assert [page.locator(part).is_visible() for part in ("#top > li", "#properties", "#why")] == [False] * 3


def test_each_of_several_photos_is_answered_in_order_and_saved_as_csv(
    page: Any, server: Server, photos: list[Path]
) -> None:
    content = [photo.read_bytes() for photo in photos[:3]]
    alone = [server.request("/predict", photo)[1] for photo in content]
    dispatch(page, "drop", *content, b"no photo")
    page.wait_for_selector("#status.error")
    page.wait_for_selector("#work", state="hidden")
    expected = [[f"stone-{index}.jpg", answer["text"]] for index, answer in enumerate(alone)]
    rows = page.locator("#list li > div").all_inner_texts()
    assert [row.split("\n") for row in rows[:3]] == expected
    assert rows[3].startswith("stone-3.jpg\nThe file is not a photo")
    with page.expect_download() as download:
        page.click("#csv")
    table = list(csv.DictReader(download.value.path().open(encoding="utf-8-sig", newline="")))
    assert [[row["photo"], row["answer"]] for row in table[:3]] == expected
    assert [row["gem"] for row in table] == ["" if one["unknown"] else one["gem"] for one in alone] + [""]
    assert "not a photo" in table[3]["error"]
    page.locator("#list .thumbnail").nth(1).click()  # the list is the history
    assert page.inner_text("#name") == "stone-1.jpg"


def test_a_photo_named_as_a_formula_is_text_in_a_spreadsheet(page: Any, photos: list[Path], tmp_path: Path) -> None:
    files_ = [tmp_path / name for name in ("=1+1.jpg", "plain.jpg")]
    for file, photo in zip(files_, photos, strict=False):
        shutil.copy(photo, file)
    page.set_input_files("#file", files_)
    wait_for_answer(page, "=1+1.jpg")
    with page.expect_download() as download:
        page.click("#csv")
    table = list(csv.DictReader(download.value.path().open(encoding="utf-8-sig", newline="")))
    assert [row["photo"] for row in table] == ["'=1+1.jpg", "plain.jpg"]


def test_photos_of_one_stone_get_one_answer(page: Any, server: Server, photos: list[Path]) -> None:
    content = [photo.read_bytes() for photo in photos[:2]]
    dispatch(page, "drop", *content)
    wait_for_answer(page, "stone-0.jpg")
    page.locator("#list input").first.uncheck()
    assert page.locator("#join").is_disabled()
    page.locator("#list input").first.check()
    page.click("#join")
    page.wait_for_selector("#name:has-text('One stone')")
    tokens = [server.request("/predict", photo)[1]["token"] for photo in content]
    status, joined = server.request(f"/stone?token={tokens[0]}&token={tokens[1]}")
    assert (status, page.inner_text("#text")) == (200, joined["text"])
    assert page.locator("#parts img").count() == 2
    assert server.request(f"/stone?token={tokens[0]}&token=guessed") == (
        410,
        {"error": "the photo is no longer in memory; send it again"},
    )


def test_photo_can_be_pasted_or_taken_by_the_camera(page: Any, photos: list[Path]) -> None:
    dispatch(page, "paste", photos[0].read_bytes())
    wait_for_answer(page, "stone-0.jpg")
    page.click("#camera")
    page.evaluate("new Promise((done) => document.querySelector('video').requestVideoFrameCallback(done))")
    page.click("#capture")
    wait_for_answer(page, "Camera photo 1")


def test_camera_without_https_and_page_without_javascript_say_why(browser: Any, server: Server) -> None:
    context = browser.new_context(locale="en")
    page = context.new_page()
    page.goto(f"http://0.0.0.0:{server.port}/")  # an address that the browser does not trust
    page.wait_for_selector("#gems li", state="attached")
    page.click("#camera")
    assert "only to pages with https" in page.inner_text("#status.error")
    context.close()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)
    assert "needs JavaScript" in page.inner_text("main")
    assert not page.locator("#drop").is_visible()
    context.close()


def test_part_of_a_photo_is_proposed_chosen_and_predicted(page: Any, server: Server, tmp_path: Path) -> None:
    picture = Image.new("RGB", (400, 200), "#cccccc")
    picture.paste((200, 20, 40), (240, 60, 320, 140))
    file = tmp_path / "far.png"
    file.write_bytes(encoded(picture, "PNG"))
    left, top, right, bottom = server.request("/predict", file.read_bytes())[1]["box"]
    assert (0.5 < left < 0.6, 0.2 < top < 0.3, 0.8 < right < 0.9, 0.7 < bottom < 0.8) == (True,) * 4
    page.set_input_files("#file", file)
    wait_for_answer(page, "far.png")
    page.click("#crop-open")
    edges = page.locator("#edges input").evaluate_all("all => all.map((one) => Number(one.value) / 100)")
    assert edges == pytest.approx([left, right, top, bottom], abs=0.006)
    area = page.locator("#frame").bounding_box()
    page.mouse.move(area["x"] + 0.5 * area["width"], area["y"] + 0.1 * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + 0.9 * area["width"], area["y"] + 0.9 * area["height"])
    page.mouse.up()
    page.locator("#edges input").first.focus()
    page.keyboard.press("ArrowRight")
    page.click("#crop-use")
    wait_for_answer(page, "far.png, part")
    size = page.evaluate(
        "[document.querySelector('#photo').naturalWidth, document.querySelector('#photo').naturalHeight]"
    )
    assert size == pytest.approx([0.39 * 400, 0.8 * 200], abs=4)


def test_example_is_tried_and_its_answer_saved_as_a_picture(page: Any, photos: list[Path]) -> None:
    first = page.locator("#examples button").first
    alt = first.locator("img").get_attribute("alt")
    gem = min(photo.parent.name for photo in photos)
    assert alt == f"Example: {gem}"
    first.click()
    wait_for_answer(page, f"This photo is labelled {gem}.")
    with page.expect_download() as download:
        page.click("#save")
    with Image.open(download.value.path()) as picture:
        assert (picture.format, picture.width) == ("PNG", 1000)
        assert picture.height > 300


def test_answer_is_shared_as_a_picture_or_downloaded(page: Any, server: Server, photos: list[Path]) -> None:
    assert not page.locator("#share").is_visible()  # headless Chromium has nothing to share with
    page.add_init_script("""
        navigator.canShare = ({files}) => files.every((file) => file.type === "image/png");
        navigator.share = async ({files, title}) => {
            window.shared = {title, name: files[0].name, picture: await files[0].arrayBuffer().then((bytes) =>
                btoa(Array.from(new Uint8Array(bytes), (byte) => String.fromCharCode(byte)).join("")))};
            document.documentElement.dataset.shared = Number(document.documentElement.dataset.shared ?? 0) + 1;
            if (window.refusal) throw new DOMException("", window.refusal);
        };
        window.written = [];
        const { fillText } = CanvasRenderingContext2D.prototype;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
            window.written.push(text);
            return fillText.call(this, text, ...place);
        };
    """)  # the part of the browser and its system; and what is written on pictures
    open_page(page, server)
    page.set_input_files("#file", photos[0])
    wait_for_explanation(page)
    page.click("#share")
    page.wait_for_selector("html[data-shared='1']")
    shared = page.evaluate("window.shared")
    assert (shared["title"], shared["name"]) == (page.title(), "gem.png")
    with Image.open(io.BytesIO(base64.b64decode(shared["picture"]))) as picture:
        assert (picture.format, picture.width) == ("PNG", 1000)
        pixels = np.asarray(picture.convert("RGB"))
    left, right = pixels[40:440, 40:440], pixels[40:440, 480:]
    assert len(np.unique(left.reshape(-1, 3), axis=0)) > 100  # the photo
    assert (right.max(axis=-1) < 64).any(axis=1).sum() > 100  # rows with letters
    written = "".join(page.evaluate("window.written"))
    assert page.inner_text("#text") in written and page.inner_text("#top > li span >> nth=0") in written
    downloads: list[Any] = []
    page.on("download", lambda one: downloads.append(one))
    page.evaluate("window.refusal = 'AbortError'")
    page.click("#share")
    page.wait_for_selector("html[data-shared='2']")
    with page.expect_download() as download:
        page.evaluate("window.refusal = 'NotAllowedError'")
        page.click("#share")
    assert download.value.suggested_filename == "gem.png"
    assert download.value.path().read_bytes() == base64.b64decode(page.evaluate("window.shared.picture"))
    assert len(downloads) == 1  # none when the user has closed what was to share


def test_large_photo_is_scaled_down_sent_once_and_can_be_cancelled(page: Any, draw: Any, tmp_path: Path) -> None:
    file = tmp_path / "large.jpg"
    file.write_bytes(encoded(draw(0, size=(4000, 3000)), quality=100, subsampling=0))
    sent: list[Any] = []
    page.on("requestfinished", lambda request: sent.append(request) if request.method == "POST" else None)
    page.set_input_files("#file", file)
    wait_for_answer(page, "large.jpg")
    assert len(sent) == 1
    assert sent[0].sizes()["requestBodySize"] < min(200_000, file.stat().st_size / 5)
    link = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2000}
    link.send("Network.emulateNetworkConditions", slow)
    page.set_input_files("#file", file)
    page.wait_for_selector("#work:not([hidden])")
    page.click("#cancel")
    page.wait_for_selector("#list .error")
    assert (page.inner_text("#status"), page.locator("#work").is_visible()) == ("Cancelled", False)
    link.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    page.click("#list .again:visible")
    wait_for_answer(page, "large.jpg")


def test_dropped_link_is_said_and_the_photo_can_be_sent_again(page: Any, photos: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "stone.jpg"
    for remedy in ("again", "gone"):
        shutil.copy(photos[0], file)
        page.context.set_offline(True)
        page.set_input_files("#file", file)
        page.wait_for_selector("#status:has-text('Your photos are still here')")
        page.context.set_offline(False)
        if remedy == "gone":
            file.unlink()
        page.click("#list .again:visible")
        if remedy == "again":
            wait_for_answer(page, "stone.jpg")
        else:
            page.wait_for_selector("#status:has-text('cannot be read')")


@pytest.fixture
def strained(browser: Any, server: Server) -> Iterator[Any]:
    """The page on a phone, for tests that make requests fail; of these the page itself must report no error."""
    with on_phone(browser) as (opened, problems):
        open_page(opened, server)
        yield opened
        assert problems == []


def test_failure_of_a_proxy_or_of_a_newer_server_is_said_and_blocks_nothing(strained: Any, photos: list[Path]) -> None:
    texts = files.read_json(LANGUAGES / "en.json")
    newer = json.dumps({"error": "new", "key": "key_of_a_newer_server", "values": {}})
    failures = [
        (502, "<html>Bad Gateway</html>", "lost"),
        (504, "<html>Gateway Time-out</html>", "lost"),
        (500, "Internal Server Error", "busy"),
        (503, newer, "busy"),
        (400, newer, "refused"),
    ]
    responses = iter(failures)

    def fail(route: Any) -> None:
        status, body, _ = next(responses)
        route.fulfill(status=status, body=body, content_type="application/json" if body == newer else "text/html")

    strained.route("**/predict", fail, times=len(failures))
    for status, _, expected in failures:
        strained.set_input_files("#file", photos[0])
        strained.wait_for_selector("#status.error")
        strained.wait_for_selector("#work", state="hidden")
        assert strained.inner_text("#status") == texts[expected].format(status=status)
        assert strained.locator("#list .again").is_visible() == (expected != "refused")
        strained.click("#clear")
    strained.set_input_files("#file", photos[0])
    wait_for_explanation(strained)


def test_list_waits_where_a_proxy_limits_the_rate_without_a_time(strained: Any, photos: list[Path]) -> None:
    sent: list[Any] = []
    strained.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    strained.clock.install()
    strained.route("**/predict", lambda route: route.fulfill(status=429, body="<html>"), times=1)
    dispatch(strained, "drop", *(photo.read_bytes() for photo in photos[:2]))
    strained.wait_for_selector("#status:has-text('Seconds left: 5')")
    strained.clock.run_for(4900)
    assert len(sent) == 1
    strained.clock.run_for(200)
    wait_for_answer(strained, "stone-0.jpg")
    assert len(sent) == 3


def test_photo_is_answered_although_the_model_was_not_described_at_first(
    browser: Any, server: Server, photos: list[Path]
) -> None:
    context = browser.new_context(locale="en")
    page = context.new_page()
    page.route("**/about", lambda route: route.abort(), times=2)
    page.goto(server.url)
    page.wait_for_selector("#status.error")
    page.set_input_files("#file", photos[0])
    page.click("#list .again")
    wait_for_explanation(page)
    assert page.locator("#gems li").count() == len(server.request("/about")[1]["gems"])
    context.close()


def test_list_stops_where_the_link_is_lost_and_all_can_be_tried_again(strained: Any, photos: list[Path]) -> None:
    sent: list[Any] = []
    strained.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    strained.route("**/predict", lambda route: route.continue_() if len(sent) == 1 else route.fulfill(status=502))
    dispatch(strained, "drop", *(photo.read_bytes() for photo in photos[:4]))
    strained.wait_for_selector("#status.error:has-text('Your photos are still here')")
    assert len(sent) == 2
    assert strained.locator("#list .again:visible").count() == 3
    strained.unroute("**/predict")
    strained.click("#retry-all")
    strained.wait_for_selector("#list li:has(.again:visible)", state="detached")
    strained.wait_for_selector("#work", state="hidden")
    assert strained.locator("#list .thumbnail:enabled").count() == 4
    assert (len(sent), strained.locator("#retry-all").is_visible()) == (5, False)


def test_file_of_more_bytes_than_the_server_takes_is_not_sent_and_stops_no_list(
    page: Any, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "scan.tif").write_bytes(bytes(20_000_001))
    shutil.copy(photos[0], tmp_path / "stone.jpg")
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    page.set_input_files("#file", [tmp_path / "scan.tif", tmp_path / "stone.jpg"])
    page.wait_for_selector("#name:has-text('stone.jpg')")
    page.wait_for_selector("#work", state="hidden")
    assert "file is too large" in page.inner_text("#list .error")
    assert len(sent) == 1


def test_long_list_with_failures_leaves_room_for_the_rest(strained: Any, photos: list[Path]) -> None:
    strained.context.set_offline(True)
    dispatch(strained, "drop", *[photos[0].read_bytes()] * 60)
    strained.wait_for_selector("#status:has-text('offline')")
    assert strained.locator("#list .again:visible").count() == 60
    for width in (320, 390, 1280):
        strained.set_viewport_size({"width": width, "height": 800})
        assert strained.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert strained.locator("#list").bounding_box()["height"] <= 400
        words, again = (strained.locator(f"#list {part}").first.bounding_box() for part in ("li > div", ".again"))
        assert words["width"] > 150
        assert (again["y"] >= words["y"] + words["height"]) == (width < 500)


def test_only_what_the_browser_shows_can_be_cropped(page: Any, photos: list[Path], tmp_path: Path) -> None:
    with Image.open(photos[0]) as photo:
        (tmp_path / "scan.tif").write_bytes(encoded(photo, "TIFF"))
    page.set_input_files("#file", tmp_path / "scan.tif")
    wait_for_answer(page, "scan.tif")
    page.wait_for_selector("#photo", state="hidden")
    assert not page.locator("#crop-open").is_visible()
    shutil.copy(photos[0], tmp_path / "moved.jpg")
    page.set_input_files("#file", tmp_path / "moved.jpg")
    wait_for_answer(page, "moved.jpg")
    page.click("#crop-open")
    (tmp_path / "moved.jpg").unlink()
    page.click("#crop-use")
    page.wait_for_selector("#status.error:has-text('cannot be read')")
    assert page.locator("#list li").count() == 2


def test_camera_is_released_and_takes_no_photo_before_it_shows_one(page: Any, server: Server) -> None:
    page.add_init_script("""
        const media = navigator.mediaDevices, open = media.getUserMedia.bind(media);
        window.tracks = [];
        media.getUserMedia = async (wanted) => {
            const stream = window.dark ? new MediaStream() : await open(wanted);
            document.documentElement.dataset.tracks = window.tracks.push(...stream.getTracks());
            return stream;
        };
    """)  # counts what the browser's camera sign shows
    open_page(page, server)
    live = "window.tracks.filter((track) => track.readyState === 'live').length"
    for presses in (1, 2):  # the second time twice at once
        opened = page.evaluate("window.tracks.length")
        page.evaluate(f"for (let i = 0; i < {presses}; i += 1) document.querySelector('#camera').click()")
        page.wait_for_selector(f"html[data-tracks='{opened + presses}']")
        page.wait_for_selector("#capture:enabled:focus")
        assert page.evaluate(live) == 1
    page.set_viewport_size({"width": 844, "height": 390})
    assert page.locator("video").bounding_box()["height"] <= 0.6 * 390
    page.click("#stop")
    assert page.evaluate(live) == 0
    page.evaluate("window.dark = true")
    page.click("#camera")
    page.wait_for_selector("#live:visible")
    assert page.locator("#capture").is_disabled()


def test_explanation_that_is_left_is_no_error(strained: Any, photos: list[Path]) -> None:
    texts = files.read_json(LANGUAGES / "en.json")
    dispatch(strained, "drop", *(photo.read_bytes() for photo in photos[:3]))
    wait_for_answer(strained, "stone-0.jpg")
    link = strained.context.new_cdp_session(strained)
    slow = {"offline": False, "latency": 0, "downloadThroughput": 1500, "uploadThroughput": -1}
    link.send("Network.enable")
    link.send("Network.emulateNetworkConditions", slow)
    rows = strained.locator("#list .thumbnail")
    with strained.expect_response("**/explain/*"):
        rows.nth(1).click()
    status = strained.locator("#status")
    assert (status.inner_text(), strained.evaluate("scrollY") > 0) == (texts["explaining"], True)
    assert 0 <= status.bounding_box()["y"] < 100 < strained.locator("#text").bounding_box()["y"]
    with strained.expect_response("**/explain/*"):  # while the body of the other one still arrives
        rows.nth(2).click()
    link.send("Network.emulateNetworkConditions", slow | {"downloadThroughput": -1})
    wait_for_explanation(strained)


class CutOff(BaseHTTPRequestHandler):
    """Passes requests on to a server, and ends the first explanation in its middle, as a lost link does."""

    port = 0  # of the server
    explanations = 0

    def do_GET(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection.request(self.command, self.path, body or None)
        response = connection.getresponse()
        content = response.read()
        self.send_response(response.status)
        for name in {"Content-Type", "Content-Length", "Explanation"} & set(map(str.title, response.headers)):
            self.send_header(name, response.headers[name])
        self.end_headers()
        CutOff.explanations += self.path.startswith("/explain")
        cut = self.path.startswith("/explain") and self.explanations == 1
        self.wfile.write(content[: len(content) // 2] if cut else content)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def test_explanation_that_is_cut_off_is_a_lost_link(browser: Any, server: Server, photos: list[Path]) -> None:
    CutOff.port = server.port
    with ThreadingHTTPServer(("127.0.0.1", 0), CutOff) as between:
        threading.Thread(target=between.serve_forever, daemon=True).start()
        context = browser.new_context(locale="en")
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{between.server_port}/")
        dispatch(page, "drop", *(photo.read_bytes() for photo in photos[:2]))
        page.wait_for_selector("#status.error")
        assert page.inner_text("#status") == files.read_json(LANGUAGES / "en.json")["lost"]
        page.locator("#list .thumbnail").first.click()
        wait_for_explanation(page)
        context.close()
        between.shutdown()


def test_last_of_five_gems_is_named_in_each_language(browser: Any, server: Server, photos: list[Path]) -> None:
    context = browser.new_context(locale="de")
    page = context.new_page()
    sets = {
        "Achat, Jade, Opal, Rubin oder Topas": ["Achat", "Jade", "Opal", "Rubin", "Topas"],
        "Achat, Jade, Opal, Rubin oder einer von 2 weiteren": ["Achat", "Jade", "Opal", "Rubin", "Topas", "Zirkon"],
    }
    answers = iter(sets.values())

    def answer(route: Any) -> None:
        prediction = {"prediction_set": next(answers), "unknown": False, "certainty": "sure"}
        route.fulfill(json=server.request("/predict", photos[0].read_bytes())[1] | prediction)

    page.route("**/predict", answer)
    open_page(page, server)
    for expected in sets:
        page.set_input_files("#file", photos[0])
        page.wait_for_selector(f"#text:text-is('{expected}')")
        page.wait_for_selector("#work", state="hidden")
    context.close()


def test_page_speaks_the_language_of_the_browser_or_of_the_menu(
    browser: Any, server: Server, photos: list[Path]
) -> None:
    texts = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in LANGUAGES.glob("*.json")}
    assert sorted(texts) == ["de", "en", "es", "fr", "th", "zh"]
    context = browser.new_context(viewport={"width": 390, "height": 844}, locale="de-AT")
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    open_page(page, server)
    page.set_input_files("#file", photos[0])
    wait_for_answer(page, photos[0].name)
    assert page.inner_text("h1") == texts["de"]["title"]
    for language in ("de", "fr", "es", "th", "zh", "en"):
        page.select_option("#language", language)
        page.wait_for_selector(f"html[lang={language}]")
        assert page.title() == page.inner_text("h1") == texts[language]["title"]
        assert page.inner_text("#nearest h3") == texts[language]["nearest"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), language
        shown = page.inner_text("body")
        for key, text in texts["en"].items():
            foreign = language != "en" and text != texts[language][key] and len(text) > 12 and "{" not in text
            assert not (foreign and text in shown), (language, key)
    page.reload()
    page.wait_for_selector("html[lang=en]")  # the choice is kept
    assert problems == []
    context.close()


def test_of_two_languages_chosen_quickly_the_last_is_shown(page: Any) -> None:
    held: list[Any] = []
    page.route("**/languages/fr.json", lambda route: held.append(route))
    page.select_option("#language", "fr")
    page.select_option("#language", "es")
    page.wait_for_selector("html[lang=es]")
    with page.expect_response("**/languages/fr.json") as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("new Promise((done) => setTimeout(done))")  # after what the page does with the response
    assert page.get_attribute("html", "lang") == page.input_value("#language") == "es"


def test_all_languages_have_the_same_texts_and_values() -> None:
    texts = {path.stem: files.read_json(path) for path in LANGUAGES.glob("*.json")}
    values = {
        language: {key: sorted(set(re.findall(r"{\w+}", text))) for key, text in found.items()}
        for language, found in texts.items()
    }
    for language, found in values.items():
        assert found == values["en"], language
    sentences = cues.SENTENCES | {f"colour_{colour}": colour for colour in cues.COLOURS}
    said = {key: text for key, text in texts["en"].items() if key.startswith(("cue_", "after_", "colour_"))}
    assert said == sentences  # as `gemmodel predict --explain` prints them


def test_page_shows_no_english_in_another_language(
    browser: Any, server: Server, photos: list[Path], tmp_path: Path
) -> None:
    german = files.read_json(LANGUAGES / "de.json")
    english = [*files.read_json(LANGUAGES / "en.json").values(), "send a JPEG", "not an image", "name of a gem"]
    fragments = {part for text in english for part in re.split(r"{\w+}", text) if len(part) > 9}
    fragments = {part for part in fragments if not any(part in text for text in german.values())}
    assert len(fragments) > 80
    context = browser.new_context(viewport={"width": 390, "height": 844}, locale="de")
    page = context.new_page()

    def check(state: str) -> str:
        labels = page.evaluate(
            "[...document.querySelectorAll('[aria-label], [alt]')].map((one) => one.ariaLabel ?? one.alt).join('\\n')"
        )
        shown = str(page.inner_text("body") + labels)
        assert [part for part in fragments if part in shown] == [], state
        return shown

    open_page(page, server)
    check("start")
    page.set_input_files("#file", photos[0])
    wait_for_explanation(page)
    shown = check("explained")
    starts = [re.split(r"{\w+}", german[key])[0] for key in german if key.startswith("cue_")]
    reasons = page.locator("#reasons li").all_inner_texts()
    assert len(reasons) == 3
    colours = tuple(german[f"colour_{colour}"] for colour in cues.COLOURS)
    assert all(text.startswith((*filter(None, starts), *colours)) for text in reasons), reasons
    assert "undefined" not in shown and "{" not in shown
    page.click("#crop-open")
    page.click("#feedback summary")
    page.fill("#right-gem", "../Ruby")
    page.check("#consent")
    page.click("#give")
    page.wait_for_selector("#feedback-status:has-text('kein Name')")
    check("name refused")
    for key, data in {
        "not_a_photo": b"<html>",
        "damaged": photos[0].read_bytes()[:-3000],
        "too_many_pixels": bad_files(photos[0])["of at most 50 megapixels"],
        "too_much_memory": bad_files(photos[0])["save it smaller"],
    }.items():
        file = tmp_path / f"{key}.jpg"
        file.write_bytes(data)
        page.set_input_files("#file", file)
        page.wait_for_selector("#status.error")
        page.wait_for_selector("#work", state="hidden")
        assert page.inner_text("#status") == german[key].replace("{megapixels}", "50")
        check(key)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    dispatch(page, "drop", photos[1].read_bytes(), encoded(Image.fromarray(noise), quality=95))
    wait_for_answer(page, "stone-0.jpg")
    page.click("#join")
    page.wait_for_selector("#name:has-text('Ein Stein')")
    check("joined")
    page.locator("#list li:has-text('stone-1.jpg') .thumbnail").first.click()
    assert page.inner_text("#text").startswith("Unbekannt")
    check("unknown")
    page.context.set_offline(True)
    page.set_input_files("#file", photos[1])
    page.wait_for_selector("#status:has-text('offline')")
    check("offline")
    context.close()


def test_no_other_page_shows_it_in_a_frame_and_it_asks_no_other_host(browser: Any, server: Server) -> None:
    context = browser.new_context(locale="en")
    page = context.new_page()
    open_page(page, server)
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.setblocking(False)
        options = "{mode: 'no-cors', signal: AbortSignal.timeout(5000)}"
        script = f"url => fetch(url, {options}).then(() => 'sent', (error) => error.name)"
        assert page.evaluate(script, f"http://127.0.0.1:{other.getsockname()[1]}/") == "TypeError"
        with pytest.raises(BlockingIOError):
            other.accept()
    frames = f'<iframe src="{server.url}"></iframe><iframe src="/plain"></iframe>'
    with serving({"/plain": b"plain", "/": frames.encode()}) as site:
        page.goto(site.url("/"))
        page.wait_for_load_state("networkidle")
        shown = {frame.url for frame in page.frames}
        assert site.url("/plain") in shown and server.url not in shown, shown
        assert any(url.startswith("chrome-error:") for url in shown)
    context.close()


def test_feedback_needs_a_consent_and_becomes_photos_that_a_crawl_takes(
    page: Any, server: Server, feedback_folder: Path, photos: list[Path], tmp_path: Path, forked: Any
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Secret camera"
    file = tmp_path / "stone.jpg"
    with Image.open(photos[0]) as picture:
        file.write_bytes(encoded(picture, exif=exif))
    page.set_input_files("#file", file)
    wait_for_answer(page, "stone.jpg")
    page.click("#feedback summary")
    page.fill("#right-gem", "citrine")
    assert page.locator("#give").is_disabled()
    page.check("#consent")
    page.click("#give")
    page.wait_for_selector("#feedback-status:has-text('Thank you')")
    assert (feedback_folder / ".gitignore").read_text() == "*\n"
    given = [path for path in feedback_folder.rglob("*") if path.is_file() and path.name != ".gitignore"]
    assert [path.parent.name for path in given] == ["Citrine"]
    assert b"Secret camera" not in given[0].read_bytes()
    assert server.request("/feedback?gem=New%20gem&consent=yes", photos[1].read_bytes())[0] == 204
    inventory = forked("-m", "gemmodel.cli", "inspect", str(feedback_folder), cwd=tmp_path).stdout
    assert "Citrine" in inventory and "New gem" in inventory
    before = sorted(feedback_folder.rglob("*"))
    for gem in ("../Ruby", "..", "", "a/b", "a\\b", ".hidden", "CON", "x" * 61, "a\0"):
        query = urllib.parse.urlencode({"gem": gem, "consent": "yes"})
        assert server.request(f"/feedback?{query}", photos[0].read_bytes())[0] == 400, gem
    assert server.request("/feedback?gem=Ruby&consent=yes", b"<html>")[0] == 400
    assert server.request("/feedback?gem=Ruby", photos[0].read_bytes())[0] == 400
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert server.request("/feedback?gem=Ruby&consent=yes", photos[0].read_bytes(), elsewhere)[0] == 403
    assert sorted(feedback_folder.rglob("*")) == before


def test_used_port_is_refused_before_an_address_is_printed(
    trained: Path, server: Server, forked: Any, refused: Any
) -> None:
    ended = forked("-m", "gemmodel.cli", "app", "--model", "models", "--port", str(server.port), cwd=trained)
    refused(ended, "gemmodel", f"--port: {server.port} is in use on 127.0.0.1")
    assert ended.stdout == ""


def test_page_has_no_accessibility_violations(browser: Any, server: Server, photos: list[Path], tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python").__path__[0]
    script = (Path(axe) / "axe.min.js").read_text(encoding="utf-8")
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, locale="en")
        page = context.new_page()

        def violations(page: Any = page) -> list[str]:
            page.evaluate(script)
            return [problem["id"] for problem in page.evaluate("axe.run()")["violations"]]

        open_page(page, server)
        assert violations() == []
        dispatch(page, "drop", *(photo.read_bytes() for photo in photos[:2]), b"no photo")
        page.wait_for_selector("#status.error")
        page.wait_for_selector("#work", state="hidden")
        page.click("#join")
        page.wait_for_selector("#name:has-text('One stone')")
        assert violations() == []
        page.locator("#list .thumbnail").first.click()
        for part in ("#crop-open", "#feedback summary", "#gems summary"):
            page.click(part)
        assert violations() == []
        context.close()


def test_page_can_be_used_by_keyboard(page: Any) -> None:
    focused = []
    for _ in range(4):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("document.activeElement.id || document.activeElement.localName"))
    assert focused == ["language", "summary", "file", "camera"]
    with page.expect_file_chooser():
        page.focus("#file")
        page.keyboard.press("Enter")


def bad_files(photo: Path) -> dict[str, bytes]:
    """Return files that are not usable photos, by part of the error message for each."""
    bomb = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(bomb, "PNG")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = bytearray(encoded(Image.new("RGB", (16, 16)), progressive=True, exif=exif))
    size = turned.index(b"\xff\xc2") + 5
    turned[size : size + 4] = (7000).to_bytes(2) * 2  # its header's height and width
    data = photo.read_bytes()
    return {
        "not an image; send a JPEG": b"<html>",
        "damaged": data[: len(data) // 2],
        "of at most 50 megapixels": bomb.getvalue(),
        "save it smaller": bytes(turned),
        "not an image": b"",
    }


def test_unusable_file_is_refused_with_a_message(page: Any, server: Server, photos: list[Path], tmp_path: Path) -> None:
    texts = files.read_json(LANGUAGES / "en.json")
    for expected, data in bad_files(photos[0]).items():
        status, body = server.request("/predict", data)
        assert status == 400
        assert expected in body["error"]
        assert server.request("/feedback?gem=Ruby&consent=yes", data) == (status, body)
        file = tmp_path / "file.jpg"
        file.write_bytes(data)
        page.set_input_files("#file", file)
        page.wait_for_selector("#status.error")
        page.wait_for_selector("#work", state="hidden")
        assert page.locator("#status").inner_text() == texts[body["key"]].format(**body["values"])
        page.click("#clear")
    page.set_input_files("#file", photos[0])
    wait_for_explanation(page)


def exchange(server: Server, sent: bytes) -> bytes:
    """Send bytes, and return what the server sends until it closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # the server closes without reading all
            connection.sendall(sent)
            while part := connection.recv(65536):
                received += part
    return received


@pytest.fixture
def impatient(trained: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that waits only seconds for the rest of a request."""
    options = ("--per-minute", "10000", "--feedback", str(tmp_path / "feedback"))
    running = Server(trained, tmp_path / "scratch", *options, program=("-c", IMPATIENT)).wait()
    yield running
    running.stop()


def test_mutated_photos_and_requests_are_answered_or_refused(impatient: Server, photos: list[Path]) -> None:
    server = impatient
    fuzz = pytest.importorskip("tests.fuzz", reason="its limits of memory are not those of Windows")
    rng, good, statuses = random.Random(0), photos[0].read_bytes(), set()
    [_, expected] = server.request("/predict", good)
    originals = [good, *fuzz.originals()]
    for _ in range(200):
        status, body = server.request("/predict", fuzz.mutated(rng, originals))
        assert (status == 200 and body["text"]) or (status == 400 and len(body["error"].splitlines()) == 1), body
        statuses.add(status)
    assert statuses == {200, 400}
    token = expected["token"]
    end = f" HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
    about = server.request("/about")[1]
    gets = [
        "about",
        about["gems"][0]["pictures"][0],
        about["examples"][0]["photo"],
        "languages/en.json",
        f"explain/{token}",
        f"stone?token={token}&token=a",
    ]
    requests = [f"GET /{path}{end}\r\n".encode() for path in gets]
    for path in ("predict", "feedback?consent=yes&gem=Ruby"):
        requests.append(f"POST /{path}{end}Content-Length: {len(good)}\r\n\r\n".encode() + good)
    mutations = [fuzz.mutated(rng, requests) for _ in range(200)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda sent: exchange(server, sent)[9:12], requests + mutations))
    assert answers[: len(requests)] == [b"200", b"200", b"200", b"200", b"200", b"410", b"200", b"204"]
    assert {b"200", b"400", b"404"} <= set(answers)
    assert max(answers) < b"500"
    status, body = server.request("/predict", good)
    assert (status, body | {"token": token}) == (200, expected)
    assert "Traceback" not in Path(server.log.name).read_text(encoding="utf-8")


def test_ten_clients_at_once_get_the_same_predictions_as_one(server: Server, photos: list[Path]) -> None:
    def predict(photo: Path) -> tuple[int, Any]:
        status, body = server.request("/predict", photo.read_bytes())
        return status, {key: value for key, value in body.items() if key != "token"}

    alone = [predict(photo) for photo in photos]
    with ThreadPoolExecutor(10) as clients:
        at_once = list(clients.map(predict, photos * 3))
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
    about = server.request("/about")[1]
    assert server.request("/" + about["gems"][0]["pictures"][0])[0] == 200
    assert server.request("/" + about["examples"][0]["photo"])[0] == 200
    for path in ("reference/100000", f"reference/{about['model']}", about["examples"][0]["photo"] + "0"):
        assert server.request("/" + path)[0] == 404
    for path in ("../../params.yaml", "%2e%2e/app.py", "reference/../../params.yaml"):
        assert server.request("/" + path)[0] == 404
    assert server.request("/" + urllib.parse.quote("../../app.py", safe=""))[0] == 404
