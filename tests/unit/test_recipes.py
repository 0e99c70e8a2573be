"""Every setting in the commands of docs/recipes.md is valid in params.yaml."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gemmodel.core.params import Params

RECIPES = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
COMMANDS = [block for block in re.findall(r"```\n(.*?)```", RECIPES, re.S) if " -S " in block]
SWEEP = re.compile(r",(?![^\[]*\])")  # a comma outside brackets


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"recipe {COMMANDS.index(command) + 1}")
def test_a_recipe_sets_valid_parameters(command: str, settings: Callable[..., Params]) -> None:
    words = shlex.split(command.splitlines()[0] if "--queue" in command else command.replace("\\\n", " "))
    changes = [words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "-S"]
    for key, values in changes:
        for value in SWEEP.split(values):
            settings({key: yaml.safe_load(value)})
    fractions = [float(value) for key, value in changes if key in ("split.train", "split.val", "split.test")]
    assert sum(fractions or [1.0]) == pytest.approx(1)


def test_each_of_the_five_recipes_has_a_command() -> None:
    assert len(re.findall(r"^## \d\. .*?^dvc exp run -S ", RECIPES, re.M | re.S)) == 5
