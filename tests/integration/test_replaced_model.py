"""A model that is replaced in its folder while the web page and MLflow's scoring server answer requests by it."""

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
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest

from gemmodel.images import decode
from gemmodel.models import saving
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.metadata import ModelMetadata
from gemmodel.register import locate, registration
from gemmodel.serve.predictions import Prediction
from gemmodel.serve.predictor import Predictor
from gemmodel.tracking import runs

ROOT = Path(__file__).parents[2]
MODELS = {  # the second one has the sizes of the first, so that its numbers would fit the first one's names
    "first": (32, ["Agate", "Ruby", "Topaz"]),
    "second": (32, ["Beryl", "Opal", "Zircon"]),
    "third": (48, ["Amber", "Jade", "Jet", "Pearl"]),
}
CLIENTS = 4
TIMEOUT_S = 240  # on a busy machine

Answer = dict[str, Any]


class Setting(NamedTuple):
    """A folder with the models and their reference photos, a photo to predict, and each model's answer to it."""

    root: Path
    photo: bytes
    answers: dict[str, Answer]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, draw: Any) -> Setting:
    root = tmp_path_factory.mktemp("replaced")
    file = io.BytesIO()
    draw(7).save(file, **decode.JPEG)
    answers = {}
    for seed, (name, (side, classes)) in enumerate(MODELS.items()):
        keras.utils.set_random_seed(seed)
        network = keras.Sequential(
            [
                keras.Input((side, side, 3)),
                keras.layers.Rescaling(1 / 255),
                keras.layers.AveragePooling2D(8),
                keras.layers.Flatten(),
                keras.layers.Dense(len(classes), activation="softmax"),
            ]
        )
        width = saving.with_embedding(network).outputs[1].shape[-1]
        files = [f"{gem}/1.png" for gem in classes]
        for path in files:
            (root / "photos" / path).parent.mkdir(parents=True)
            draw(len(answers) + len(path), tint=(1, seed / 3, 0.5)).save(root / "photos" / path)
        reference = ReferenceSet(
            np.eye(len(classes), width, dtype=np.float32), np.arange(len(classes), dtype=np.int32), np.array(files)
        )
        metadata = ModelMetadata(classes, dict.fromkeys(classes, name), Thresholds(0.9, 0.3, 1, 2.0), reference)
        saving.save(network, classes, root / name, metadata=metadata)
        [prediction] = Predictor(root / name).predict([io.BytesIO(file.getvalue())])
        assert isinstance(prediction, Prediction)
        answers[name] = {
            "gem": prediction.gem,
            "mineral_class": name,
            "probability": prediction.probability,
            "top": [gem for gem, _ in prediction.top],
            "top_probabilities": [probability for _, probability in prediction.top],
            "prediction_set": prediction.prediction_set,
        }
    assert len({answer["gem"] for answer in answers.values()}) == len(MODELS)
    return Setting(root, file.getvalue(), answers)


def replace_files(folder: Path, new: Path, between: Callable[[], None], *, last: str) -> None:
    """Write each file in place, in two steps, as a copy does; `between` is called after each step but the last."""
    for path in sorted(new.iterdir(), key=lambda path: (path.name == last, path.name)):
        content = path.read_bytes()
        with (folder / path.name).open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            between()
            file.write(content[len(content) // 2 :])
        if path.name != last:
            between()


def replace_folder(folder: Path, new: Path, between: Callable[[], None]) -> None:
    """Rename the old folder away and a new one into its place, as the train stage does."""
    shutil.copytree(new, folder.with_name("beside"))
    folder.rename(folder.with_name("old"))
    between()
    folder.with_name("beside").rename(folder)
    shutil.rmtree(folder.with_name("old"))


@contextmanager
def clients(predict: Callable[[], Answer]) -> Iterator[list[Answer]]:
    """Send requests from several threads until the block ends; yields their answers so far."""
    answers: list[Answer] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def send() -> None:
        try:
            while not ended.is_set():
                answers.append(predict())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=send) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert errors == []


def check_replacements(folder: Path, setting: Setting, predict: Callable[[], Answer]) -> None:
    """Replace the first model in all ways, under requests; each answer must be that of one whole model."""
    expected, present = setting.answers, "first"

    def check_unchanged() -> None:
        assert predict() == expected[present]

    with clients(predict) as answers:
        graph_last, hashes_last = (partial(replace_files, last=file) for file in ("model.tflite", "sha256.json"))
        for name, replace in (
            ("second", graph_last),
            ("third", replace_folder),
            ("first", hashes_last),
            ("second", replace_folder),
            ("third", graph_last),
        ):
            replace(folder, setting.root / name, check_unchanged)
            deadline = time.monotonic() + TIMEOUT_S
            while (answer := predict()) != expected[name]:  # another client's request loads the new model
                assert answer == expected[present]
                assert time.monotonic() < deadline
            present = name
        network = folder / "model.tflite"
        content = network.read_bytes()
        network.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
        for _ in range(3):
            check_unchanged()
        network.write_bytes(content)
        check_unchanged()
    assert len(answers) > CLIENTS
    assert [answer for answer in answers if answer not in expected.values()] == []


class Server:
    """A command of gemmodel that serves, in a process of its own."""

    def __init__(self, root: Path, command: str, *options: str, **variables: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.log = root / f"{command}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gemmodel.cli", command, "--port", str(self.port), *options],
                cwd=root, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def request(self, path: str, data: bytes | None = None, kind: str = "image/jpeg") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        connection.request("GET" if data is None else "POST", path, data, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.read()

    def wait(self, path: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.request(path)
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def stop(self) -> str:
        """Press Ctrl+C, and return the log."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=60)
        return self.log.read_text()


def page_server(root: Path, setting: Setting) -> Server:
    photos = str(setting.root / "photos")
    return Server(root, "app", "--model", "models", "--photos", photos, "--per-minute", "9999999")


def test_each_answer_of_the_page_is_by_one_model_while_models_are_replaced(setting: Setting, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    shutil.copytree(setting.root / "first", folder)
    server = page_server(tmp_path, setting)

    def ask() -> Answer:
        status, body = server.request("/predict", setting.photo)
        assert status == 200, body
        return dict(json.loads(body))

    def predict() -> Answer:
        answer = ask()
        top = {"top": [gem for gem, _ in answer["top"]], "top_probabilities": [value for _, value in answer["top"]]}
        assert {photo["gem"] for photo in answer["nearest"]} == set(top["top"])
        return {name: (answer | top)[name] for name in setting.answers["first"]}

    def gems() -> list[str]:
        return [gem["gem"] for gem in json.loads(server.request("/about")[1])["gems"]]

    try:
        server.wait("/about")
        assert gems() == MODELS["first"][1]
        check_replacements(folder, setting, predict)
        assert gems() == MODELS["third"][1]
        before = ask()
        pictures = {photo["photo"]: server.request(f"/{photo['photo']}") for photo in before["nearest"]}
        replace_folder(folder, setting.root / "first", predict)
        after = ask()
        assert {photo: server.request(f"/{photo}") for photo in pictures} == pictures
        assert not set(pictures) & {photo["photo"] for photo in after["nearest"]}
        assert {server.request(f"/{photo['photo']}")[0] for photo in after["nearest"]} == {200}
        tokens = before["token"], after["token"]
        assert [server.request(f"/explain/{token}")[0] for token in tokens] == [200, 200]
        assert json.loads(server.request(f"/stone?token={tokens[0]}")[1])["gem"] == before["gem"]
        status, body = server.request(f"/stone?token={tokens[0]}&token={tokens[1]}")
        assert (status, json.loads(body)) == (
            410,
            {"error": "the model was replaced between these photos; send them again"},
        )
    finally:
        log = server.stop()
    assert "models: another model, in use from now on" in log
    assert "model.tflite: damaged, or of another model than sha256.json; " in log
    assert "Traceback" not in log
    replace_folder(folder, setting.root / "third", lambda: None)
    server = page_server(tmp_path, setting)
    try:
        server.wait("/about")
        assert ask()["nearest"] == before["nearest"]
        assert {photo: server.request(f"/{photo}") for photo in pictures} == pictures
        former = [server.request(f"/{photo['photo']}")[0] for photo in after["nearest"]]
        assert set(former) == {404}  # and not photos of other gems
    finally:
        server.stop()


def test_tab_that_is_older_than_the_model_shows_the_answers_of_both(
    browser: Any, setting: Setting, tmp_path: Path
) -> None:
    shutil.copytree(setting.root / "first", tmp_path / "models")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(setting.photo)
    server = page_server(tmp_path, setting)

    def replace(name: str) -> None:
        replace_folder(tmp_path / "models", setting.root / name, lambda: None)
        deadline = time.monotonic() + TIMEOUT_S
        while json.loads(server.request("/predict", setting.photo)[1])["mineral_class"] != name:
            assert time.monotonic() < deadline

    page = browser.new_page(locale="en")
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))

    def check_shown(photo: str, model: str) -> None:
        """Wait until a photo's answer by a model is shown and explained, with the model's training photos."""
        page.wait_for_selector(f"#name:has-text('{photo}')")
        page.wait_for_selector(f"#details:has-text('Mineral class of {setting.answers[model]['gem']}: {model}.')")
        page.wait_for_selector("#explanation:visible", timeout=1000 * TIMEOUT_S)
        assert page.inner_text("#status") == ""
        pictures = page.locator("#top > li:has(img), #nearest li:has(img)")
        assert pictures.count() == 2 * len(MODELS[model][1])
        page.evaluate("Promise.all([...document.querySelectorAll('#result img[src]')].map((image) => image.decode()))")

    def described() -> list[str]:
        return [item.split("\n")[0] for item in page.locator("#gems li").all_inner_texts()]

    try:
        server.wait("/about")
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.set_input_files("#file", tmp_path / "a.jpg")
        check_shown("a.jpg", "first")
        replace("second")
        page.set_input_files("#file", tmp_path / "b.jpg")
        check_shown("b.jpg", "second")
        page.click("#gems summary")
        assert described() == MODELS["second"][1]
        rows = page.locator("#list .thumbnail")
        rows.nth(0).click()
        check_shown("a.jpg", "first")
        page.click("#join")  # sends both again, as their answers are of two models
        page.wait_for_selector("#name:has-text('One stone: a.jpg + b.jpg')")
        replace("third")
        for _ in range(256):  # the server forgets the others
            server.request("/predict", setting.photo)
        rows.nth(1).click()
        check_shown("b.jpg", "third")
        assert described() == MODELS["third"][1]
        rows.nth(0).click()
        check_shown("a.jpg", "third")
    finally:
        page.close()
        server.stop()
    assert problems == []


def test_each_answer_of_the_scoring_server_is_by_one_model_while_models_are_replaced(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{(tmp_path / 'mlflow.db').as_posix()}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    photo = base64.b64encode(setting.photo).decode()
    shutil.copytree(setting.root / "first", tmp_path / "models")
    with runs.model_run("abc"):
        example, tags = pd.DataFrame({"photo": [photo]}), {runs.MODEL_TAG: "abc"}
        version = registration.register("gemstones", Path("models"), example, tags)
        mlflow.MlflowClient().set_registered_model_alias("gemstones", "champion", version)
    server = Server(tmp_path, "serve", MLFLOW_TRACKING_URI=uri)
    body = json.dumps({"dataframe_records": [{"photo": photo}]}).encode()

    def predict() -> Answer:
        status, answer = server.request("/invocations", body, "application/json")
        assert status == 200, answer
        [row] = json.loads(answer)["predictions"]
        assert not row.pop("unknown")
        return dict(row)

    try:
        server.wait("/ping")
        check_replacements(locate.champion_path("gemstones"), setting, predict)
    finally:
        log = server.stop()
    assert "models: another model, in use from now on" in log
    assert "Traceback" not in log
