"""The Makefile's own commands."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FINISHED = {"METADATA": "Name: whole", "RECORD": "whole.py,,\nwhole-1.dist-info/INSTALLER,,\n"}
PACKAGES = {  # what pip leaves when it is killed: it copies a package's files, then adds commands, then its own lines
    "whole-1.dist-info": FINISHED,
    "copied-1.dist-info": {"METADATA": "Name: copied", "RECORD": "copied.py,,\n"},
    "begun-1.dist-info": {"METADATA": "Name: begun"},
    "~placed-1.dist-info": FINISHED,  # set aside while a newer one is installed
    "~placed": {"module.py": ""},
    "whole": {"module.py": ""},
}


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_set_up_installs_again_what_a_killed_one_left_unfinished(tmp_path: Path) -> None:
    packages = tmp_path / ".venv" / "lib" / "python3.12" / "site-packages"
    for folder, contents in PACKAGES.items():
        (packages / folder).mkdir(parents=True)
        for name, text in contents.items():
            (packages / folder / name).write_text(text, encoding="utf-8")
    rules = f"include {ROOT / 'Makefile'}\nunfinished: ; $(REMOVE_UNFINISHED)\n"
    subprocess.run(["make", "-f", "-", "unfinished"], cwd=tmp_path, input=rules, text=True, check=True)
    assert {path.name for path in packages.iterdir()} == {"whole-1.dist-info", "whole"}
