"""Image folders: one folder per class."""

from pathlib import Path

import pytest
from PIL import Image

from gemmodel.core import image_folder
from gemmodel.core.errors import DataError


def test_images_are_sorted_by_class_with_those_of_subfolders(tmp_path: Path) -> None:
    for name in ("ruby/b.jpg", "ruby/a.PNG", "ruby/deep/er/c.jpeg", "agate/1.webp", "ruby/notes.txt", "ruby/no_suffix"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.jpg").touch()
    (tmp_path / "loose.jpg").touch()
    photos = image_folder.list_images(tmp_path)
    assert list(photos) == ["agate", "ruby"]
    assert [path.relative_to(tmp_path / "ruby").as_posix() for path in photos["ruby"]] == [
        "a.PNG",
        "b.jpg",
        "deep/er/c.jpeg",
    ]


@pytest.mark.parametrize(("names", "message"), [(None, "no such folder"), ([], "no photos"), (["a/x.txt"], r"\.jpg")])
def test_a_folder_without_photos_is_an_error_that_names_it(
    tmp_path: Path, names: list[str] | None, message: str
) -> None:
    folder = tmp_path / "photos"
    for name in names or []:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    if names is not None:
        folder.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message) as caught:
        image_folder.list_images(folder)
    assert str(folder) in str(caught.value)


def test_a_tree_counts_the_photos_of_each_folder(tmp_path: Path) -> None:
    names = ("ruby/1.jpg", "ruby/deep/2.jpg", "ruby/deep/notes.txt", "agate/3.webp", "agate/._3.webp", "__MACOSX/4.jpg")
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    (tmp_path / "photos" / "ruby" / "again").symlink_to(tmp_path / "photos" / "agate")
    assert image_folder.tree(tmp_path / "photos") == [
        "photos/",
        "    agate/  1",
        "    ruby/  1",
        "        deep/  1",
        "3 photos",
    ]
    with pytest.raises(DataError, match="no such folder"):
        image_folder.tree(tmp_path / "none")


def test_a_walk_reads_each_folder_once_and_names_the_rest(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    deep = photos.joinpath("ruby", "deep", "er")
    deep.mkdir(parents=True)
    (deep / "1.jpg").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "2.jpg").touch()
    links = {"a": "ruby", "b": "../other", "c": "../other", "d": ".", "e": "nothing", "f": "f"}
    for name, target in links.items():
        (photos / name).symlink_to(target)
    left_out: list[tuple[Path, str]] = []
    found = [path.relative_to(photos) for _, paths in image_folder.walk(photos, left_out) for path in paths]
    assert found == [deep.relative_to(photos) / "1.jpg", Path("b/2.jpg")]
    assert {path.name: reason for path, reason in left_out} == {
        "a": "a folder that is read already, under another name",
        "c": "a folder that is read already, under another name",
        "d": "a link to a folder above it",
        "e": "a link to nothing",
        "f": "a link to nothing",
    }


def test_each_suffix_is_that_of_a_format_that_pillow_reads() -> None:
    registered = Image.registered_extensions()
    for name, suffixes in image_folder.FORMATS.items():
        for suffix in suffixes:
            assert registered.get(suffix, "HEIF") in {name, {".mpo": "MPO", ".dib": "DIB"}.get(suffix)}, suffix
        if name != "HEIF":
            missing = {suffix for suffix, other in registered.items() if other == name} - set(suffixes)
            assert missing <= {".pfm"}, "a portable float map holds no photo"
    assert len(set(image_folder.SUFFIXES)) == len(image_folder.SUFFIXES)
