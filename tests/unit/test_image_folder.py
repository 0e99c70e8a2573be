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
    for name in ("ruby/1.jpg", "ruby/deep/2.jpg", "ruby/deep/notes.txt", "agate/3.webp"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    assert image_folder.tree(tmp_path / "photos") == [
        "photos/",
        "    agate/  1",
        "    ruby/  1",
        "        deep/  1",
        "3 photos",
    ]
    with pytest.raises(DataError, match="no such folder"):
        image_folder.tree(tmp_path / "none")


def test_each_suffix_is_that_of_a_format_that_pillow_reads() -> None:
    registered = Image.registered_extensions()
    for name, suffixes in image_folder.FORMATS.items():
        for suffix in suffixes:
            assert registered.get(suffix, "HEIF") in {name, {".mpo": "MPO", ".dib": "DIB"}.get(suffix)}, suffix
        if name != "HEIF":
            missing = {suffix for suffix, other in registered.items() if other == name} - set(suffixes)
            assert missing <= {".pfm"}, "a portable float map holds no photo"
    assert len(set(image_folder.SUFFIXES)) == len(image_folder.SUFFIXES)
