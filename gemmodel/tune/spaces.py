"""The space that a search looks through: a small YAML file of params.yaml's keys.

A value by itself is fixed, a list is a choice of its entries, and `{low, high}` a range, with `log: true` or a `step`.
"""

import copy
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update  # type: ignore[import-untyped]
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ruamel.yaml.comments import CommentedSeq

from gemmodel.core import params
from gemmodel.core.errors import ParameterError

Axis = CategoricalDistribution | FloatDistribution | IntDistribution
DIGITS = 4  # of a proposed number: what is tried is what stands in params.yaml afterwards, and can be read


@dataclass(frozen=True)
class Space:
    """What a search changes: keys with one value, and axes, of which each trial has a value.

    Optuna's choices are plain values, so a list among them stands as JSON; the methods below take and give both ways.
    """

    fixed: dict[str, Any]
    axes: dict[str, Axis]

    @property
    def listed(self) -> bool:
        """Whether each axis is a list of values."""
        return all(isinstance(axis, CategoricalDistribution) for axis in self.axes.values())

    def points(self) -> list[dict[str, Any]]:
        """Returns each combination of the axes' values, as Optuna has them.

        Raises:
            ParameterError: an axis is a range without a step.
        """
        listed = [list(_values(key, axis)) for key, axis in self.axes.items()]
        return [dict(zip(self.axes, point, strict=True)) for point in itertools.product(*listed)]

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Returns the value of each axis that Optuna proposes for a trial, as params.yaml has it."""
        told: dict[str, Any] = {}
        for key, axis in self.axes.items():
            if isinstance(axis, CategoricalDistribution):
                told[key] = _decoded(trial.suggest_categorical(key, axis.choices))
            elif isinstance(axis, IntDistribution):
                told[key] = trial.suggest_int(key, axis.low, axis.high, step=axis.step, log=axis.log)
            else:
                value = trial.suggest_float(key, axis.low, axis.high, step=axis.step, log=axis.log)
                told[key] = float(f"{value:.{DIGITS}g}")
        return told


def read(path: Path, values: Mapping[str, Any]) -> Space:
    """Reads the file of a space, and tries each of its values in the parameters.

    Args:
        path: of the file.
        values: all that params.yaml holds.

    Raises:
        ParameterError: the file is missing or no YAML; or a key or a value is not one that training takes.
    """
    told = params.read(path)
    if not isinstance(told, dict) or not told:
        raise ParameterError(f"{path}: no space; it must map keys of params.yaml to choices or ranges")
    fixed: dict[str, Any] = {}
    axes: dict[str, Axis] = {}
    for key, value in told.items():
        if isinstance(value, dict):
            axes[key] = _range(f"{path}: {key}", value)
        elif isinstance(value, list) and len(value) != 1:
            if not value:
                raise ParameterError(f"{path}: {key}: an empty choice; list values, or [[]] for an empty list")
            axes[key] = CategoricalDistribution(list(dict.fromkeys(map(_encoded, value))))
        else:
            fixed[key] = value[0] if isinstance(value, list) else value
    if not axes:
        raise ParameterError(f"{path}: no choice and no range among its values, so there is nothing to search")
    model = params.checked(changed(values, fixed, path), path.name).model
    taken = [f"model.{model.name}.", "train."]
    if model.name != "fusion":  # whose features are made before
        taken += ["augment.", "base.image_size"]
    for key in (*fixed, *axes):
        if not str(key).startswith(tuple(taken)) and not (key == "model.name" and key in fixed):
            raise ParameterError(
                f"{path}: {key}: a search changes only keys that begin with {', '.join(taken)}, since the data stays "
                f"as `dvc repro` made it; try other keys with `dvc exp run --queue -S {key}=...`"
            )
    for key, axis in axes.items():
        tried = axis.choices if isinstance(axis, CategoricalDistribution) else (axis.low, axis.high)
        for value in tried:
            params.checked(changed(values, fixed | {key: _decoded(value)}, path), path.name)
    return Space(fixed, axes)


def changed(values: Mapping[str, Any], changes: Mapping[str, Any], path: Path = Path("params.yaml")) -> dict[str, Any]:
    """Returns parameters with some keys, named as `section.key`, set to other values."""
    result = copy.deepcopy(dict(values))
    for name, value in changes.items():
        *sections, key = str(name).split(".")
        place: Any = result
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ParameterError(f"{path}: {name} is not a known key: {section} holds a value")
        place[key] = value
    return result


def differing(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of some changes that change the parameters."""
    return {key: value for key, value in changes.items() if changed(values, {key: value}) != values}


def apply_changes(text: str, changes: Mapping[str, Any]) -> str:
    """Returns a params.yaml's text with other values; comments and all other lines stay as they are."""
    values = parse_yaml_for_update(text, "params.yaml")
    for name, value in changes.items():
        *sections, key = name.split(".")
        place = values
        for section in sections:
            place = place[section]
        if isinstance(value, list) and isinstance(place[key], list):
            place[key][:] = value  # as it is laid out, in one line or in several: anew its comments would go astray
        else:
            place[key] = _in_one_line(value) if isinstance(value, list) else value
    return str(dumps_yaml(values))


def to_cli(value: Any) -> str:
    """Returns a value as params.yaml and `dvc exp run -S` have it."""
    return value if isinstance(value, str) else json.dumps(value)


def _in_one_line(value: list[Any]) -> CommentedSeq:
    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence


def _encoded(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def _values(key: str, axis: Axis) -> Iterator[Any]:
    if isinstance(axis, CategoricalDistribution):
        yield from axis.choices
    elif axis.step is None or axis.log:
        raise ParameterError(f"{key}: a grid needs a list of values, or a range with a step; or take --sampler tpe")
    else:
        number = round((axis.high - axis.low) / axis.step)
        yield from (min(axis.low + place * axis.step, axis.high) for place in range(number + 1))


def _range(name: str, told: Mapping[str, Any]) -> Axis:
    unknown = set(told) - {"low", "high", "log", "step"}
    if unknown or "low" not in told or "high" not in told:
        raise ParameterError(f"{name}: a range is {{low: ..., high: ...}}, and may have log: true or step: ...")
    try:
        numbers = {place: yaml.safe_load(str(told[place])) for place in ("low", "high", "step") if place in told}
        log = told.get("log", False)
        if all(type(value) is int for value in numbers.values()):
            return IntDistribution(**numbers, log=log)
        return FloatDistribution(**{place: float(value) for place, value in numbers.items()}, log=log)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{name}: {error}") from None
