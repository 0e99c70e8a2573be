"""What of the environment counts: variables of other projects are ignored in words."""

import os
import platform
from pathlib import Path
from typing import Any

import pytest

from gemmodel.core import environment

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def test_variables_that_do_not_count_are_ignored_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.FIXED, *environment.IGNORED):
        monkeypatch.setenv(name, "x1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    lines = environment.apply_environment()
    assert [line.split("=x1 is ignored: ")[0] for line in lines] == [*environment.FIXED, *environment.IGNORED]
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://host"
    assert "MLFLOW_RUN_ID" not in os.environ


@pytest.mark.parametrize("value", [None, "", "tensorflow"])
def test_what_changes_nothing_is_not_mentioned(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    for name in (*environment.FIXED, *environment.IGNORED):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if value is not None:
        monkeypatch.setenv("KERAS_BACKEND", value)
    assert environment.apply_environment() == []
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("TF_ENABLE_ONEDNN_OPTS", None, environment.DEFAULTS.get("TF_ENABLE_ONEDNN_OPTS")),  # on x86
        ("TF_ENABLE_ONEDNN_OPTS", "0", "0"),
        ("MLFLOW_DISABLE_TELEMETRY", None, "true"),
        ("MLFLOW_DISABLE_TELEMETRY", "false", "false"),
    ],
)
def test_onednn_computes_and_mlflow_reports_nothing_unless_the_user_wants_it_otherwise(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, expected: str
) -> None:
    monkeypatch.setenv(name, value or "")
    if value is None:
        monkeypatch.delenv(name)
    environment.apply_environment()
    assert os.environ[name] == expected


def test_a_command_starts_no_telemetry_of_mlflow(run: Any, tmp_path: Path) -> None:
    code = """
import os
for name in ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST", "MLFLOW_DISABLE_TELEMETRY"):  # with which MLflow is silent
    os.environ.pop(name, None)
from gemmodel.core import environment
environment.apply_environment()
import mlflow
from mlflow.telemetry.client import get_telemetry_client
print(get_telemetry_client())
"""
    ended = run("-c", code, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "None\n"), ended.stderr


def test_keras_settings_of_other_projects_are_ignored_in_words(run: Any, tmp_path: Any) -> None:
    settings = '{"backend": "torch", "floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}'
    (tmp_path / "keras.json").write_text(settings)
    code = """
import stages
from gemmodel import devices
from gemmodel.core.params import BaseParams
import keras
devices.prepare(BaseParams(1, 32, False, 1))
config = keras.config
print(config.backend(), config.floatx(), config.epsilon(), config.image_data_format())
"""
    ended = run("-c", code, cwd=tmp_path, KERAS_HOME=str(tmp_path), KERAS_BACKEND="jax", CUDA_VISIBLE_DEVICES="-1")
    assert (ended.returncode, ended.stdout) == (0, "tensorflow float32 1e-07 channels_last\n"), ended.stderr
    named = [line.split("keras.json: ")[1].split(" is ignored")[0] for line in ended.stderr.splitlines()]
    assert named == ["backend torch", "floatx float16", "epsilon 0.1", "image_data_format channels_first"]
    (tmp_path / "keras.json").write_text('{"floatx": "bfloat16"}')
    ended = run("-c", code, cwd=tmp_path, KERAS_HOME=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith("Keras cannot be imported: Invalid `floatx`"), ended.stderr
    assert ended.stderr.endswith(f"correct or remove {tmp_path / 'keras.json'}\n")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
@pytest.mark.skipif(
    HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(), reason="huge pages: few faults to count"
)
def test_a_stage_reuses_the_memory_of_arrays(run: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.MALLOC:
        monkeypatch.delenv(name, raising=False)
    code = """
{first}
import resource
import numpy as np
for _ in range(100):
    np.ones(2**18) * np.ones(2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
    alone, stage = (int(run("-c", code.format(first=x), cwd=tmp_path).stdout) for x in ("", "import stages"))
    assert stage < alone / 2
