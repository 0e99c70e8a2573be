"""The registered model: in a process of its own, behind MLflow's server, and where the registry says it lies."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gemmodel.core.errors import DataError
from gemmodel.images import decode
from gemmodel.models import saving
from gemmodel.models.conformal import ReferenceSet, Thresholds
from gemmodel.models.metadata import ModelMetadata
from gemmodel.register import locate, registration, versions
from gemmodel.serve.predictor import Predictor
from gemmodel.tracking import runs

SIDE, CLASSES = 32, ["Agate", "Ruby", "Topaz"]
SECONDS = 240  # for a server to start on a machine that is busy


def jpeg(seed: int, draw: Any) -> bytes:
    file = io.BytesIO()
    draw(seed).save(file, **decode.JPEG)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 100 megapixels in some 100 kB."""
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a tiny model, and a registry whose champion it is."""
    root = tmp_path_factory.mktemp("served")
    keras.utils.set_random_seed(1)
    tiny = [keras.layers.Rescaling(1 / 255), keras.layers.AveragePooling2D(8), keras.layers.Flatten()]
    network = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *tiny, keras.layers.Dense(3, activation="softmax")])
    reference = ReferenceSet(np.eye(3, 48, dtype=np.float32), np.arange(3, dtype=np.int32), np.array(CLASSES))
    known = ModelMetadata(CLASSES, dict.fromkeys(CLASSES, "Stone"), Thresholds(0.9, 0.3, 1, 2.0), reference)
    saving.save(network, CLASSES, root / "models", knowledge=known)
    return root


@pytest.fixture(scope="module")
def registered(folder: Path, draw: Any) -> Iterator[str]:
    """The registry's URI."""
    uri = f"sqlite:///{(folder / 'mlflow.db').as_posix()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        example = pd.DataFrame({"photo": [base64.b64encode(jpeg(1, draw)).decode()]})
        with runs.model_run("abc"):
            version = registration.register("gemstones", folder / "models", example, "abc")
            mlflow.MlflowClient().set_registered_model_alias("gemstones", "champion", version)
        yield uri


@pytest.fixture
def model(registered: str) -> mlflow.pyfunc.PyFuncModel:
    mlflow.set_tracking_uri(registered)
    return mlflow.pyfunc.load_model("models:/gemstones@champion")


def test_bytes_base64_and_a_local_file_are_answered_alike(
    model: mlflow.pyfunc.PyFuncModel, folder: Path, tmp_path: Path, draw: Any
) -> None:
    photo = jpeg(3, draw)
    (tmp_path / "photo.jpg").write_bytes(photo)
    frame = pd.DataFrame({"photo": [photo, base64.b64encode(photo).decode(), tmp_path / "photo.jpg"]}, dtype=object)
    told = model.predict(frame, params={"top_k": 2})
    assert told.columns.tolist() == registration.SIGNATURE.outputs.input_names()
    assert len(told.drop(columns=["top", "top_probabilities", "prediction_set"]).drop_duplicates()) == 1
    network, _ = saving.load(folder / "models")
    expected = np.asarray(network(decode.load(io.BytesIO(photo), SIDE)[None].astype(np.float32)))[0]
    assert told["gem"][0] == CLASSES[expected.argmax()]
    assert told["mineral_class"][0] == "Stone"
    np.testing.assert_allclose(told["top_probabilities"][2], np.sort(expected)[::-1][:2], atol=1e-4)
    assert told["top"][1] == [CLASSES[index] for index in np.argsort(-expected)[:2]]
    assert set(told["prediction_set"][0]) == {name for name, p in zip(CLASSES, expected, strict=True) if p >= 0.3}
    assert not told["unknown"][0]


@pytest.mark.parametrize(
    ("photo", "told"),
    [
        ("no base64!", "not base64"),
        (base64.b64encode(b"<html>").decode(), "not an image"),
        ("https://example.org/ruby.jpg", "a URL is not fetched"),
        ("/etc/hostname.jpg", "not base64"),
        (b"\xff\xd8\xff" * 100, "not an image"),
        (b"0" * 60_000_000, "60 MB are more than the 50 MB"),
        (None, "is no photo"),
    ],
    ids=["text", "page", "URL", "path as text", "damaged", "huge", "none"],
)
def test_what_is_no_photo_is_named(model: mlflow.pyfunc.PyFuncModel, draw: Any, photo: Any, told: str) -> None:
    with pytest.raises(mlflow.MlflowException, match=rf"photo 1: .*{told}") as caught:
        model.predict(pd.DataFrame({"photo": [jpeg(1, draw), photo]}, dtype=object))
    assert caught.value.get_http_status_code() == 400


def test_a_bomb_is_refused(model: mlflow.pyfunc.PyFuncModel) -> None:
    with pytest.raises(mlflow.MlflowException, match="photo 0: more pixels than"):
        model.predict(pd.DataFrame({"photo": [bomb()]}))


def test_the_model_is_complete_and_pins_no_tensorflow(registered: str, folder: Path) -> None:
    place = Path(mlflow.artifacts.download_artifacts("models:/gemstones@champion"))
    wanted = (place / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in wanted)
    names = {line.partition("==")[0] for line in wanted}
    assert {"mlflow", "ai-edge-litert", "numpy", "pillow"} <= names
    assert not names & {"tensorflow", "keras", "scikit-learn"}
    assert (place / "MLmodel").is_file()
    again, classes = saving.load(locate.champion_path("gemstones"))  # for those who go on training
    assert classes == CLASSES
    assert again.output_shape == (None, 3)
    assert "input_example.json" in {path.name for path in place.iterdir()}


def test_it_answers_with_its_own_requirements_alone(registered: str, tmp_path: Path, draw: Any) -> None:
    place = Path(mlflow.artifacts.download_artifacts("models:/gemstones@champion"))
    subprocess.run(["uv", "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted = ["-r", str(place / "requirements.txt")]
    subprocess.run(["uv", "pip", "install", "-q", "--python", python, *wanted], check=True)
    (tmp_path / "photo.jpg").write_bytes(jpeg(1, draw))
    code = f"""
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model({str(place)!r})
print(model.predict(pandas.DataFrame({{"photo": [open("photo.jpg", "rb").read()]}}))["gem"][0])
assert "tensorflow" not in sys.modules
"""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run([python, "-c", code], cwd=tmp_path, env=kept, check=True, capture_output=True, text=True)
    assert ended.stdout.strip() in CLASSES


def test_the_champion_is_found_without_mlflow(registered: str, folder: Path, run: Any, draw: Any) -> None:
    (folder / "photo.jpg").write_bytes(jpeg(5, draw))
    code = """
import sys
from gemmodel.delivery import champion, prediction
from pathlib import Path
print(next(predictor.Predictor(locate.champion_path("gemstones")).predict([Path("photo.jpg")])).gem)
assert not {"mlflow", "tensorflow", "pandas"} & set(sys.modules)
"""
    ended = run("-c", code, cwd=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    [answer] = Predictor(folder / "models").predict([folder / "photo.jpg"])
    assert not isinstance(answer, DataError)
    assert ended.stdout.split() == [answer.gem]


def test_a_title_given_or_taken_counts_at_once(registered: str) -> None:
    client = mlflow.MlflowClient()
    first = locate.champion_path("gemstones")
    version = mlflow.register_model(client.get_model_version("gemstones", "1").source, "other").version
    with pytest.raises(DataError, match="no champion of the name other"):
        locate.champion_path("other")
    client.set_registered_model_alias("other", "champion", version)
    assert locate.champion_path("other") == first
    client.delete_registered_model_alias("other", "champion")
    with pytest.raises(DataError, match="no champion of the name other"):
        locate.champion_path("other")


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """Start a command that serves, wait until it answers, and end it with all of its children."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], url: str, **options: Any) -> str:
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
        )
        started.append(process)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and process.poll() is None:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return url
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"{command}: ended or did not answer")

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def post(url: str, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_server_answers_requests_and_refuses_bad_ones(
    registered: str, folder: Path, served: Callable[..., str], draw: Any
) -> None:
    root = Path(__file__).parents[2]
    number = port()
    environment = os.environ | {"PYTHONPATH": str(root), "MLFLOW_TRACKING_URI": registered}
    command = [sys.executable, "-m", "gemmodel.cli", "serve", "--port", str(number)]
    served(command, f"http://127.0.0.1:{number}/ping", cwd=folder, env=environment)
    url = f"http://127.0.0.1:{number}/invocations"
    good = base64.b64encode(jpeg(1, draw)).decode()
    status, told = post(url, {"dataframe_records": [{"photo": good}] * 2, "params": {"top_k": 1}})
    assert status == 200
    assert [len(row["top"]) for row in told["predictions"]] == [1, 1]
    assert told["predictions"][0]["gem"] in CLASSES
    assert isinstance(told["predictions"][0]["unknown"], bool)
    bad: list[tuple[Any, str]] = [
        ({"dataframe_records": [{"photo": good}, {"photo": "no base64!"}]}, "photo 1: not base64"),
        ({"dataframe_records": [{"photo": base64.b64encode(b"GIF89a").decode()}]}, "photo 0: "),
        ({"dataframe_records": [{"photo": base64.b64encode(bomb()).decode()}]}, "photo 0: more pixels"),
        ({"dataframe_records": [{"photo": "/etc/passwd"}]}, "photo 0: not"),
        ({"dataframe_records": [{"photo": "http://127.0.0.1/x"}]}, "photo 0: a URL is not fetched"),
        ({"dataframe_records": [{"photo": good}], "params": {"top_k": 0}}, "top_k"),
        ({"dataframe_records": [{"picture": good}]}, "photo"),
        (b"{", ""),
    ]
    for body, expected in bad:
        status, told = post(url, body)
        assert status == 400, told
        assert expected in told["message"]
        assert "Traceback" not in json.dumps(told)
    assert post(url, {"dataframe_records": [{"photo": good}]})[0] == 200


def test_a_champion_at_a_server_is_fetched_once(
    registered: str, folder: Path, served: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = port()
    uri = f"http://127.0.0.1:{number}"
    options = ["--port", str(number), "--workers", "1", "--backend-store-uri", registered]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    served([sys.executable, "-m", "mlflow", "server", *options], f"{uri}/health", cwd=tmp_path, env=environment)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no champion of the name nobody"):
        locate.champion_path("nobody")
    found = locate.champion_path("gemstones")
    assert found.is_relative_to(tmp_path / "cache")
    assert (found / "model.tflite").read_bytes() == (folder / "models" / "model.tflite").read_bytes()
    monkeypatch.setattr(versions, "fetch", lambda source, folder: pytest.fail("fetched again"))
    assert locate.champion_path("gemstones") == found
