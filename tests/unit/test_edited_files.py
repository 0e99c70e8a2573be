"""Text files that people edit: a byte order mark is read, another encoding is refused by the file's name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemmodel.clean import corrections
from gemmodel.core.errors import DataError
from gemmodel.split import hierarchy, test_list

READERS: dict[str, tuple[Callable[[Path], Any], str, dict[str, str]]] = {
    "list.txt": (test_list.read, f"# list\n{'0A' * 32}\tTürkis/a\u2028b.jpg\n", {"0a" * 32: "Türkis/a\u2028b.jpg"}),
    "corrections.csv": (corrections.read, "photo,gem\nTürkis/1.jpg,Opal\n", {"Türkis/1.jpg": "Opal"}),
    "hierarchy.yaml": (hierarchy.read_hierarchy, "Türkis: Turquoise\n", {"Türkis": "Turquoise"}),
}


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path, name: str) -> None:
    read, text, expected = READERS[name]
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / name).write_text(text, encoding=encoding, newline="\r\n")
        assert read(tmp_path / name) == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("name", READERS)
def test_another_encoding_is_refused_by_the_files_name(tmp_path: Path, name: str, encoding: str) -> None:
    read, text, _ = READERS[name]
    (tmp_path / name).write_bytes(text.replace("\u2028", "").encode(encoding))
    with pytest.raises(DataError, match=rf"{name}.*not UTF-8.*save it as UTF-8$"):
        read(tmp_path / name)
