"""A stage imports no heavy library that it does not need, so that it starts fast."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

IMPORT = """
import sys
from stages import {}
print(*{{name.split(".")[0] for name in sys.modules}})
"""


@pytest.mark.parametrize(
    ("stages", "unneeded"),
    [
        ("crawl", {"tensorflow", "keras", "mlflow"}),
        ("clean, split, augment, describe, explore", {"tensorflow", "keras", "mlflow", "scrapy"}),
        ("embed", {"mlflow", "scrapy"}),
        ("evaluate, explain, report, register", {"tensorflow", "keras", "scrapy"}),
    ],
)
def test_stages_import_no_more_than_they_need(
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    stages: str,
    unneeded: set[str],
) -> None:
    ended = run("-c", IMPORT.format(stages), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "stages" in ended.stdout.split()
    assert not set(ended.stdout.split()) & unneeded
