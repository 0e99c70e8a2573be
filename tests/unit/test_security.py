"""What docs/security.md promises of files from outside, and that each test it names exists."""

import ast
import json
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from gemmodel.core import hashing
from gemmodel.core.errors import ModelError
from gemmodel.models import metadata, saving
from gemmodel.models.conformal import ReferenceSet, Thresholds
from tests.conftest import ROOT

# What loads pickles, and so runs code: each reads only what the project's own processes have written.
PICKLES = {
    "gemmodel/train/checkpoint.py",  # .train-backup, in the project
    "gemmodel/train/ridge/nystroem.py",  # a folder of one training, for its workers
    "gemmodel/embed/backbones/lite.py",  # weights of an installed package, by an unpickler that knows no function
}


def sources() -> dict[str, str]:
    folders = ("gemmodel", "scraper", "stages", "sample_site")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_each_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8"))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 30
    assert [name for name in named if f"def {name}(" not in tests] == []


def test_pickles_are_loaded_only_where_the_project_wrote_them() -> None:
    pickles, others = set(), []
    for name, text in sources().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                if call in ("pickle.load", "pickle.loads") or call.endswith("Unpickler"):
                    pickles.add(name)
                if call in (
                    "joblib.load",
                    "torch.load",
                    "yaml.load",
                    "pd.read_pickle",
                    "eval",
                    "exec",
                    "marshal.loads",
                ):
                    others.append((name, call))
                if call.endswith(("enable_unsafe_deserialization", "shelve.open")):
                    others.append((name, call))
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if call == "keras.saving.load_model" and options.get("safe_mode") != "True":
                    others.append((name, call))
                if options.get("allow_pickle", "False") != "False" or options.get("shell", "False") != "False":
                    others.append((name, call))
            elif isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases):
                pickles.add(name)
    assert (pickles, others) == (PICKLES, [])


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A model folder whose network has a layer of Python code."""
    inputs = keras.Input((8, 8, 3))
    hidden = keras.layers.Flatten()(keras.layers.Lambda(lambda pixels: pixels / 255)(inputs))
    network = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
    saving.save(network, ["a", "b"], tmp_path / "models")
    reference = ReferenceSet(np.eye(2, 4, dtype=np.float32), np.arange(2, dtype=np.int32), np.array(["a", "b"]))
    described = metadata.ModelMetadata(["a", "b"], {"a": "A", "b": "B"}, Thresholds(0.9, 0.3, 1, 2.0), reference)
    metadata.write(described, tmp_path / "models")
    hashing.write_hashes(tmp_path / "models")
    return tmp_path / "models"


def test_model_with_code_in_it_is_refused(model_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"its model is damaged or of another version: .*[Ll]ambda"):
        saving.load(model_folder)


def test_model_that_names_a_function_of_another_package_is_refused(model_folder: Path, tmp_path: Path) -> None:
    archive = model_folder / "model.keras"
    with zipfile.ZipFile(archive) as whole:
        contents = {name: whole.read(name) for name in whole.namelist()}
    config = json.loads(contents["config.json"])
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "Lambda":
            layer |= {
                "module": "subprocess",
                "class_name": "Popen",
                "config": {"args": ["touch", str(tmp_path / "ran")]},
            }
    contents["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(archive, "w") as changed:
        for name, content in contents.items():
            changed.writestr(name, content)
    hashing.write_hashes(model_folder)  # as an attacker does
    with pytest.raises(ModelError, match="its model is damaged or of another version"):
        saving.load(model_folder)
    assert not (tmp_path / "ran").exists()


class RunsCode:
    """A pickle of it writes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_pickle_in_a_model_folder_is_not_loaded(model_folder: Path, tmp_path: Path) -> None:
    assert metadata.read(model_folder).classes == ["a", "b"]
    bad = np.array([RunsCode(tmp_path / "ran")], dtype=object)
    np.savez(model_folder / "reference.npz", embedding=bad, labels=bad, files=bad)
    hashing.write_hashes(model_folder)
    with pytest.raises(ModelError, match="the model's metadata is damaged"):
        metadata.read(model_folder)
    assert not (tmp_path / "ran").exists()
