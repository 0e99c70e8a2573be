"""A stage imports no heavy library that it does not need, so that it starts fast."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

IMPORT = """
import sys
import stages.{}
print(*{{name.split(".")[0] for name in sys.modules}})
"""


@pytest.mark.parametrize(
    ("stage", "unneeded"),
    [
        ("crawl", {"tensorflow", "keras", "mlflow"}),
        ("clean", {"tensorflow", "keras", "mlflow", "scrapy"}),
        ("split", {"tensorflow", "keras", "mlflow", "scrapy"}),
        ("augment", {"mlflow", "scrapy"}),
        ("describe", {"tensorflow", "keras", "mlflow", "scrapy"}),
        ("embed", {"mlflow", "scrapy"}),
        ("evaluate", {"tensorflow", "keras", "scrapy"}),
        ("explore", {"tensorflow", "keras", "mlflow", "scrapy"}),
        ("report", {"tensorflow", "keras", "scrapy"}),
        ("register", {"tensorflow", "keras", "scrapy"}),
    ],
)
def test_a_stage_imports_no_more_than_it_needs(
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    stage: str,
    unneeded: set[str],
) -> None:
    ended = run("-c", IMPORT.format(stage), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "stages" in ended.stdout.split()
    assert not set(ended.stdout.split()) & unneeded
