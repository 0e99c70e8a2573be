"""dvc.yaml and dvc.lock against the code: what a stage depends on is what it imports."""

import ast
import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ("gemmodel", "scraper", "stages")
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = sorted(PIPELINE["stages"])


def module_files(name: str) -> set[Path]:
    """The files that importing a dotted name runs: each package's __init__ on the way, and the module."""
    files: set[Path] = set()
    for depth in range(1, name.count(".") + 2):
        path = ROOT.joinpath(*name.split(".")[:depth])
        files |= {found for found in (path / "__init__.py", path.with_suffix(".py")) if found.is_file()}
    return files


def imports(path: Path) -> set[str]:
    """Every project module that a file imports, at its top or inside a function; no relative imports are in use."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return {name for name in names if name.split(".")[0] in PACKAGES}


def closure(module: str) -> set[str]:
    """All project files that importing a module runs, relative to the root."""
    seen: set[Path] = set()
    waiting = module_files(module)
    while waiting:
        path = waiting.pop()
        seen.add(path)
        waiting |= {file for name in imports(path) for file in module_files(name)} - seen
    return {path.relative_to(ROOT).as_posix() for path in seen}


def code_deps(stage: str) -> set[str]:
    """The project files that a stage's deps name, those of a named folder included."""
    named: set[str] = set()
    for dep in PIPELINE["stages"][stage]["deps"]:
        path = ROOT / dep
        if dep.split("/")[0] in PACKAGES:
            files = path.rglob("*.py") if path.is_dir() else [path] if path.suffix == ".py" else []
            named |= {file.relative_to(ROOT).as_posix() for file in files}
    return named


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_import_closure(stage: str) -> None:
    module = PIPELINE["stages"][stage]["cmd"].split("-m ")[1].split()[0]
    assert code_deps(stage) == closure(module), f"dvc.yaml: deps of {stage}"


def test_a_template_is_a_dep_of_the_stage_that_fills_it() -> None:
    templates = {
        path.relative_to(ROOT).as_posix()
        for kind in ("html", "md")
        for path in (ROOT / "gemmodel").rglob(f"*.{kind}")
        if path.parent.name != "page"  # of the web application, sent as it is
    }
    for template in templates:
        module = template.rsplit(".", 1)[0] + ".py"
        users = {stage for stage in STAGES if module in code_deps(stage)}
        assert users == {stage for stage in STAGES if template in PIPELINE["stages"][stage]["deps"]} != set()


@pytest.mark.parametrize("stage", ["augment", "embed", "train", "explore"])
def test_what_learns_does_not_see_the_test_part(stage: str) -> None:
    seen = {dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith("data/")}
    assert seen
    assert not seen & {"data", "data/split", "data/split/test", "data/clean", "data/raw"}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_file_is_short(stage: str) -> None:
    assert len((ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8").splitlines()) <= 60


def test_only_six_modules_import_mlflow() -> None:
    users = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if any(line.split("#")[0].strip().startswith(("import mlflow", "from mlflow")) for line in path.open()):
                users.add(path.relative_to(ROOT).as_posix())
    modules = ("outbox", "serving", "tracking", "trials", "turns", "versions")
    assert users == {f"gemmodel/delivery/{name}.py" for name in modules}


def lookup(params: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        params = params[part]
    return params


def file_md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def folder_md5(path: Path) -> str:
    """The hash that DVC gives a folder: of the JSON list of its files' hashes and paths."""
    from dvc_data.hashfile.tree import Tree

    ignored = set((ROOT / ".dvcignore").read_text(encoding="utf-8").split())  # names of folders, paths of files
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not ignored & {*file.parts, file.relative_to(ROOT).as_posix()}
    ]
    listed = [{"md5": file_md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    tree = Tree.from_list(listed)
    tree.digest()
    return str(tree.hash_info.value)


@pytest.mark.parametrize("stage", STAGES)
def test_lock_is_in_step(stage: str) -> None:
    """Fails where code or a parameter was changed and dvc.lock was not: run `dvc repro` and commit dvc.lock."""
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
