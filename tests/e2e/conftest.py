"""Commands of the tests of whole projects."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import repository

from tests.conftest import COMMANDS, made_once, stage_options


@pytest.fixture(scope="module")
def forked_commands() -> Iterator[None]:
    """Let `python` and `dvc` run in forks, seconds faster, where the system can; and `clean` in one process."""
    if COMMANDS in os.environ:
        repository.COMMANDS.append(os.environ[COMMANDS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")
        yield
    repository.COMMANDS.clear()


@pytest.fixture(scope="session")
def cached_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder to copy as `.scrapy`: what a crawl of the small sample downloads, which takes seconds to draw."""

    def make(folder: Path) -> None:
        repository.copy_project(folder)
        repository.change(folder, **repository.SMALL)
        python = Path(os.environ.get(COMMANDS, ""), "python")
        repository.runner(folder)(python, "-m", "stages.crawl", *stage_options("crawl"))

    return made_once(tmp_path_factory, "crawled", make) / ".scrapy"
