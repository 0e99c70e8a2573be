"""dvc.yaml and dvc.lock against the code: an edit of a file reruns the stages that import it.

Three kinds of files are no deps. DVC follows the values of params.yaml, so gemmodel/core/params.py, which holds only
their schema, is in .dvcignore. An `__init__.py` holds only a docstring, but for stages/__init__.py. What is imported
from outside the project is fixed by requirements.lock.
"""

import ast
import hashlib
import re
import subprocess
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemmodel.core.params import Params

ROOT = Path(__file__).parents[2]
PACKAGES = ("gemmodel", "sample_site", "scraper", "stages")
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES = sorted(PIPELINE)
EXACT = {"crawl", "embed", "train"}  # stages that take long: no folder among their deps may hold a file too many
IGNORED = set((ROOT / ".dvcignore").read_text(encoding="utf-8").split())  # names of folders, paths of files
MAX_CODE_DEPS = 120  # lines of dvc.yaml
FILES = {
    path.relative_to(ROOT).as_posix()
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py" or path.parent.name == "stages"
}
TEMPLATES = {
    path.relative_to(ROOT).as_posix()
    for kind in ("html", "md")
    for path in (ROOT / "gemmodel").rglob(f"*.{kind}")
    if path.parent.name != "page"  # the web application's, which no stage renders
}


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def imports(path: str) -> frozenset[str]:
    """The project files that a file imports, at its top or inside a function; no relative imports are in use."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # Scrapy's settings name classes
            names |= {node.value, node.value.rpartition(".")[0]}
    files = {name.replace(".", "/") + end for name in names for end in (".py", "/__init__.py")}
    return frozenset(files & FILES)


@cache
def closure(stage: str) -> frozenset[str]:
    """The project files that running a stage imports, directly or not, but for the parameters' schema."""
    closed: set[str] = set()
    waiting = {"stages/__init__.py", f"stages/{stage}.py"}
    while waiting:
        path = waiting.pop()
        closed.add(path)
        waiting |= imports(path) - closed
    return frozenset(closed - IGNORED)


@cache
def templates(stage: str) -> frozenset[str]:
    """The templates that a stage renders: those beside a module of the same name, and those that these name."""
    used = {template for template in TEMPLATES if template.rpartition(".")[0] + ".py" in closure(stage)}
    named = re.findall(r'{% (?:extends|from|include|import) "(.+?)"', "".join(map(read, sorted(used))))
    return frozenset(used | {f"gemmodel/{name}" for name in named})


def code_deps(stage: str) -> list[str]:
    """The deps of a stage that are code."""
    return [dep for dep in PIPELINE[stage]["deps"] if dep.split("/")[0] in PACKAGES]


@cache
def dep_files(stage: str) -> frozenset[str]:
    """The modules and templates among a stage's deps, those in a folder included."""
    deps = code_deps(stage)
    return frozenset(
        file for file in (FILES | TEMPLATES) - IGNORED if any(file == dep or file.startswith(f"{dep}/") for dep in deps)
    )


def reruns(file: str) -> set[str]:
    """The stages that an edit of a file reruns."""
    return {stage for stage in STAGES if file in dep_files(stage)}


def users(file: str) -> set[str]:
    """The stages that import a file, or render a template."""
    return {stage for stage in STAGES if file in closure(stage) | templates(stage)}


def test_an_edit_reruns_each_stage_that_uses_the_file() -> None:
    missing = {file: users(file) - reruns(file) for file in sorted(FILES | TEMPLATES)}
    assert {file: stages for file, stages in missing.items() if stages} == {}


def test_an_edit_reruns_no_slow_stage_that_does_not_use_the_file() -> None:
    needless = {file: (reruns(file) - users(file)) & EXACT for file in sorted(FILES | TEMPLATES)}
    assert {file: stages for file, stages in needless.items() if stages} == {}


@pytest.mark.parametrize("stage", STAGES)
def test_each_dep_is_used(stage: str) -> None:
    """A file by the stage itself; of a folder at least one file."""
    used = closure(stage) | templates(stage)
    unused = [dep for dep in code_deps(stage) if not any(f"{file}/".startswith(f"{dep}/") for file in used)]
    assert unused == []


def test_an_edit_of_the_schema_of_the_parameters_reruns_nothing() -> None:
    assert users("gemmodel/core/params.py") == reruns("gemmodel/core/params.py") == set()
    assert "gemmodel/core/params.py" in imports("stages/train.py")


def test_each_template_is_rendered_by_a_stage() -> None:
    assert [template for template in sorted(TEMPLATES) if not users(template)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_init_files_hold_only_a_docstring(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        if path != ROOT / "stages" / "__init__.py":
            (statement,) = ast.parse(path.read_text(encoding="utf-8")).body
            assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant), path


def test_the_code_deps_stay_few() -> None:
    assert sum(len(code_deps(stage)) for stage in STAGES) <= MAX_CODE_DEPS


@pytest.mark.parametrize("stage", ["augment", "embed", "train", "explore"])
def test_no_training_stage_reads_the_test_part(stage: str) -> None:
    data = {dep for dep in PIPELINE[stage]["deps"] if dep.startswith("data/")}
    assert data
    assert not data & {"data", "data/split", "data/split/test", "data/clean", "data/raw"}


def params_read(stage: str) -> set[str]:
    """The parameters that a stage's file reads or logs, such as `clean.crop`; a whole section by its name."""
    sections = {field.name for field in fields(Params)}
    read_names: set[str] = set()
    for node in ast.walk(ast.parse(read(f"stages/{stage}.py"))):
        if isinstance(node, ast.Attribute):  # settings.clean.crop, or params.load(...).clean
            name = re.sub(r"^(settings|params\.load\(\w+\))\.", "", text := ast.unparse(node))
            if name != text and name.split(".")[0] in sections:
                read_names.add(name)
        elif isinstance(node, ast.Call) and ast.unparse(node) == "asdict(settings)":
            read_names |= sections
        elif isinstance(node, ast.Tuple | ast.List):  # names of sections that are logged
            names = {item.value for item in node.elts if isinstance(item, ast.Constant)}
            if len(names) == len(node.elts) and names <= sections:
                read_names |= names
    return read_names


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_reads_and_logs_is_among_its_params(stage: str) -> None:
    declared = PIPELINE[stage].get("params", [])
    used = params_read(stage)
    assert used or not declared
    undeclared = {name for name in used if not any(f"{name}.".startswith(f"{param}.") for param in declared)}
    undeclared -= {name for name in undeclared if any(param.startswith(f"{name}.") for param in declared)}
    assert undeclared == set()


def lookup(params: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        params = params[part]
    return params


def file_md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def folder_md5(path: Path) -> str:
    """The hash that DVC gives a folder: of the JSON list of its files' hashes and paths."""
    from dvc_data.hashfile.tree import Tree

    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not IGNORED & {*file.parts, file.relative_to(ROOT).as_posix()}
    ]
    tree = Tree.from_list([{"md5": file_md5(file), "relpath": file.relative_to(path).as_posix()} for file in files])
    tree.digest()
    return str(tree.hash_info.value)


@pytest.mark.parametrize("stage", STAGES)
def test_lock_is_up_to_date(stage: str) -> None:
    """Fails where code or a parameter changed and dvc.lock did not: run `make repro` and commit dvc.lock."""
    remedy = "dvc.lock is behind the code or params.yaml: run `make repro` and commit dvc.lock"
    locked = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"].get(stage)
    assert locked is not None, remedy
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for key, value in locked.get("params", {}).get("params.yaml", {}).items():
        assert lookup(params, key) == value, f"{key}: {remedy}"
    for dep in locked["deps"]:
        path = ROOT / dep["path"]
        if not dep["path"].startswith(("data/", "models", "reports/")):
            assert (folder_md5(path) if path.is_dir() else file_md5(path)) == dep["md5"], f"{dep['path']}: {remedy}"


def test_the_metrics_in_git_are_those_of_the_lock() -> None:
    """They are no files of DVC's cache, so that `dvc metrics diff` works in a fresh clone."""
    locked = yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    declared = [(stage, *entry.items()) for stage in STAGES for entry in PIPELINE[stage].get("metrics", ())]
    assert [options for _, (_, options) in declared] == [{"cache": False}] * 2
    for stage, (path, _) in declared:
        if (ROOT / ".git").exists():
            listed = subprocess.run(["git", "ls-files", path], cwd=ROOT, capture_output=True, text=True).stdout.split()
            assert listed == [path], f"{path}: not in git; `git add` it with dvc.lock"
        (md5,) = [out["md5"] for out in locked[stage]["outs"] if out["path"] == path]
        assert file_md5(ROOT / path) == md5, f"{path}: not as in dvc.lock; run `make repro` and commit both"


def test_no_plot_is_a_path_in_an_output_folder() -> None:
    """DVC would look for it after each experiment, and fail where the folder's stage has not run."""
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    assert all(isinstance(plot, dict) and all("y" in entry for entry in plot.values()) for plot in plots)
