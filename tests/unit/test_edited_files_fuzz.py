"""Mutated files that people edit: each is read, or refused in one line that names the file."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemmodel.clean import corrections
from gemmodel.core.errors import DataError, ParameterError
from gemmodel.split import hierarchy, test_list
from gemmodel.tune import spaces
from tests.conftest import ROOT
from tests.unit.test_params_fuzz import mutated

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
PHOTOS = [(f"{i:064x}", f"Ruby/ruby_{i}.jpg") for i in range(40)]
ROWS = [f"{name if i % 2 else sha256},{'Spinel' if i % 3 else 'drop'}" for i, (sha256, name) in enumerate(PHOTOS)]


def read_corrections(path: Path) -> Any:
    return corrections.match(corrections.read(path), PHOTOS, {"Ruby", "Spinel"})


def read_space(path: Path) -> Any:
    return spaces.read(path, PARAMS).grid()


SPACE = re.sub(r"(?m)^(#|model.cnn.dropout).*\n", "", (ROOT / "tune" / "recipe_4.yaml").read_text(encoding="utf-8"))
SPACE += "model.cnn.dropout: {low: 0.1, high: 0.5, step: 0.1}\n"
FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "space.yaml": (read_space, SPACE),
    "corrections.csv": (read_corrections, "\n".join(["photo,gem", *ROWS]) + "\n"),
    "hierarchy.yaml": (
        hierarchy.read_hierarchy,
        "\n".join((ROOT / "photos" / "hierarchy.yaml").read_text(encoding="utf-8").splitlines()[:60]),
    ),
    "test_list.txt": (test_list.read, test_list.HEADER + "".join(f"{sha256}\t{name}\n" for sha256, name in PHOTOS)),
}
SETTINGS = {"corrections.csv": "clean.corrections", "space.yaml": "a grid"}  # what a message names in place of the file


def refusal(path: Path) -> str:
    """Return what is said of a file; nothing for one that is read."""
    try:
        FILES[path.name][0](path)
        line = ""
    except (DataError, ParameterError) as error:
        line = str(error).replace(str(path), path.name)
        assert path.name in line or SETTINGS.get(path.name, path.name) in line, line
    assert len(line) <= 300 and len(line.splitlines()) <= 1 and line.isprintable(), line
    return line


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path, text, rng = tmp_path / name, FILES[name][1], random.Random(0)
    path.write_text(text, encoding="utf-8")
    assert refusal(path) == ""
    refused = 0
    for _ in range(300):
        path.write_text(mutated(rng, text), encoding="utf-8")
        refused += bool(refusal(path))
    assert 30 < refused < 300


MANY = ", ".join(map(str, range(1, 999)))
LONG: dict[str, tuple[str, ...]] = {
    "space.yaml": (
        *(f"train.epochs: {value}\n" for value in ("2001-99-99", "9" * 5000, "[" * 3000, "0b_", "[.inf, 1]")),
        f"train.epochs: [{MANY}, 999, 1000, 1001]\n",
        f"train.epochs: [{MANY}]\ntrain.patience: [2, 3]\n",
        "train.epochs: [&a [*a], 1]\n",
        "train.epochs: [2001-01-01, {a: 1}]\n",
        f"model.cnn.{'x' * 2000}: [1, 2]\n",
        "? [train.epochs]\n: [1, 2]\n",
        f"train.learning_rate: {{low: {'9' * 400}, high: 1e999, step: 1}}\n",
        "train.learning_rate: {low: 1.0e-9, high: 0.1, step: 1.0e-9}\n",
    ),
    "corrections.csv": (
        f"photo,gem\n{'x' * 200_000},Ruby\n",
        "x" * 5000 + "\n",
        f"photo,gem\nRuby/ruby_1.jpg,{'y' * 5000}\n",
        f"photo,gem\n{'z' * 5000},\n",
    ),
    "hierarchy.yaml": (
        "[" * 3000,
        f"{'x' * 3000}: A\n{'x' * 3000}: B\n",
        f"Ruby: [{'a: ' * 3000}\n",
        "\x07: A\n",
    ),
    "test_list.txt": ("x" * 5000 + "\n",),
}


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name, texts in LONG.items() for text in texts],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_long_or_nested_is_refused_in_short(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert refusal(path)
