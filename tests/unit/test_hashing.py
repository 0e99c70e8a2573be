"""Hashes: they change with what they are of, and with nothing else."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gemmodel.core import hashing
from gemmodel.core.errors import DataError, ModelError
from gemmodel.core.params import Params

Settings = Callable[..., Params]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two files in folders of their classes."""
    paths = [tmp_path / "photos" / name for name in ("agate/1.jpg", "ruby/2.jpg")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(path.name)
    return paths


def test_a_file_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashing.sha256(tmp_path / "abc") == expected
    with pytest.raises(DataError, match="no such file"):
        hashing.sha256(tmp_path / "none")


def test_a_digest_depends_on_contents_and_relative_paths_only(photos: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "photos"
    digest = hashing.digest(photos, root)
    assert hashing.digest(reversed(photos), root) == digest
    root = root.rename(tmp_path / "elsewhere")
    assert hashing.digest(root.rglob("*.jpg"), root) == digest
    (root / "agate").rename(root / "opal")
    renamed = hashing.digest(root.rglob("*.jpg"), root)
    (root / "opal" / "1.jpg").write_text("changed")
    assert len({digest, renamed, hashing.digest(root.rglob("*.jpg"), root)}) == 3


def test_the_code_digest_is_that_of_all_source_files() -> None:
    root = Path(hashing.__file__).parents[1]
    assert hashing.code_digest() == hashing.digest(root.rglob("*.py"), root)


def test_a_run_key_changes_with_each_setting_and_file(photos: list[Path], settings: Settings) -> None:
    base, other = settings().base, settings({"base.seed": 7}).base
    key = hashing.run_key([base], photos)
    assert len(key) == 16 and hashing.run_key([settings().base], photos) == key
    keys = {key, hashing.run_key([other], photos), hashing.run_key([base, settings().embed], photos)}
    keys |= {hashing.run_key([base], photos[:1]), hashing.run_key([base], photos[::-1])}
    photos[0].write_text("changed")
    keys.add(hashing.run_key([base], photos))
    keys.add(hashing.run_key([base], [photos[0].rename(photos[0].with_name("3.jpg")), photos[1]]))
    assert len(keys) == 7


@pytest.mark.parametrize("changed", ["code", "framework"])
def test_a_run_key_changes_with_the_code_and_the_frameworks(
    photos: list[Path], settings: Settings, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    key = hashing.run_key([settings().base], photos)
    if changed == "code":
        monkeypatch.setattr(hashing, "code_digest", lambda: "of another commit")
    else:
        monkeypatch.setattr(hashing, "version", lambda name: "0.0")
    assert hashing.run_key([settings().base], photos) != key


def test_a_code_digest_covers_the_named_packages() -> None:
    digests = [hashing.code_digest(*packages) for packages in ((), ("core",), ("train",), ("core", "train"))]
    assert len(set(digests)) == 4
    assert hashing.code_digest("core") == digests[1]


def damaged(content: bytes) -> Iterator[bytes | None]:
    """Yield a file's content with each of its bits turned, cut off at each length, with a byte more, and no file."""
    for i in range(8 * len(content)):
        yield content[: i // 8] + bytes([content[i // 8] ^ 1 << i % 8]) + content[i // 8 + 1 :]
    for length in range(len(content)):
        yield content[:length]
    yield content + b"\n"
    yield None


@pytest.fixture
def hashed(tmp_path: Path) -> Path:
    """Return a folder with two files and their hashes."""
    (tmp_path / "model" / "code").mkdir(parents=True)
    (tmp_path / "model" / "input.json").write_bytes(b'{"crop": "none"}')
    (tmp_path / "model" / "code" / "model.py").write_bytes(b"pass\n")
    hashing.write_hashes(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["input.json", "code/model.py"])
def test_each_damage_of_a_file_is_named(hashed: Path, name: str) -> None:
    hashing.check(hashed)
    contents = hashing.read_checked(hashed, [name])
    assert contents == {path: (hashed / path).read_bytes() for path in (name, hashing.HASHES)}
    for content in damaged((hashed / name).read_bytes()):
        (hashed / name).unlink(missing_ok=True)
        if content is not None:
            (hashed / name).write_bytes(content)
        for read in (hashing.check, lambda folder: hashing.read_checked(folder, [name])):
            with pytest.raises(ModelError, match=rf"^{hashed / name}: .*`gemmodel register`") as caught:
                read(hashed)
            assert "\n" not in str(caught.value)


def test_each_damage_of_the_hashes_is_noticed(hashed: Path) -> None:
    hashes = json.loads((hashed / hashing.HASHES).read_bytes())
    for content in damaged((hashed / hashing.HASHES).read_bytes()):
        if content is None:
            continue
        (hashed / hashing.HASHES).write_bytes(content)
        try:
            hashing.check(hashed)
            assert json.loads(content) == hashes  # a space, or the line's end
        except ModelError as error:
            assert str(error).startswith(str(hashed))


def test_files_beside_the_hashed_ones_are_not_read(hashed: Path) -> None:
    (hashed / "training.json").write_text("of another model")
    (hashed / "code" / "__pycache__").mkdir()
    (hashed / "code" / "__pycache__" / "model.pyc").touch()
    hashing.check(hashed)
    assert set(hashing.read_checked(hashed, ["input.json", "training.json"])) == {"input.json", hashing.HASHES}


def test_a_folder_of_a_former_version_is_read_without_hashes(hashed: Path) -> None:
    (hashed / hashing.HASHES).unlink()
    hashing.check(hashed)
    assert hashing.read_checked(hashed, ["input.json", "none.json"]) == {"input.json": b'{"crop": "none"}'}
