"""The space of a search: its file, the points of a grid, and the change of params.yaml."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from gemmodel.core import params
from gemmodel.core.errors import ParameterError
from gemmodel.tune import spaces

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")
CNN = {"model.name": "cnn"}


@pytest.fixture
def space(tmp_path: Path) -> Callable[[dict[str, Any]], spaces.Space]:
    """Read a space from a file, against the shipped parameters."""

    def read(content: dict[str, Any]) -> spaces.Space:
        (tmp_path / "space.yaml").write_text(yaml.safe_dump(content))
        return spaces.read(tmp_path / "space.yaml", yaml.safe_load(SHIPPED))

    return read


def test_a_grid_has_each_combination_once(space: Any) -> None:
    grid = space(CNN | {"model.cnn.kernel": [3, 5, 3], "model.cnn.filters": [[32, 32], [64, 64]], "train.epochs": 2})
    assert grid.fixed == {"model.name": "cnn", "train.epochs": 2}
    assert grid.is_grid
    suggested = [grid.suggest(optuna.trial.FixedTrial(point)) for point in grid.grid()]
    assert len(suggested) == 4
    for filters in ([32, 32], [64, 64]):
        for kernel in (3, 5):
            assert {"model.cnn.filters": filters, "model.cnn.kernel": kernel} in suggested


def test_a_range_with_a_step_includes_both_ends(space: Any) -> None:
    steps = {"model.cnn.dropout": {"low": 0, "high": 0.9, "step": 0.3}, "model.cnn.dense": {"low": 8, "high": 9}}
    values = sorted((point["model.cnn.dropout"], point["model.cnn.dense"]) for point in space(CNN | steps).grid())
    assert values == [(pytest.approx(dropout), dense) for dropout in (0, 0.3, 0.6, 0.9) for dense in (8, 9)]


def test_a_range_without_a_step_is_no_grid(space: Any) -> None:
    ranges = space({"model.fusion.penalties": {"low": "1e-3", "high": 10, "log": True}})
    assert not ranges.is_grid
    with pytest.raises(ParameterError, match=r"model\.fusion\.penalties: a grid needs a list"):
        ranges.grid()


def test_a_proposed_number_has_four_significant_digits(space: Any) -> None:
    ranges = space({"model.fusion.penalties": {"low": 0.001, "high": 10, "log": True}})
    assert ranges.suggest(optuna.trial.FixedTrial({"model.fusion.penalties": 0.0734567891})) == {
        "model.fusion.penalties": 0.07346
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CNN | {"model.cnn.kernal": [3, 5]}, "space.yaml: model.cnn.kernal is not a known key"),
        (CNN | {"model.cnn.kernel": [3, "wide"]}, "model.cnn.kernel is 'wide'"),
        (CNN | {"model.cnn.dropout": {"low": 0.5, "high": 1.5}}, "model.cnn.dropout is 1.5"),
        (CNN | {"model.cnn.dropout": {"low": 0.5}}, "model.cnn.dropout: a range is"),
        (CNN | {"model.cnn.dropout": {"low": 0.9, "high": 0.5}}, "model.cnn.dropout: "),
        (CNN | {"model.cnn.dropout": {"low": 0.1, "high": 0.5, "log": "no"}}, "log is 'no'; write true or false"),
        (CNN | {"model.cnn.kernel": []}, "model.cnn.kernel: an empty choice"),
        (CNN | {"model.cnn.kernel": 5}, "nothing to search"),
        ({"model.cnn.kernel": [3, 5]}, "begin with model.fusion., train."),
        ({"split.seed": [1, 2]}, "dvc exp run --queue -S split.seed="),
        ({"embed.histogram_bins": [4, 8]}, "embed.histogram_bins: a search changes only"),
        ({"train.epochs.more": [1, 2]}, "epochs holds a value"),
        ({}, "no space"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_refused_with_the_key(space: Any, content: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as error:
        space(content)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["recipe_4", "fusion"])
def test_shipped_spaces_are_valid(name: str) -> None:
    space = spaces.read(ROOT / "tune" / f"{name}.yaml", yaml.safe_load(SHIPPED))
    assert (len(space.grid()) == 12) if name == "recipe_4" else not space.is_grid


def test_a_change_keeps_all_other_lines_and_each_comment(tmp_path: Path) -> None:
    changes = {"model.name": "cnn", "model.cnn.filters": [64, 64], "model.cnn.kernel": 5, "train.learning_rate": 2e-5}
    changes |= {"train.resume": False, "train.batch_size": 64}
    new = spaces.apply_changes(SHIPPED, changes)
    (tmp_path / "params.yaml").write_text(new)
    loaded = params.load(tmp_path / "params.yaml")
    assert (loaded.model.name, loaded.model.cnn.filters, loaded.model.cnn.kernel) == ("cnn", (64, 64), (5,))
    assert (loaded.train.learning_rate, loaded.train.resume, loaded.train.batch_size) == (2e-5, False, 64)
    marks = [line[:2] for line in difflib.ndiff(SHIPPED.splitlines(), new.splitlines())]
    assert (marks.count("- "), marks.count("+ ")) == (5, 5)  # batch_size was 64 before

    def comments(text: str) -> list[str]:
        return [line.split("#", 1)[1] for line in text.splitlines() if "#" in line]

    assert comments(new) == comments(SHIPPED)
    assert spaces.apply_changes(SHIPPED, {}) == SHIPPED


@pytest.mark.parametrize("value", [[64, 64, 64, 64], 5])
@pytest.mark.parametrize("key", ["filters", "kernel"])
def test_lists_in_several_lines_as_dvc_writes_them_are_changed(key: str, value: Any) -> None:
    line = next(line for line in SHIPPED.splitlines() if line.startswith(f"    {key}: ") and "block" in line)
    name, comment = line.split(":")[0], line.split("#", 1)[1]
    text = SHIPPED.replace(line, f"{name}:      #{comment}\n    - 3\n    - 7")
    new = spaces.apply_changes(text, {f"model.cnn.{key}": value})
    expected = yaml.safe_load(text)
    expected["model"]["cnn"][key] = value
    assert yaml.safe_load(new) == expected
    assert new.count("#") == SHIPPED.count("#")


def test_values_are_written_as_dvc_takes_them() -> None:
    values = (
        "cnn",
        3,
        0.5,
        True,
        [64, 64],
        "w/b0.h5",
        "my weights, new",
        "a=b",
        "it's (2)",
        "null",
        "010",
        "",
        "C:\\dir\\",
    )
    assert [spaces.to_cli(value) for value in values] == [
        "cnn",
        "3",
        "0.5",
        "true",
        "[64, 64]",
        "w/b0.h5",
        "'my weights, new'",
        "'a=b'",
        r"'it\'s (2)'",
        "'null'",
        "'010'",
        "''",
        r"'C:\dir\\'",
    ]
