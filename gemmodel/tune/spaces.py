"""The space of a search: a small YAML file of params.yaml's keys.

A single value is fixed, a list is a choice of its entries, and `{low, high}` is a range, with `log: true` or a `step`.
"""

import copy
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update  # type: ignore[import-untyped]
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ruamel.yaml.comments import CommentedSeq

from gemmodel.core import params
from gemmodel.core.errors import ParameterError, shortened

Axis = CategoricalDistribution | FloatDistribution | IntDistribution
MAX_POINTS = 1000  # of a grid: more trainings than anybody waits for
SIGNIFICANT_DIGITS = 4  # of a proposed number, so that params.yaml can hold exactly what was tried


@dataclass(frozen=True)
class Space:
    """What a search changes: keys with a fixed value, and axes, of which each trial has a value.

    Optuna's choices are plain values, so a list among them is stored as JSON; `suggest` decodes it.
    """

    fixed: dict[str, Any]
    axes: dict[str, Axis]

    @property
    def is_grid(self) -> bool:
        """Whether each axis is a list of values."""
        return all(isinstance(axis, CategoricalDistribution) for axis in self.axes.values())

    def grid(self) -> list[dict[str, Any]]:
        """Returns each combination of the axes' values, as Optuna stores them.

        Raises:
            ParameterError: an axis is a range without a step, or there are more than `MAX_POINTS` combinations.
        """
        points = math.prod(_grid_size(key, axis) for key, axis in self.axes.items())
        if points > MAX_POINTS:
            raise ParameterError(
                f"the space is a grid of {points:.3g} points, more than {MAX_POINTS}; shorten it, or use --sampler tpe"
            )
        values = [list(_grid_values(axis)) for axis in self.axes.values()]
        return [dict(zip(self.axes, point, strict=True)) for point in itertools.product(*values)]

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Returns the value of each axis that Optuna proposes for a trial, as params.yaml has it."""
        values: dict[str, Any] = {}
        for key, axis in self.axes.items():
            if isinstance(axis, CategoricalDistribution):
                values[key] = _from_choice(trial.suggest_categorical(key, axis.choices))
            elif isinstance(axis, IntDistribution):
                values[key] = trial.suggest_int(key, axis.low, axis.high, step=axis.step, log=axis.log)
            else:
                value = trial.suggest_float(key, axis.low, axis.high, step=axis.step, log=axis.log)
                values[key] = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        return values


def read(path: Path, values: Mapping[str, Any]) -> Space:
    """Reads the file of a space, and checks each of its values as a parameter.

    Args:
        path: the YAML file.
        values: all values of params.yaml.

    Raises:
        ParameterError: the file is missing or not YAML; or training does not take a key or a value.
    """
    space = params.read(path)
    if not isinstance(space, dict) or not space:
        raise ParameterError(f"{path}: no space; it must map keys of params.yaml to choices or ranges")
    fixed: dict[str, Any] = {}
    axes: dict[str, Axis] = {}
    for key, value in space.items():
        name = f"{path}: {shortened(str(key))}"
        if isinstance(value, dict):
            axes[key] = _range(name, value)
        elif isinstance(value, list) and len(value) != 1:
            if not 0 < len(value) <= MAX_POINTS:
                size = f"{len(value)} choices, at most {MAX_POINTS} are tried" if value else "an empty choice"
                raise ParameterError(f"{name}: {size}; list some values, or [[]] for an empty list")
            try:
                axes[key] = CategoricalDistribution(list(dict.fromkeys(map(_to_choice, value))))
            except (TypeError, ValueError, RecursionError) as error:  # of a date, a section, a list within itself
                message = f"{name}: a choice is of numbers, texts or lists of them: {shortened(str(error))}"
                raise ParameterError(message) from None
        else:
            fixed[key] = value[0] if isinstance(value, list) else value
    if not axes:
        raise ParameterError(f"{path}: no choice and no range among its values, so there is nothing to search")
    model = params.checked(with_changes(values, fixed, path), path.name).model
    prefixes = [f"model.{model.name}.", "train."]
    if model.name != "fusion":  # its features are already computed
        prefixes += ["augment.", "base.image_size"]
    for key in (*fixed, *axes):
        if not str(key).startswith(tuple(prefixes)) and not (key == "model.name" and key in fixed):
            name, known = shortened(str(key), 40), ", ".join(prefixes)
            raise ParameterError(
                f"{path}: {name}: a search changes only keys that begin with {known}, since it uses the data "
                f"that `dvc repro` made; try other keys with `dvc exp run --queue -S {name}=...`"
            )
    for key, axis in axes.items():
        limits = axis.choices if isinstance(axis, CategoricalDistribution) else (axis.low, axis.high)
        for value in limits:
            params.checked(with_changes(values, fixed | {key: _from_choice(value)}, path), path.name)
    return Space(fixed, axes)


def with_changes(
    values: Mapping[str, Any], changes: Mapping[str, Any], path: Path = Path("params.yaml")
) -> dict[str, Any]:
    """Returns a copy of parameters with some keys, named as `section.key`, set to other values.

    Raises:
        ParameterError: a section of a key's name is a value; `path` names the file of the changes.
    """
    result = copy.deepcopy(dict(values))
    for name, value in changes.items():
        *sections, key = str(name).split(".")
        node: Any = result
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                known = f"{shortened(str(name))} is not a known key: {shortened(section)} holds a value"
                raise ParameterError(f"{path}: {known}")
        node[key] = value
    return result


def effective_changes(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the changes whose value differs from the present one."""
    return {key: value for key, value in changes.items() if with_changes(values, {key: value}) != values}


def apply_changes(text: str, changes: Mapping[str, Any]) -> str:
    """Returns the text of a params.yaml with other values; comments and all other lines stay as they are."""
    values = parse_yaml_for_update(text, "params.yaml")
    for name, value in changes.items():
        *sections, key = name.split(".")
        node = values
        for section in sections:
            node = node[section]
        if isinstance(value, list) and isinstance(node[key], list):
            node[key][:] = value  # in its present layout, one line or several: a new list would lose its comments
        else:
            node[key] = _in_one_line(value) if isinstance(value, list) else value
    return str(dumps_yaml(values))


def to_cli(value: Any) -> str:
    """Returns a value as `dvc exp run -S` takes it: text that Hydra's grammar would not take as such is in quotes."""
    if not isinstance(value, str):
        return json.dumps(value)
    plain = re.fullmatch(r"[A-Za-z][\w./:-]*", value) and value.lower() not in ("true", "false", "null", "nan", "inf")
    # Backslashes before a quote, also the closing one, are doubled.
    return value if plain else "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + (r"\'" if m[2] else ""), value) + "'"


def _in_one_line(value: list[Any]) -> CommentedSeq:
    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence


def _to_choice(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _from_choice(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def _grid_size(key: str, axis: Axis) -> int:
    if isinstance(axis, CategoricalDistribution):
        return len(axis.choices)
    if axis.step is None or axis.log:
        raise ParameterError(f"{key}: a grid needs a list of values, or a range with a step; or take --sampler tpe")
    return round((axis.high - axis.low) / axis.step) + 1


def _grid_values(axis: Axis) -> Iterator[Any]:
    if isinstance(axis, CategoricalDistribution):
        yield from axis.choices
    elif axis.step is not None:
        steps = round((axis.high - axis.low) / axis.step)
        yield from (min(axis.low + i * axis.step, axis.high) for i in range(steps + 1))


def _range(name: str, value: Mapping[str, Any]) -> Axis:
    unknown = set(value) - {"low", "high", "log", "step"}
    if unknown or "low" not in value or "high" not in value:
        raise ParameterError(f"{name}: a range is {{low: ..., high: ...}}, and may have log: true or step: ...")
    log = value.get("log", False)
    if type(log) is not bool:  # `no` is text in YAML 1.2
        raise ParameterError(f"{name}: log is {shortened(repr(log))}; write true or false")
    try:
        numbers = {bound: value[bound] for bound in ("low", "high", "step") if bound in value}
        if all(type(number) is int for number in numbers.values()):
            return IntDistribution(**numbers, log=log)
        return FloatDistribution(**{bound: float(number) for bound, number in numbers.items()}, log=log)
    except (TypeError, ValueError, OverflowError) as error:
        raise ParameterError(f"{name}: {shortened(str(error), 120)}") from None
