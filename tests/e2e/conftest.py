"""Commands of the tests of whole projects."""

import os
from collections.abc import Iterator

import pytest
import repository

from tests.conftest import COMMANDS


@pytest.fixture(scope="module")
def forked_commands() -> Iterator[None]:
    """Let `python` and `dvc` run in forks, seconds faster, where the system can; and `clean` in one process."""
    if COMMANDS in os.environ:
        repository.COMMANDS.append(os.environ[COMMANDS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")
        yield
    repository.COMMANDS.clear()
