"""Where the classes are in the layouts of published data sets, and in those that people make."""

import cProfile
import io
import pstats
import sys
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from unittest.mock import patch

import pytest

from gemmodel import cli
from gemmodel.core.errors import DataError
from gemmodel.core.image_folder import class_names
from scraper import layout, local_photos, name_labels

JPEG = b"\xff\xd8\xff"  # the layout is recognised without reading a photo


def files(pattern: str, *names: str, count: int = 3) -> list[str]:
    return [f"{pattern.format(name)}/{i}.jpg" for name in names for i in range(count)]


def write(folder: Path, names: Sequence[str], bodies: dict[str, bytes] | None = None) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((bodies or {}).get(name, JPEG))
    return folder


def packed(names: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, JPEG)
    return buffer.getvalue()


def by_part(names: Sequence[str]) -> dict[str, set[str]]:
    places, _ = layout.recognise([PurePosixPath(name) for name in names])
    parts: dict[str, set[str]] = {}
    for place in places:
        if place.gem:
            parts.setdefault(place.part or "", set()).add(place.gem)
    return parts


PETS, GEMS = {"cats", "dogs"}, {"Ruby", "Opal", "Topaz"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (files("dataset/training_set/{}", *PETS) + files("dataset/test_set/{}", *PETS), {"train": PETS, "test": PETS}),
        ([*files("seg_train/seg_train/{}", *GEMS), *files("seg_test/seg_test/{}", *GEMS), "seg_pred/seg_pred/1.jpg"],
         {"train": GEMS, "test": GEMS}),
        (files("Train/{}", *PETS) + files("Validation Set/{}", *PETS), {"train": PETS, "val": PETS}),
        (files("train_images/{}", *GEMS) + files("testImages/{}", *GEMS), {"train": GEMS, "test": GEMS}),
        (files("train/images/{}", *GEMS) + files("val/images/{}", *GEMS), {"train": GEMS, "val": GEMS}),
        (files("part1/{}", *PETS) + files("part2/{}", *PETS), {"part1": PETS, "part2": PETS}),
        (files("2019/{}", *GEMS) + files("2020/{}", "Ruby", "Opal"), {"2019": GEMS, "2020": {"Ruby", "Opal"}}),
        (files("lote_a/{}", *GEMS) + files("lote_b/{}", *GEMS), {"lote_a": GEMS, "lote_b": GEMS}),
        (files("train/{}", *GEMS) + files("{}", "test", count=10), {"train": GEMS}),
        (files("train/{}", *GEMS) + files("{}", "Ruby", "unknown"), {"train": GEMS, "": {"Ruby"}}),
        (files("gems/{}", *GEMS), {"": GEMS}),
        (files("a/b/c/{}", *GEMS), {"": GEMS}),
        ([*files("gems/{}", *GEMS), "gems/cover.jpg", "contents.png"], {"": GEMS}),
        (files("{}/front", *GEMS) + files("{}/back", *GEMS), {"": GEMS}),
        (files("Beryl/{}", "Emerald", "Morganite") + files("Corundum/{}", *GEMS), {"": {"Beryl", "Corundum"}}),
        (files("{}", "Test", "Ruby"), {"": {"Test", "Ruby"}}),
        (files("{}", "train", "test"), {}),
        (files("{}/images", *GEMS) + files("{}/masks", *GEMS), {"": GEMS}),
        (files("{}", "images", "masks"), {}),
        (files("{}", "1", "2", "10"), {"": {"1", "2", "10"}}),
        (files("{}/a", "1", "2", "10") + files("{}/b", "1", "2", "10"), {"": {"1", "2", "10"}}),
        ([name for i in range(5) for name in files(f"fold_{i}/{{}}", *PETS)], {f"fold_{i}": PETS for i in range(5)}),
        ([name for i in range(4) for name in files(f"eye {i}/{{}}", *PETS)], {f"eye {i}": PETS for i in range(4)}),
        (files("entrenamiento/{}", *PETS) + files("prueba/{}", *PETS), {"train": PETS, "test": PETS}),
        (files("{}", "ham_part_1", "ham_part_2"), {}),
        (files("{}/train", "Ruby", "Opal") + files("{}/test", "Ruby", "Opal"),
         {"train": {"Ruby", "Opal"}, "test": {"Ruby", "Opal"}}),
        (files("{}", "with_mask", "without_mask"), {"": {"with_mask", "without_mask"}}),
        (files("trainingset/{}", *PETS) + files("testingset/{}", *PETS), {"train": PETS, "test": PETS}),
        (files("{}", "Ruby", "Opal", "images"), {"": {"Ruby", "Opal"}}),
        (files("VOC/{}", "JPEGImages", "SegmentationClass"), {}),
        (files("{0}-20240101T101010Z-001/{0}", "Ruby", "Opal") + files("Ruby-20240101T101010Z-002/{}", "Ruby"),
         {"": {"Ruby", "Opal"}}),
        (files("Original Dataset/{}", *PETS) + files("Augmented Dataset/{}", *PETS),
         {"Original Dataset": PETS, "Augmented Dataset": PETS}),
        (files("x/train/{}", *PETS) + files("x/test/{}", *PETS) + files("x/x/train/{}", *PETS)
         + ["x/x/test/cats/1.jpg"], {"train": PETS, "test": PETS}),
    ],
)  # fmt: skip
def test_classes_and_parts_are_recognised(names: list[str], expected: dict[str, set[str]]) -> None:
    assert by_part(names) == expected


def test_an_ambiguous_layout_is_reported_with_the_remedy() -> None:
    names = files("front/{}", *GEMS) + files("back/{}", *GEMS)
    paths = [PurePosixPath(name) for name in names]
    places, guesses = layout.recognise(paths)
    assert {place.gem for place in places} == GEMS
    assert len(guesses) == 1
    assert "crawl.class_level: 1" in guesses[0]
    for level, expected in ((1, {"front", "back"}), (2, GEMS)):
        places, guesses = layout.recognise(paths, level=level)
        assert ({place.gem for place in places}, guesses) == (expected, [])


def test_inspect_takes_the_class_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, files("front/{}", *PETS) + files("back/{}", *PETS))
    inner = ["    cats/  3", "    dogs/  3"]
    for level, expected in (("1", ["back/  6", "front/  6"]), ("2", ["back/  6", *inner, "front/  6", *inner])):
        with patch.object(sys, "argv", ["gemmodel", "inspect", str(tmp_path), "--class-level", level]):
            cli.main()
        assert capsys.readouterr().out.splitlines() == [*expected, "12 photos of 2 classes"]


def test_every_photo_is_taken_or_left_out_with_a_reason(tmp_path: Path) -> None:
    names = [*files("train/{}", *GEMS), *files("{}", "test", count=10), "cover.png", "train/Ruby/notes.txt",
             "train/Ruby/._0.jpg", "train/__MACOSX/x.jpg", "train/Opal/raw.rar"]  # fmt: skip
    lines = local_photos.describe(write(tmp_path, names))
    assert lines == [
        "train/  9",
        "    Opal/  3",
        "    Ruby/  3",
        "    Topaz/  3",
        "9 photos of 3 classes",
        "left out: 1 x a file of the operating system or of a tool: train/__MACOSX",
        "left out: 1 x an archive; unpack it beside the photos: train/Opal/raw.rar",
        "left out: 10 x photo of a part without class folders: test/0.jpg, test/1.jpg, test/2.jpg, ...",
        "left out: 1 x photo outside a class folder: cover.png",
        "left out: 1 x a file of the operating system or of a tool",
        "left out: 1 x file that ends in .txt",
    ]


def test_linked_and_dotted_class_folders_are_classes(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", files("{}", "Ruby"))
    source = write(tmp_path / "photos", files("{}", ".925 silver", "Opal"))
    (source / "Ruby").symlink_to(tmp_path / "elsewhere" / "Ruby")
    (source / "Opal" / "again").symlink_to(source)
    lines = local_photos.describe(source)
    assert lines[:4] == [".925 silver/  3", "Opal/  3", "Ruby/  3", "9 photos of 3 classes"]
    assert lines[4:] == ["left out: 1 x a link to a folder above it: Opal/again"]


@pytest.mark.parametrize(
    "archives",
    [
        {"Ruby.zip": packed(["1.jpg", "2.jpg"]), "Opal.zip": packed(["1.jpg"])},
        {"Ruby.zip": packed(["Ruby/1.jpg", "Ruby/2.jpg"]), "Opal.zip": packed(["Opal/1.jpg"])},
        {"Ruby.zip": packed(["images/1.jpg", "images/2.jpg"]), "Opal.zip": packed(["images/1.jpg"])},
    ],
)
@pytest.mark.parametrize("outer", ["folder", "archive", "train"])
def test_an_archive_for_each_class(tmp_path: Path, archives: dict[str, bytes], outer: str) -> None:
    source = tmp_path / "photos"
    if outer == "archive":
        source = source.with_suffix(".zip")
        with zipfile.ZipFile(source, "w") as archive:
            for name, body in archives.items():
                archive.writestr(f"gems/{name}", body)
    else:
        folder = "train/" if outer == "train" else ""
        write(source, [folder + name for name in archives], {folder + name: body for name, body in archives.items()})
    lines = local_photos.describe(source)
    assert [line.strip() for line in lines if not line.startswith("train")] == [
        "Opal/  1", "Ruby/  2", "3 photos of 2 classes"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "table",
    [
        "file,label\n{0}.jpg,Ruby\n{1}.jpg,Opal\n{2}.jpg,Ruby\n{3}.jpg,Opal\n",
        "id;breed;width\n{0};Ruby;20\n{1};Opal;21\n{2};Ruby;22\n{3};Opal;20\n",
        "\ufefflabel\tpath\nRuby\timages/{0}.jpg\nOpal\timages/{1}.jpg\nRuby\timages/{2}.jpg\nOpal\timages\\{3}.jpg\n",
        "url,class\nhttps://x.example/a/{0}.jpg,Ruby\nC:\\b\\{1}.jpg,Opal\n/c/{2}.jpg,Ruby\n{3}.jpg,Opal\n",
        "index,label_source,file,label,label_name\n3,a,{0}.jpg,1,Ruby\n2,b,{1}.jpg,2,Opal\n"
        "1,a,{2}.jpg,1,Ruby\n0,b,{3}.jpg,2,Opal\n",
        "image_id,mask,label\n{0},{0}_m.png,Ruby\n{1},{1}_m.png,Opal\n{2},{2}_m.png,Ruby\n{3},{3}_m.png,Opal\n",
        "image_id,what\n{0},Ruby\n{1},Opal\n{2},Ruby\n{3},Opal\n",
    ],
)
def test_labels_are_read_from_a_table(tmp_path: Path, table: str) -> None:
    photos = [f"images/IMG_{i}.jpg" for i in range(5)]
    text = table.format(*(f"IMG_{i}" for i in range(4)))
    source = write(tmp_path, [*photos, "labels.csv"], {"labels.csv": text.encode()})
    lines = local_photos.describe(source)
    assert lines[:3] == ["Opal/  2", "Ruby/  2", "4 photos of 2 classes"]
    assert "guessed: labels of 4 photos are from labels.csv" in lines
    assert "left out: 1 x photo without a label: images/IMG_4.jpg" in lines


def test_tables_that_are_no_labels_leave_the_folders_as_classes(tmp_path: Path) -> None:
    names = files("{}", *GEMS)
    rows = "".join(f"{name},{i % 2}\n" for i, name in enumerate(names))
    numbers = "".join(f"{name},{i // 3}\n" for i, name in enumerate(names))  # of the folders
    bodies = {
        "sizes.csv": f"file,width\n{rows}".encode(),
        "other.csv": b"a,b\n1,2\n3,4\n",
        "labels.csv": f"file,label\n{numbers}".encode(),
        "sample_submission.csv": f"file,label\n{rows}".encode(),
    }
    lines = local_photos.describe(write(tmp_path, [*names, *bodies], bodies))
    assert lines[3] == "9 photos of 3 classes"
    assert not any("labels of" in line for line in lines)


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    bodies = {"labels.csv": b"file,label\n1.jpg," + b"x" * 200_000, "more.csv": b"file,label\n1.jpg,Ruby,big\n2.jpg\n"}
    lines = local_photos.describe(write(tmp_path, [*files("{}", *GEMS), *bodies], bodies))
    assert "9 photos of 3 classes" in lines
    assert any(line.startswith("guessed: labels.csv: not read: ") for line in lines)
    assert any(line.startswith("guessed: more.csv: 2 rows are not read: ") for line in lines)


def test_a_table_without_a_column_of_labels_is_named(tmp_path: Path) -> None:
    photos = [f"{i}.jpg" for i in range(8)]
    table = "file,colour,cut\n" + "".join(
        f"{i}.jpg,{'red' if i % 2 else 'blue'},{'oval' if i < 4 else 'round'}\n" for i in range(8)
    )
    lines = local_photos.describe(write(tmp_path, [*photos, "gems.csv"], {"gems.csv": table.encode()}))
    assert any("gems.csv" in line and "colour, cut" in line for line in lines)


def test_the_tables_of_this_project_are_no_labels(tmp_path: Path) -> None:
    """Nor are they files that a user is asked to rewrite; in a class folder they are files like others."""
    bodies = {
        "corrections.csv": b"photo,gem\nRuby/0.jpg,Opal\ncover.jpg,Topaz\n",
        "test_list.txt": b"Ruby/0.jpg\nOpal/1.jpg\n",
        "hierarchy.yaml": b"Ruby: Corundum\n",
        "Ruby/hierarchy.yaml": b"",
    }
    lines = local_photos.describe(write(tmp_path, [*files("{}", *GEMS), "cover.jpg", *bodies], bodies))
    assert lines[3:] == [
        "9 photos of 3 classes",
        "left out: 1 x photo outside a class folder: cover.jpg",
        "left out: 3 x a file of this project",
        f"left out: 1 x file that ends in .yaml (YAML, such as YOLO's classes), {local_photos.NOT_READ}",
    ]


def test_spellings_of_one_class_are_joined(tmp_path: Path) -> None:
    name = "Améthyste"
    decomposed = unicodedata.normalize("NFD", name)
    write(
        tmp_path, [*files("train/{}", name, "Ruby", "Star  Sapphire"), *files("test/{}", decomposed, "ruby ", count=2)]
    )
    write(tmp_path, files("test/{}", "star sapphire"))
    lines = local_photos.describe(tmp_path)
    assert "14 photos of 3 classes" not in lines
    assert "16 photos of 3 classes" in lines
    assert f"joined: {decomposed!r} is taken as {name}" in lines
    assert "joined: 'ruby ' is taken as Ruby" in lines
    assert class_names({"Ruby": 1, "ruby": 5, "RUBY\u200b": 1}) == {
        "Ruby": "ruby",
        "ruby": "ruby",
        "RUBY\u200b": "ruby",
    }


def test_a_source_without_classes_says_what_it_holds(tmp_path: Path, settings) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "photos", [*files("{}", "images", "masks"), "readme.txt"])
    params = settings({"crawl.source": "folder", "crawl.folder": str(tmp_path / "photos")}).crawl
    with pytest.raises(DataError, match=r"3 x a mask of another photo.*3 x photo outside a class folder.*CSV table"):
        local_photos.copy(params, tmp_path / "out")


def numbered(pattern: str, count: int = 3) -> list[str]:
    return [pattern.format(i) for i in range(count)]


@pytest.mark.parametrize(
    ("photos", "tables", "expected"),
    [
        (numbered("train/{}.jpg", 4) + numbered("valid/{}.jpg", 4),  # Roboflow
         {"train/_classes.csv": "filename, Ruby, Opal\n0.jpg, 1, 0\n1.jpg, 0, 1\n2.jpg, 1, 0\n3.jpg, 0, 0\n",
          "valid/_classes.csv": "filename, Ruby, Opal\n0.jpg, 1, 0\n1.jpg, 0, 1\n2.jpg, 1, 1\n"},
         ["train/  3", "Opal/  1", "Ruby/  2", "val/  2", "Opal/  1", "Ruby/  1", "5 photos of 2 classes",
          "guessed: labels of 6 photos are from the columns of train/_classes.csv, the columns of valid/_classes.csv",
          "left out: 1 x photo with two labels: valid/2.jpg",
          "left out: 2 x photo without a label: train/3.jpg, valid/3.jpg"]),
        (numbered("isic_{}.jpg"), {"truth.csv": "image,width,label_MEL,label_NV\nisic_0,20,1.0,0.0\nisic_1,21,0.0,1.0\n"
                                             "isic_2,22,0.0,1.0\n"},
         ["label_MEL/  1", "label_NV/  2", "3 photos of 2 classes",
          "guessed: labels of 3 photos are from the columns of truth.csv"]),
        (numbered("images/{}.jpg", 5), {"gems.csv": "0.jpg,Ruby\n1.jpg,Opal\n2.jpg,Ruby\n\n3.jpg,Opal,shiny\n4.jpg\n"},
         ["Opal/  1", "Ruby/  2", "3 photos of 2 classes",
          "guessed: gems.csv: 2 rows are not read: they have more or fewer cells than the first row (2)",
          "guessed: gems.csv: its first row names a photo, so it has no header",
          "guessed: labels of 3 photos are from gems.csv",
          "left out: 2 x photo without a label: images/3.jpg, images/4.jpg"]),
        (numbered("a b/{}.jpg"), {"train.txt": "a b/0.jpg 7\na b/1.jpg 8\na b/2.jpg 8\n"},  # Caffe
         ["7/  1", "8/  2", "3 photos of 2 classes",
          "guessed: train.txt: its first row names a photo, so it has no header",
          "guessed: labels of 3 photos are from train.txt"]),
        (numbered("train/n01440764/{}.JPEG") + numbered("train/n01443537/{}.JPEG") + numbered("val/{}.JPEG"),
         {"val.txt": "val/0.JPEG 65\nval/1.JPEG 970\nval/2.JPEG 65\n"},  # ImageNet
         ["train/  6", "n01440764/  3", "n01443537/  3", "6 photos of 2 classes",
          "guessed: val.txt: its first row names a photo, so it has no header",
          "guessed: val.txt: not used, since the folders name classes",
          "left out: 3 x photo of a part without class folders: val/0.JPEG, val/1.JPEG, val/2.JPEG",
          "left out: 1 x file that ends in .txt"]),
        (numbered("train/{}.png") + numbered("test/{}.png"),  # Hugging Face
         {f"{part}/metadata.jsonl": "".join(f'{{"file_name": "{i}.png", "label": "{gem}", "box": {{"x": 1}}}}\n'
                                            for i, gem in enumerate(("Ruby", "Opal", "Ruby")))
          for part in ("train", "test")},
         ["test/  3", "Opal/  1", "Ruby/  2", "train/  3", "Opal/  1", "Ruby/  2", "6 photos of 2 classes",
          "guessed: labels of 6 photos are from test/metadata.jsonl, train/metadata.jsonl"]),
        (numbered("photos/e\u0301_{}.jpg", 4), {"r.csv": '"file" "x"\n'.replace(" ", ",")
                                          + "".join(f'"{i}","é_{i}.jpg","{"ab"[i % 2]}"\n' for i in range(4))},  # R
         ["a/  2", "b/  2", "4 photos of 2 classes",
          "guessed: r.csv: its rows have a cell more than its header; the first was taken for their name",
          "guessed: r.csv: its column 'x' was taken for the labels",
          "guessed: labels of 4 photos are from r.csv"]),
        (numbered("train/{}.jpg", 5), {"train.csv":  # fastai
                                       "fname,labels,is_valid\n0.jpg,horse,True\n1.jpg,person,True\n"
                                       "2.jpg,horse person,True\n3.jpg,potted plant,True\n4.jpg,horse,True\n"},
         ["train/  4", "horse/  2", "person/  1", "potted plant/  1", "4 photos of 3 classes",
          "guessed: labels of 5 photos are from train.csv", "left out: 1 x photo with two labels: train/2.jpg"]),
        (numbered("jpg/{}.jpg", 12), {  # PaddlePaddle
            "train_list.txt": "".join(f"jpg/{i}.jpg {i % 2}\n" for i in range(8)),
            "test_list.txt": "".join(f"jpg/{i}.jpg {i % 2}\n" for i in range(8, 12)),
         },
         ["0/  6", "1/  6", "12 photos of 2 classes",
          "guessed: test_list.txt: its first row names a photo, so it has no header",
          "guessed: train_list.txt: its first row names a photo, so it has no header",
          "guessed: labels of 12 photos are from test_list.txt, train_list.txt"]),
        (numbered("train/a{}.jpg", 6) + numbered("val/b{}.jpg", 6), {"train.csv":
            "file,label,split\n" + "".join(f"a{i}.jpg,{i % 2},train\nb{i}.jpg,{i % 2},val\n" for i in range(6))},
         ["train/  6", "0/  3", "1/  3", "val/  6", "0/  3", "1/  3", "12 photos of 2 classes",
          "guessed: labels of 12 photos are from train.csv"]),
        (numbered("img/{}.jpg", 4), {"identity.txt": "".join(f"{i}.jpg {i % 2}\n" for i in range(4)), "attributes.txt":
                                     "4\nBald Male\n" + "".join(f"{i}.jpg -1  1\n" for i in range(4))},
         ["0/  2", "1/  2", "4 photos of 2 classes",  # CelebA
          "guessed: identity.txt: its first row names a photo, so it has no header",
          "guessed: labels of 4 photos are from identity.txt", "left out: 1 x file that ends in .txt"]),
        (numbered("jpg/image_{}.jpg"), {"imagelabels.mat": "", "annotations.json": "{}"},  # Oxford flowers, COCO
         ["0 photos of 0 classes", "left out: 3 x photo outside a class folder: jpg/image_0.jpg, jpg/image_1.jpg, "
          "jpg/image_2.jpg",
          f"left out: 1 x file that ends in .json (JSON, such as COCO's annotations), {local_photos.NOT_READ}",
          f"left out: 1 x file that ends in .mat (MATLAB), {local_photos.NOT_READ}"]),
    ],
)  # fmt: skip
def test_labels_of_published_data_sets(
    tmp_path: Path, photos: list[str], tables: dict[str, str], expected: list[str]
) -> None:
    source = write(tmp_path, [*photos, *tables], {name: text.encode() for name, text in tables.items()})
    assert [line.strip() for line in local_photos.describe(source)] == expected


def test_a_table_may_lie_beside_an_archive_of_its_photos(tmp_path: Path) -> None:
    rows = "".join(f"isic_{i},{'mel' if i % 2 else 'nv'}\n" for i in range(6))
    bodies = {
        "images_1.zip": packed(numbered("isic_{}.jpg", 3)),
        "images_2.zip": packed([f"isic_{i}.jpg" for i in (3, 4, 5)]),
        "metadata.csv": f"image_id,class\n{rows}".encode(),
    }
    lines = local_photos.describe(write(tmp_path, [*bodies], bodies))
    assert lines[:3] == ["mel/  3", "nv/  3", "6 photos of 2 classes"]
    assert not any("left out" in line for line in lines)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("train.csv", "{}.jpg"),
        ("train_labels.csv", "{}"),
        ("train/labels.csv", "{}.jpg"),
        ("labels.csv", "train/{}.jpg"),
        ("labels.csv", "/home/me/gems/train/{}.jpg"),
        ("test/labels.csv", "../train/{}.jpg"),
    ],
)
@pytest.mark.parametrize("train", ["train", "training_set"])
def test_a_row_of_a_deleted_photo_labels_none_of_another_part(tmp_path: Path, table: str, row: str, train: str) -> None:
    photos = [*numbered(f"{train}/{{}}.jpg", 5), "test/5.jpg"]
    text = "file,label\n" + "".join(f"{row.format(i)},{'ab'[i % 2]}\n" for i in range(6))
    source = write(tmp_path, [*photos, table.replace("train/", f"{train}/")], {})
    (source / table.replace("train/", f"{train}/")).write_text(text.replace("train/", f"{train}/"))
    lines = local_photos.describe(source)
    assert lines[:4] == ["train/  5", "    a/  3", "    b/  2", "5 photos of 2 classes"]
    assert "left out: 1 x photo without a label: test/5.jpg" in lines


def test_a_table_of_a_part_labels_no_photo_in_the_archive_of_another(tmp_path: Path) -> None:
    bodies = {
        "train.zip": packed(numbered("{}.jpg", 4)),
        "test.zip": packed(numbered("{}.jpg", 4)),
        "train.csv": b"file,label\n0.jpg,a\n1.jpg,b\n2.jpg,a\n3.jpg,b\n",
    }
    lines = local_photos.describe(write(tmp_path, [*bodies], bodies))
    assert lines[:4] == ["train/  4", "    a/  2", "    b/  2", "4 photos of 2 classes"]


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("labels.csv", "dataset/cam{}/{}.jpg"),
        ("labels.csv", "/home/me/gems/cam{}/{}.jpg"),
        ("labels.csv", "C:\\gems\\cam{}\\{}.jpg"),
        ("labels.csv", "https://x.example/cam{}/{}"),
        ("labels.csv", "./images/cam{}/{}.jpg"),
        ("tables/labels.csv", "../images/cam{}/{}.jpg"),
        ("tables/labels.csv", "images/cam{}/{}.jpg"),
        ("images/labels.csv", "cam{}/{}.jpg"),
    ],
)
def test_the_longest_common_end_of_a_path_names_the_photo(tmp_path: Path, table: str, row: str) -> None:
    photos = [name for i in (1, 2) for name in numbered(f"images/cam{i}/{{}}.jpg", 4)]
    rows = [f"{row.format(i, j)},{'Ruby' if i + j < 4 else 'Opal'}\n" for i in (1, 2) for j in range(4)]
    bodies = {table: f"file,label\n{''.join(rows)}".encode()}
    lines = local_photos.describe(write(tmp_path, [*photos, *bodies], bodies))
    assert lines[:3] == ["Opal/  3", "Ruby/  5", "8 photos of 2 classes"]
    other = "old/images/cam1/0.jpg"
    lines = local_photos.describe(write(tmp_path, [other]))
    if "images" in table + row:
        assert lines[:3] == ["Opal/  3", "Ruby/  5", "8 photos of 2 classes"]
        assert f"left out: 1 x photo without a label: {other}" in lines
    else:  # either of both may be meant
        assert f"left out: 2 x photo without a label: images/cam1/0.jpg, {other}" in lines


@pytest.mark.parametrize("row", ["{}.jpg", "cam/{}.jpg", "gone_{}.jpg"])
def test_a_table_whose_names_match_no_photo_or_several_is_named(tmp_path: Path, row: str) -> None:
    photos = [name for folder in ("cam1", "cam2") for name in numbered(f"{folder}/{{}}.jpg", 4)]
    text = "file,label\n" + "".join(f"{row.format(i)},{'ab'[i % 2]}\n" for i in range(4))
    lines = local_photos.describe(write(tmp_path, [*photos, "labels.csv"], {"labels.csv": text.encode()}))
    assert lines[2] == "8 photos of 2 classes"
    assert "guessed: labels.csv: not used: most of its names match no photo, or several" in lines


def test_a_table_of_many_columns_is_read_in_time(tmp_path: Path) -> None:
    header = ",".join(["file", "label", *map(str, range(5000))])
    rows = "".join(f"{i}.jpg,{'ab'[i % 2]},{','.join(['0.5'] * 5000)}\n" for i in range(200))
    source = write(tmp_path, [*numbered("{}.jpg", 200), "t.csv"], {"t.csv": f"{header}\n{rows}".encode()})
    profile = cProfile.Profile()
    assert profile.runcall(local_photos.describe, source)[2] == "200 photos of 2 classes"
    assert pstats.Stats(profile).total_calls < 200 * 5000  # of functions, fewer than the table has cells


@pytest.mark.parametrize(
    ("photos", "expected"),
    [
        (numbered("train/cat.{}.jpg") + numbered("train/dog.{}.jpg") + numbered("test1/{}.jpg"),
         {"train": {"cat", "dog"}}),
        (numbered("ruby_{:03}.jpg") + numbered("Ruby (1{}).JPG") + numbered("star sapphire-{}.png"),
         {"": {"ruby", "Ruby", "star sapphire"}}),
        (numbered("images/abyssinian-{}.jpg") + numbered("images/great_pyrenees_{}.jpg"),
         {"": {"abyssinian", "great_pyrenees"}}),
        (numbered("IMG_{}.jpg") + numbered("DSC_{}.jpg"), {}),
        (numbered("ruby_{}.jpg") + numbered("opal_{}.jpg") + ["IMG_1.jpg"], {}),
        (numbered("ruby_{}.jpg") + numbered("opal_{}.jpg") + ["cover.jpg"], {}),
        (numbered("Train_{}.jpg") + numbered("Test_{}.jpg"), {}),
        (numbered("ruby_{}.jpg"), {}),
        ([*numbered("ruby_{}.jpg"), "opal_1.jpg"], {}),
        (numbered("Ruby/front_{}.jpg") + numbered("Ruby/back_{}.jpg"), {"": {"Ruby"}}),
        (numbered("ruby_{}_2020.jpg") + numbered("opal_{}_2020.jpg"), {}),
    ],
)  # fmt: skip
def test_labels_in_the_names_of_photos(tmp_path: Path, photos: list[str], expected: dict[str, set[str]]) -> None:
    paths = [PurePosixPath(name) for name in photos]
    assignments, guesses = name_labels.read(paths, layout.recognise(paths)[0])
    parts: dict[str, set[str]] = {}
    for assignment in assignments:
        if assignment.gem:
            parts.setdefault(assignment.part or "", set()).add(assignment.gem)
    assert parts == expected
    assert bool(guesses) is bool(expected)
    if guesses and "Ruby/" in photos[0]:  # a class folder wins
        assert "is taken as one class" in guesses[0]
    elif guesses:
        assert any("file names" in line for line in local_photos.describe(write(tmp_path, photos)))
        assert not any("file names" in line for line in local_photos.describe(tmp_path, level=1))
