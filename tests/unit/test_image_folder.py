"""Folders of class folders, and outputs that appear whole or not at all."""

from pathlib import Path

import pytest

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError


def test_photos_come_sorted_by_class_deep_ones_included(tmp_path: Path) -> None:
    for name in ("ruby/b.jpg", "ruby/a.PNG", "ruby/deep/er/c.jpeg", "agate/1.webp", "ruby/notes.txt", "ruby/no_suffix"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.jpg").touch()
    (tmp_path / "loose.jpg").touch()
    found = image_folder.list_images(tmp_path)
    assert list(found) == ["agate", "ruby"]
    assert [path.relative_to(tmp_path / "ruby").as_posix() for path in found["ruby"]] == [
        "a.PNG",
        "b.jpg",
        "deep/er/c.jpeg",
    ]


@pytest.mark.parametrize(("files", "told"), [(None, "no such folder"), ([], "no photos"), (["a/x.txt"], r"\.jpg")])
def test_a_folder_without_photos_is_an_error_that_names_it(tmp_path: Path, files: list[str] | None, told: str) -> None:
    folder = tmp_path / "photos"
    for name in files or []:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    if files is not None:
        folder.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=told) as caught:
        image_folder.list_images(folder)
    assert str(folder) in str(caught.value)


def write(place: Path, kind: str, text: str) -> None:
    if kind == "folder":
        place.mkdir()
        place = place / "file"
    place.write_text(text)


def content(place: Path) -> dict[str, str]:
    return {p.relative_to(place).as_posix(): p.read_text() for p in [place, *place.rglob("*")] if p.is_file()}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("old", [True, False])
def test_replacing_puts_the_whole_in_place(tmp_path: Path, kind: str, old: bool) -> None:
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
def test_replacing_leaves_all_as_it_was_after_an_error(
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


def test_replacing_keeps_the_old_where_nothing_new_was_written(tmp_path: Path) -> None:
    write(tmp_path / "target", "folder", "old")
    with pytest.raises(OSError), files.atomic_write(tmp_path / "target"):
        pass
    assert content(tmp_path / "target") == {"file": "old"}


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"gem": "Rubín", "line": "a\nb\u2028c"}, [1, None], "x"]
    files.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert files.read_jsonl(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize("content", [None, b'{"a": 1}\n{"a": \n', b"\xff\xfe{}"])
def test_lines_that_cannot_be_read_are_an_error_that_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "manifest.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        files.read_jsonl(path)
    assert str(path) in str(caught.value)
