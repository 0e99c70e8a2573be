"""Files: outputs appear whole or not at all, and JSON that cannot be read is an error that names the file."""

import errno
from pathlib import Path

import pandas as pd
import pytest

from gemmodel.core import files
from gemmodel.core.errors import DataError, cli_errors


def write(path: Path, kind: str, text: str) -> None:
    if kind == "folder":
        path.mkdir()
        path = path / "file"
    path.write_text(text)


def content(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): p.read_text() for p in [root, *root.rglob("*")] if p.is_file()}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("old", [True, False])
def test_an_output_appears_when_it_is_complete(tmp_path: Path, kind: str, old: bool) -> None:
    target = tmp_path / "deep" / "target"
    if old:
        target.parent.mkdir()
        write(target, kind, "old")
        if kind == "folder":
            (target / "stale").write_text("stale")
    with files.atomic_write(target) as new:
        write(new, kind, "new")
        assert content(target) == (
            {"file" if kind == "folder" else ".": "old"} | ({"stale": "stale"} if kind == "folder" else {})
            if old
            else {}
        )
    assert content(target) == {"file" if kind == "folder" else ".": "new"}
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [True, False])
def test_after_an_error_the_old_output_is_unchanged(
    tmp_path: Path, kind: str, error: type[BaseException], old: bool
) -> None:
    target = tmp_path / "target"
    if old:
        write(target, kind, "old")
    before = content(target)
    with pytest.raises(error), files.atomic_write(target) as new:
        write(new, kind, "half")
        raise error
    assert content(target) == before
    assert list(tmp_path.iterdir()) == ([target] if old else [])


def test_the_old_output_is_kept_if_nothing_was_written(tmp_path: Path) -> None:
    write(tmp_path / "target", "folder", "old")
    with pytest.raises(OSError), files.atomic_write(tmp_path / "target"):
        pass
    assert content(tmp_path / "target") == {"file": "old"}


def test_json_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"gem": "Rubín", "line": "a\nb\u2028c"}, [1, None], "x"]
    files.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert files.read_jsonl(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize("content", [None, b'{"a": 1}\n{"a": \n', b"\xff\xfe{}"])
def test_malformed_json_lines_are_an_error_that_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "manifest.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        files.read_jsonl(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["1", "01", "1e3", "NA", "null", "True", "", "a,b", 'O\'Neil "x"', " x", "红宝石", "\ufeffx"]
)
def test_a_table_keeps_names_as_they_are(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"gem": [name, "1.0"], "photos": [3, 4]})
    for encoding in ("utf-8", "utf-8-sig"):  # a spreadsheet writes a byte order mark
        table.to_csv(tmp_path / "table.csv", index=False, encoding=encoding)
        read = files.read_table(tmp_path / "table.csv", numbers={"photos": int, "absent": float})
        assert read["gem"].tolist() == [name, "1.0"]
        assert read["photos"].tolist() == [3, 4]


@pytest.mark.parametrize(
    "content", [b"", b"gem\n\xe9\n", b"gem,photos\na,many\n", b"gem,photos\na,1,2,3\nb,1\n", b"gem,photos\na,1,2\n"]
)
def test_what_is_no_table_is_an_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"table\.csv: not") as caught:
        files.read_table(tmp_path / "table.csv", numbers={"photos": int})
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        files.read_table(tmp_path / "none.csv")


def test_no_module_reads_a_table_otherwise() -> None:
    package = Path(files.__file__).parents[1]
    readers = [path.name for path in package.rglob("*.py") if "read_csv" in path.read_text(encoding="utf-8")]
    assert readers == ["files.py"]


def test_a_copy_to_a_full_disk_is_an_error_that_names_the_new_file() -> None:
    message = "^split: test/1.png: no space left on its disk; free some and run this again$"
    with pytest.raises(SystemExit, match=message), cli_errors("split"):
        raise OSError(errno.ENOSPC, "No space left on device", "clean/1.png", None, "test/1.png")
