"""Mutated parameter files: each is read, or refused in one line."""

import random
import re
from pathlib import Path

import pytest

from gemmodel.core import params
from gemmodel.core.errors import ParameterError
from tests.conftest import ROOT

PIECES = [
    "[", "]", "{", "}", ": ", "- ", "&a ", "*a ", "!!", "'", '"', "|", "> ", "#", "\t", "\n", "  ", "0b_", "1e999", "~",
    "%", "2001-99-99", ".inf", ".nan", "? ", "<<: ", "@", "`", "null", "9" * 30, "\0", "\u2028", "\ufeff", "é",
    "!!bool ",
]  # fmt: skip


def mutated(rng: random.Random, text: str) -> str:
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, other = rng.randrange(len(text)), rng.randrange(len(text))
        text = rng.choice(
            [
                text[:at] + rng.choice(PIECES) + text[at:],
                text[:at] + rng.choice(PIECES) + text[at + 5 :],
                text[:at] + text[at + rng.choice([1, 2, 10, 100]) :],
                text[:at] + text[other : other + rng.choice([3, 30, 300])] + text[at:],
            ]
        )
    return text


def check(path: Path) -> str:
    """Return what is said of a file; nothing for one that is read."""
    try:
        params.load(path)
    except ParameterError as error:
        line = str(error).replace(str(path), path.name)
    else:
        line = ""
    assert len(line) <= 300 and len(line.splitlines()) <= 1, line
    return line


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    text = re.sub(r" +#.*", "", (ROOT / "params.yaml").read_text(encoding="utf-8"))
    rng, path = random.Random(0), tmp_path / "params.yaml"
    refused = 0
    for _ in range(5000):
        path.write_text(mutated(rng, text), encoding="utf-8")
        refused += bool(check(path))
    assert 2500 < refused < 5000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2001-99-99", "not valid YAML: month must be in 1..12"),
        ("0b_", "not valid YAML"),
        ("9" * 5000, "not valid YAML"),
        ("[" * 3000 + "]" * 3000, r"base\.seed is \[\[\[\.\.\.\]\]\]; it must be of type int"),
        ("!!bool maybe", "not valid YAML: 'maybe'"),
        ("b" * 2000, r"base\.seed is 'b+\.\.\.b+'; it must be of type int"),
        ("&a [*a, *a, *a]", r"base\.seed is \["),
    ],
)
def test_a_value_that_is_long_or_nested_or_none_at_all_is_shown_in_short(
    tmp_path: Path, value: str, expected: str
) -> None:
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("seed: 1337 ", f"seed: {value} ", 1), encoding="utf-8")
    assert re.search(expected, check(path))


def test_anchors_that_multiply_are_shown_in_short(tmp_path: Path) -> None:
    path, text = tmp_path / "params.yaml", (ROOT / "params.yaml").read_text(encoding="utf-8")
    anchors = "".join(f"    p{i}: &p{i} [{', '.join([f'*p{i - 1}'] * 9 if i else 'abc')}]\n" for i in range(9))
    path.write_text(re.sub(r"(?m)^    red: .*\n", lambda _: anchors, text), encoding="utf-8")
    assert "evaluate.panels.p1[0] is ['a', 'b', 'c']; it must be of type str" in check(path)
