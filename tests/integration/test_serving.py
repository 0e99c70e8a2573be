"""The registered model: in another environment, behind MLflow's scoring server, and as the registry locates it."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gemmodel.core.errors import DataError
from gemmodel.images import decode
from gemmodel.models import saving
from gemmodel.register import locate, registration
from gemmodel.serve.predictions import Prediction
from gemmodel.serve.predictor import Predictor
from gemmodel.tracking import runs
from tests.conftest import LITERT_ATOL, user_environment
from tests.integration.conftest import CLASSES, SIDE

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 240  # of a server, on a busy machine


def jpeg(seed: int, draw: Any) -> bytes:
    file = io.BytesIO()
    draw(seed).save(file, **decode.JPEG)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 100 megapixels in about 100 kB."""
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a tiny model in `models`."""
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(tiny_model, root / "models")
    return root


@pytest.fixture(scope="module")
def registered(folder: Path, draw: Any, empty_store: Path) -> Iterator[str]:
    """The URI of a registry in the same folder, whose champion is that model."""
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{(folder / 'mlflow.db').as_posix()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        example = pd.DataFrame({"photo": [base64.b64encode(jpeg(1, draw)).decode()]})
        with runs.model_run("abc"):
            version = registration.register("gemstones", folder / "models", example, {runs.MODEL_TAG: "abc"})
            mlflow.MlflowClient().set_registered_model_alias("gemstones", "champion", version)
        yield uri


@pytest.fixture
def model(registered: str) -> mlflow.pyfunc.PyFuncModel:
    mlflow.set_tracking_uri(registered)
    return mlflow.pyfunc.load_model("models:/gemstones@champion")


def test_bytes_base64_and_a_local_file_give_the_same_prediction(
    model: mlflow.pyfunc.PyFuncModel, folder: Path, tmp_path: Path, draw: Any
) -> None:
    photo = jpeg(3, draw)
    (tmp_path / "photo.jpg").write_bytes(photo)
    frame = pd.DataFrame({"photo": [photo, base64.b64encode(photo).decode(), tmp_path / "photo.jpg"]}, dtype=object)
    table = model.predict(frame, params={"top_k": 2})
    relabelled = model.predict(frame.set_axis([7, 3, 5]), params={"top_k": 2})
    assert (relabelled.index.tolist(), relabelled.to_dict("records")) == ([7, 3, 5], table.to_dict("records"))
    assert table.columns.tolist() == registration.SIGNATURE.outputs.input_names()
    assert all(row == table.to_dict("records")[0] for row in table.to_dict("records"))
    network, _ = saving.load(folder / "models")
    probs = np.asarray(network(decode.load(io.BytesIO(photo), SIDE)[None].astype(np.float32)))[0]
    assert table["gem"][0] == CLASSES[probs.argmax()]
    assert table["mineral_class"][0] == "Stone"
    np.testing.assert_allclose(table["top_probabilities"][2], np.sort(probs)[::-1][:2], atol=LITERT_ATOL)
    assert table["top"][1] == [CLASSES[i] for i in np.argsort(-probs)[:2]]
    assert set(table["prediction_set"][0]) == {name for name, prob in zip(CLASSES, probs, strict=True) if prob >= 0.3}
    assert not table["unknown"][0]


@pytest.mark.parametrize(
    ("photo", "expected"),
    [
        ("no base64!", "not base64"),
        (base64.b64encode(b"<html>").decode(), "not an image"),
        ("https://example.org/ruby.jpg", "a URL is not fetched"),
        ("/etc/hostname.jpg", "not base64"),
        (b"\xff\xd8\xff" * 100, "not an image"),
        (b"0" * 60_000_000, "60 MB are more than the maximum, 50 MB"),
        (None, "is not a photo"),
    ],
    ids=["text", "page", "URL", "path as text", "damaged", "huge", "none"],
)
def test_unusable_photo_is_named(model: mlflow.pyfunc.PyFuncModel, draw: Any, photo: Any, expected: str) -> None:
    with pytest.raises(mlflow.MlflowException, match=rf"photo 1: .*{expected}") as caught:
        model.predict(pd.DataFrame({"photo": [jpeg(1, draw), photo]}, dtype=object))
    assert caught.value.get_http_status_code() == 400


def test_decompression_bomb_is_refused(model: mlflow.pyfunc.PyFuncModel) -> None:
    with pytest.raises(mlflow.MlflowException, match="photo 0: more pixels than"):
        model.predict(pd.DataFrame({"photo": [bomb()]}))


def test_registered_model_is_complete_and_needs_no_tensorflow(registered: str, folder: Path) -> None:
    download = Path(mlflow.artifacts.download_artifacts("models:/gemstones@champion"))
    requirements = (download / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in requirements)
    packages = {line.partition("==")[0] for line in requirements}
    assert {"mlflow", "ai-edge-litert", "numpy", "pillow"} <= packages
    assert not packages & {"tensorflow", "keras", "scikit-learn"}
    assert {"MLmodel", "input_example.json"} <= {path.name for path in download.iterdir()}
    network, classes = saving.load(locate.champion_path("gemstones"))  # to train it further
    assert classes == CLASSES
    assert network.output_shape == (None, 3)


def environment_of(folder: Path, *requirements: str | Path) -> Path:
    """Make a virtual environment with some requirements only, as locked; returns the folder of its programs."""
    pytest.importorskip("uv")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, folder], check=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True)
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or pip.stdout.decode().strip()
    locked = ["--constraint", ROOT / "requirements.lock", "--build-constraint", ROOT / "requirements.lock"]
    ended = subprocess.run(
        [*uv, "pip", "install", "-q", "--python", programs / "python", *locked, *requirements],
        env=os.environ | {"UV_DEFAULT_INDEX": index}, capture_output=True, text=True,
    )  # fmt: skip
    if "Failed to fetch" in ended.stderr or "network was disabled" in ended.stderr:
        pytest.skip(f"uv could not fetch the requirements: {ended.stderr}")
    assert ended.returncode == 0, ended.stderr
    return programs


def test_registered_model_predicts_with_its_own_requirements_only(registered: str, tmp_path: Path, draw: Any) -> None:
    download = Path(mlflow.artifacts.download_artifacts("models:/gemstones@champion"))
    python = environment_of(tmp_path / "venv", "-r", download / "requirements.txt") / "python"
    (tmp_path / "photo.jpg").write_bytes(jpeg(1, draw))
    code = f"""
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model({str(download)!r})
print(model.predict(pandas.DataFrame({{"photo": [open("photo.jpg", "rb").read()]}}))["gem"][0])
assert "tensorflow" not in sys.modules
"""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=variables, check=True, capture_output=True, text=True
    )
    assert ended.stdout.strip() in CLASSES


def test_champion_is_located_without_mlflow(registered: str, folder: Path, run: Any, draw: Any) -> None:
    (folder / "photo.jpg").write_bytes(jpeg(5, draw))
    code = """
import sys
from gemmodel.register import locate
from gemmodel.serve import predictor
from pathlib import Path
print(next(predictor.Predictor(locate.champion_path("gemstones")).predict([Path("photo.jpg")])).gem)
assert not {"mlflow", "tensorflow", "pandas"} & set(sys.modules)
"""
    ended = run("-c", code, cwd=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    [prediction] = Predictor(folder / "models").predict([folder / "photo.jpg"])
    assert isinstance(prediction, Prediction)
    assert ended.stdout.split() == [prediction.gem]


def test_changed_champion_alias_counts_at_once(registered: str) -> None:
    client = mlflow.MlflowClient()
    first = locate.champion_path("gemstones")
    version = mlflow.register_model(client.get_model_version("gemstones", "1").source, "other").version
    with pytest.raises(DataError, match="other has no champion"):
        locate.champion_path("other")
    client.set_registered_model_alias("other", "champion", version)
    assert locate.champion_path("other") == first
    client.delete_registered_model_alias("other", "champion")
    with pytest.raises(DataError, match="other has no champion"):
        locate.champion_path("other")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def start_server() -> Iterator[Callable[..., None]]:
    """Run a server's command until the last test of this file ends; return once it responds at a URL."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], url: str, **options: Any) -> None:
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
        )
        processes.append(process)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"{command}: ended or does not respond")

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def mlflow_server(
    registered: str, start_server: Callable[..., None], forked_python: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The address of an MLflow server of the registry."""
    port, variables = free_port(), os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "no_proxy": "*"}
    options = ["--port", str(port), "--workers", "1", "--backend-store-uri", registered]
    command, folder = [forked_python, "-m", "mlflow", "server", *options], tmp_path_factory.mktemp("server")
    start_server(command, f"http://127.0.0.1:{port}/health", cwd=folder, env=variables)
    return f"http://127.0.0.1:{port}"


def post(url: str, body: Any, headers: Mapping[str, str] = MappingProxyType({})) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_scoring_server_predicts_and_refuses_bad_requests(
    registered: str, folder: Path, start_server: Callable[..., None], forked_python: str, draw: Any
) -> None:
    port = free_port()
    variables = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": registered}
    command = [forked_python, "-m", "gemmodel.cli", "serve", "--port", str(port)]
    start_server(command, f"http://127.0.0.1:{port}/ping", cwd=folder, env=variables)
    url = f"http://127.0.0.1:{port}/invocations"
    good = base64.b64encode(jpeg(1, draw)).decode()
    status, body = post(url, {"dataframe_records": [{"photo": good}] * 2, "params": {"top_k": 1}})
    assert status == 200
    assert [len(row["top"]) for row in body["predictions"]] == [1, 1]
    assert body["predictions"][0]["gem"] in CLASSES
    assert isinstance(body["predictions"][0]["unknown"], bool)
    bad: list[tuple[Any, int, str]] = [
        ({"dataframe_records": [{"photo": good}, {"photo": "no base64!"}]}, 400, "photo 1: not base64"),
        ({"dataframe_records": [{"photo": base64.b64encode(b"GIF89a").decode()}]}, 400, "photo 0: "),
        ({"dataframe_records": [{"photo": base64.b64encode(bomb()).decode()}]}, 400, "photo 0: more pixels"),
        ({"dataframe_records": [{"photo": "/etc/passwd"}]}, 400, "photo 0: not"),
        ({"dataframe_records": [{"photo": "http://127.0.0.1/x"}]}, 400, "photo 0: a URL is not fetched"),
        ({"dataframe_records": [{"photo": good}], "params": {"top_k": 0}}, 400, "top_k"),
        ({"dataframe_records": [{"picture": good}]}, 400, "photo"),
        (b"{", 400, ""),
        (b"[" * 1500, 400, "cannot be read"),
        (b'{"inputs": ' + b"1" * 5000 + b"}", 400, "cannot be read"),
        ({"dataframe_records": [{"photo": "x"}], "params": {"top_k": None}}, 400, "photo 0: not base64"),
        (b"[" * 100_000, 413, "more than 2100 values"),
        (json.dumps({"dataframe_records": [{str(i): i} for i in range(5000)]}).encode(), 413, "values"),
    ]
    for request, expected, message in bad:
        status, body = post(url, request)
        assert (status, message in body["message"]) == (expected, True), body
        assert "Traceback" not in json.dumps(body)
    for kind in ("text/csv", "application/vnd.apache.parquet"):
        assert post(url, b"PAR1", {"Content-Type": kind})[0] == 415
    many = {"dataframe_records": [{"photo": good}] * 1000, "params": {"top_k": 1}}
    status, body = post(url, many)
    assert (status, len(body["predictions"])) == (200, 1000)
    assert post(url, b"{}", {"Origin": "http://elsewhere.example"})[0] == 403
    assert post(url, b"{}", {"Host": "rebound.example"})[0] == 403
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:  # refused by its header alone
        client.sendall(f"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode())
        client.sendall(b"Content-Type: application/json\r\nContent-Length: 200000000\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert post(url, {"dataframe_records": [{"photo": good}]})[0] == 200


def test_a_damaged_version_is_not_served(registered: str, folder: Path, forked: Any, refused: Any) -> None:
    path = locate.champion_path("gemstones") / "input.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(forked("-m", "gemmodel.cli", "serve", cwd=folder), "gemmodel", f"{path}: damaged", "`gemmodel register`")
    path.write_bytes(whole)


def test_code_that_a_registered_model_brings_runs_by_mlflow_and_not_by_serve(
    registered: str, folder: Path, start_server: Callable[..., None], tmp_path: Path
) -> None:
    champion = tmp_path / "champion"
    shutil.copytree(locate.mlflow_model("gemstones"), champion)
    ran = tmp_path / "ran"
    for file in champion.rglob("*.py"):
        file.write_text(f"open({str(ran)!r}, 'w')\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
    client = mlflow.MlflowClient()
    for tables in champion.glob("*.csv"):
        tables.unlink()
    version = mlflow.register_model(champion.as_uri(), "changed").version
    client.set_registered_model_alias("changed", "champion", version)
    (folder / "changed").mkdir()
    values = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("name: gemstones", "name: changed")
    (folder / "changed" / "params.yaml").write_text(values, encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "gemmodel.cli", "serve", "--port", str(port)]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": registered}
    start_server(command, f"http://127.0.0.1:{port}/ping", cwd=folder / "changed", env=variables)
    assert not ran.exists()
    code = "import mlflow; mlflow.pyfunc.load_model('models:/changed@champion')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=variables, check=True, capture_output=True)
    assert ran.exists()


def test_champion_of_a_server_is_downloaded_once(
    mlflow_server: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="nobody has no champion"):
        locate.champion_path("nobody")
    path = locate.champion_path("gemstones")
    assert path.is_relative_to(tmp_path / "cache")
    assert (path / "model.tflite").read_bytes() == (folder / "models" / "model.tflite").read_bytes()
    (path / "model.tflite").write_bytes(b"damaged")
    assert locate.champion_path("gemstones") == path
    assert (path / "model.tflite").read_bytes() == (folder / "models" / "model.tflite").read_bytes()
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda **_: pytest.fail("downloaded again"))
    assert locate.champion_path("gemstones") == path


def test_predictions_at_once_download_the_champion_of_a_server_together(
    mlflow_server: str, tmp_path: Path, forked_python: str, draw: Any
) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg(1, draw))
    own = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "MLFLOW_EXPERIMENT_NAME": "another"}
    variables = user_environment(MLFLOW_TRACKING_URI=mlflow_server, **own)
    command = [forked_python, "-m", "gemmodel.cli", "predict", "photo.jpg"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, cwd=tmp_path, env=variables, **pipes) for _ in range(4)]
    outputs = [(*process.communicate(), process.returncode) for process in started]
    assert {(errors, status) for _, errors, status in outputs} == {("", 0)}
    assert len({printed for printed, _, _ in outputs}) == 1
    experiments = mlflow.MlflowClient(mlflow_server).search_experiments()
    assert "another" not in {experiment.name for experiment in experiments}


def test_an_install_without_extras_predicts_and_serves_in_400_mb(
    mlflow_server: str, folder: Path, start_server: Callable[..., None], tmp_path: Path, draw: Any
) -> None:
    copy = tmp_path / "source"  # since setuptools writes into the folder that it builds
    shutil.copytree(ROOT / "gemmodel", copy / "gemmodel", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    programs = environment_of(tmp_path / "venv", copy)
    size = sum(path.lstat().st_size for path in (tmp_path / "venv").rglob("*"))
    assert size < 400e6
    installed = {path.name for path in next((tmp_path / "venv").rglob("site-packages")).iterdir()}
    assert not installed & {"tensorflow", "keras", "dvc", "scrapy", "sklearn", "scipy", "matplotlib", "cv2"}
    assert "mlflow" in installed and not any(name.startswith("mlflow-3") for name in installed)  # mlflow-skinny alone

    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"no_proxy": "*"}
    work = tmp_path / "work"
    work.mkdir()
    (work / "photo.jpg").write_bytes(jpeg(1, draw))
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "MLFLOW_TRACKING_URI": mlflow_server}

    def command(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = outside | cache | variables
        return subprocess.run(
            [programs / "gemmodel", *arguments], cwd=work, env=environment, capture_output=True, text=True
        )

    local, remote = command("predict", "photo.jpg", "--model", folder / "models"), command("predict", "photo.jpg")
    assert (local.returncode, local.stderr) == (remote.returncode, remote.stderr) == (0, "")
    assert local.stdout == remote.stdout and local.stdout.startswith("photo.jpg: ")
    explained = command("predict", "photo.jpg", "--model", folder / "models", "--explain", "why.png")
    assert (explained.returncode, explained.stderr) == (0, "")
    with Image.open(work / "why.png") as picture:
        assert picture.size == (896, 448)
    nothing_there = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    unreachable = command("predict", "photo.jpg", **nothing_there)
    assert (unreachable.returncode, unreachable.stdout) == (1, "")
    assert unreachable.stderr.startswith("gemmodel: http://127.0.0.1:9: ") and "127.0.0.1" in unreachable.stderr
    missing = command("devices")
    assert missing.returncode == 1
    assert missing.stderr.splitlines() == [
        "gemmodel: keras is not installed; `pip install 'gemmodel[pipeline]'` brings what predicting with most models "
        "does not need"
    ]
    photo, port = base64.b64encode(jpeg(1, draw)).decode(), free_port()
    start_server(
        [programs / "gemmodel", "serve", "--port", str(port)], f"http://127.0.0.1:{port}/ping",
        cwd=work, env=outside | cache,
    )  # fmt: skip
    status, body = post(f"http://127.0.0.1:{port}/invocations", {"dataframe_records": [{"photo": photo}]})
    assert (status, body["predictions"][0]["gem"] in CLASSES) == (200, True)
    port = free_port()
    start_server(
        [programs / "gemmodel", "app", "--port", str(port)], f"http://127.0.0.1:{port}/about",
        cwd=work, env=outside | cache,
    )  # fmt: skip
