"""Twelve kills of `make kill`, at moments that are the same in each run."""

import kill
import pytest
from repository import build

# Those that differ in what they leave: processes, open runs, tickets, copies of the workspace, a study.
NAMES = [
    "crawl",
    "clean",
    "describe",
    "embed",
    "train",
    "evaluate",
    "register",
    "report",
    "temp",
    "tune",
    "promote",
    "rollback",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> kill.Site:
    folder = tmp_path_factory.mktemp("kill") / "project"
    build(folder)
    return kill.prepare(folder)


@pytest.mark.parametrize("i", range(len(NAMES)), ids=NAMES)
def test_a_killed_command_is_healed_by_the_documented_one(site: kill.Site, i: int) -> None:
    kill.kill_and_heal(site, NAMES[i], i, seed=0)
