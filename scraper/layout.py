"""Where the classes are in a tree of photos: recognised by its shape, with names as a help."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from gemmodel.core.image_folder import class_key

PARTS = {  # words of folders' names, in some languages; the last kind keeps the folder's name
    "train": {
        "train", "training", "trainset", "trainingset", "traindata", "trn", "entrenamiento", "treino", "treinamento",
        "entrainement", "apprentissage", "addestramento", "обучение", "训练", "訓練", "学習",
    },
    "val": {
        "val", "valid", "validation", "valset", "validationset", "dev", "validacion", "validación",
        "validacao", "validação", "validierung", "convalida", "валидация", "验证", "検証",
    },
    "test": {
        "test", "tests", "testing", "testset", "testingset", "testdata", "eval", "evaluation", "holdout", "prueba",
        "pruebas", "teste", "тест", "测试", "テスト",
    },
    "unlabelled": {"pred", "predict", "prediction", "unlabeled", "unlabelled", "submission"},
    "part": {"part", "parts", "fold", "batch", "chunk", "shard", "lot", "original", "augmented"},
}  # fmt: skip
MASKS = {"mask", "masks", "segmentation", "segmentations", "annotation", "annotations", "groundtruth", "gt", "trimaps"}
NO_NAMES = {
    "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "jpg", "jpeg", "png", "data", "all",
}  # fmt: skip
MAX_DEPTH = 100  # of folders that are looked at; those below belong to the class
OUTSIDE = "photo outside a class folder"
UNLABELLED = "photo of a part without class folders"
MASK = "a mask of another photo"


@dataclass(frozen=True)
class Assignment:
    """The class and part of a photo.

    Attributes:
        gem: the name of its class; None for a photo of no class.
        part: `train`, `val`, `test` or the name of the publisher's folder; None where there are no parts.
        path: the path within its class.
        reason: why it has no class.
    """

    gem: str | None
    path: tuple[str, ...]
    part: str | None = None
    reason: str | None = None


@dataclass
class _Folder:
    photos: list[int] = field(default_factory=list)
    folders: dict[str, "_Folder"] = field(default_factory=dict)

    def all_photos(self) -> list[int]:
        return self.photos + [i for folder in self.folders.values() for i in folder.all_photos()]

    @property
    def has_classes(self) -> bool:
        """Whether most of its photos lie in folders below it."""
        return len(self.all_photos()) > 2 * len(self.photos)


def words_of(name: str) -> set[str]:
    """Returns the words of a name such as `SegTrain` or `jpg_256`, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+", name)}


def is_no_name(name: str) -> bool:
    """Returns whether a folder's name says only that photos are in it: `images`, `JPEGImages`, `png_256`."""
    return bool(words := words_of(name)) and words <= NO_NAMES


def part_name(name: str) -> str | None:
    """Returns `train`, `val`, `test` or `unlabelled` for names such as `training_set`, `SegTrain`, `Validation Set`.

    A numbered part such as `fold_3` is its own name; any other name is None.
    """
    words = words_of(name)
    kind = next((part for part, names in PARTS.items() if words & names), None)
    return name if kind == "part" else kind


def part_kinds(*names: str) -> set[str]:
    """Returns which of `train`, `val`, `test` and `unlabelled` names have a word of: both for `train_val`."""
    words = {word for name in names for word in words_of(name)}
    return {kind for kind, kind_words in PARTS.items() if kind != "part" and words & kind_words}


def recognise(
    paths: Sequence[PurePosixPath], *, name: str | None = None, level: int = 0
) -> tuple[list[Assignment], list[str]]:
    """Finds the class folder of each photo.

    Folders around all photos are passed over, and so are folders in which one photo or few lie beside the folders of
    classes. Then folders that hold folders of the same names are parts of a data set, such as train and test: by their
    names, or where each of them has more folders than there are of them. Any other folder is a class, with all that
    lies below it.

    Args:
        paths: of the photos.
        name: of the archive that the photos are in; the class of photos that lie in no folder.
        level: the depth of the class folders, from 1; 0: they are recognised.

    Returns:
        The assignment of each photo, and what was guessed, as sentences.
    """
    root = _Folder()
    for i, path in enumerate(paths):
        folder = root
        for name_of_folder in path.parts[:-1][:MAX_DEPTH]:
            folder = folder.folders.setdefault(name_of_folder, _Folder())
        folder.photos.append(i)
    assignments: dict[int, Assignment] = {}
    _take_masks(root, paths, assignments)
    guesses: list[str] = []
    class_folders = _at_level(root, level) if level else list(_classes(root, name, guesses))
    for gem, part, class_folder, depth in class_folders:
        for i in class_folder.all_photos():
            inner = paths[i].parts[depth:]
            inside = next(filter(None, map(part_name, inner[:-1])), None)
            publisher = (part_name(part) or part) if part else inside
            assignments[i] = Assignment(gem, (part, *inner) if part else inner, publisher)
    for i, path in enumerate(paths):
        reason = UNLABELLED if any(map(part_name, path.parts[:-1])) else OUTSIDE
        assignments.setdefault(i, Assignment(None, path.parts, reason=reason))
    return [assignments[i] for i in range(len(paths))], guesses


ClassFolder = tuple[str, str | None, _Folder, int]  # a class, its part, its folder, and the folder's depth


def _classes(root: _Folder, name: str | None, guesses: list[str]) -> Iterator[ClassFolder]:
    node, above = root, list[str]()
    while len(node.folders) == 1 and next(iter(node.folders.values())).has_classes:
        folder_name, node = next(iter(node.folders.items()))
        above.append(folder_name)
    outer = next((folder for folder in (*above[::-1], name or "") if part_name(folder)), None)
    if len(node.folders) == 1 and is_no_name(next(iter(node.folders))):
        above += node.folders
        node = node.folders[above[-1]]
    if not node.folders:
        if name and node.photos and not part_name(name) and not is_no_name(name):
            yield name, outer, node, len(above)
        return
    inner = {folder_name: _unwrapped(folder) for folder_name, folder in node.folders.items()}
    nested = {folder_name: unwrapped for folder_name, unwrapped in inner.items() if unwrapped[0].has_classes}
    if not _are_parts(nested, guesses):
        if not all(map(part_name, node.folders)):
            for folder_name, folder in node.folders.items():
                if not is_no_name(folder_name):
                    yield _download(folder_name, outer, folder, len(above) + 1)
        return
    parts = {name: nested[name] for name in nested if part_name(name)} or nested
    keys = {class_key(gem) for folder, _ in parts.values() for gem in folder.folders}
    for folder_name, (folder, depth) in inner.items():
        if folder_name in parts or keys & {class_key(gem) for gem in folder.folders}:
            for gem, class_folder in folder.folders.items():
                yield gem, folder_name, class_folder, len(above) + 1 + depth + 1
        elif class_key(folder_name) in keys:
            yield folder_name, None, folder, len(above) + 1


def _download(name: str, part: str | None, folder: _Folder, depth: int) -> ClassFolder:
    """Returns a class folder; of `Ruby-20240101T101010Z-001/Ruby`, as Google Drive packs it, the inner one."""
    inner, class_folder = next(iter(folder.folders.items()), ("", folder))
    if inner and len(folder.folders) == 1 and not folder.photos and re.match(rf"{re.escape(inner)}-\d{{8}}T", name):
        return inner, part, class_folder, depth + 1
    return name, part, folder, depth


def _are_parts(nested: dict[str, tuple[_Folder, int]], guesses: list[str]) -> bool:
    """Returns whether folders that hold folders are parts of a data set, and not classes."""
    if not nested:
        return False
    named = {part_name(name) for name in nested} - {None}
    if len(named) > 1 or all(map(part_name, nested)):
        return True
    uses = Counter(class_key(gem) for folder, _ in nested.values() for gem in folder.folders)
    shared = sorted(gem for gem, count in uses.items() if count > 1)
    if shared and all(map(part_name, shared)):  # train and test in each class
        return False
    if len(nested) < 2 or 2 * len(shared) < len(uses):
        return False
    numbered = len({re.sub(r"\d+", "", name) for name in nested}) == 1 and not all(map(str.isdigit, nested))
    years = all(re.fullmatch(r"(19|20)\d\d", name) for name in nested)
    are_parts = len(uses) > len(nested) or bool(named) or numbered or years
    first, second = ", ".join(sorted(nested)[:5]), ", ".join(shared[:5])
    kind = f"{first} are parts of the data set, {second} classes" if are_parts else f"{first} are classes"
    other = "crawl.class_level: 1 takes the outer folders" if are_parts else "crawl.class_level: 2 takes the inner ones"
    guesses.append(f"folders of the same names lie in several folders; taken as: {kind}. {other} as classes")
    return are_parts


def _unwrapped(folder: _Folder) -> tuple[_Folder, int]:
    """Returns the innermost folder around all photos of a folder that is no class, and how much deeper it lies."""
    depth = 0
    while len(folder.folders) == 1 and not folder.photos:
        ((name, inner),) = folder.folders.items()
        if not inner.folders and not part_name(name) and not is_no_name(name):
            break
        folder = inner
        depth += 1
    return folder, depth


def _at_level(folder: _Folder, level: int, above: tuple[str, ...] = ()) -> list[ClassFolder]:
    if len(above) == level:
        return [(above[-1], "/".join(above[:-1]) or None, folder, level)]
    return [found for name, inner in folder.folders.items() for found in _at_level(inner, level, (*above, name))]


def _take_masks(folder: _Folder, paths: Sequence[PurePosixPath], assignments: dict[int, Assignment]) -> None:
    """Removes folders of masks, which are named so and hold files of the same names as a folder beside them."""
    stems = {name: {_stem(paths[i]) for i in inner.all_photos()} for name, inner in folder.folders.items()}
    for name in list(folder.folders):
        if _is_mask_name(name) and any(
            not _is_mask_name(other)  # with_mask and without_mask are classes
            and len(stems[name] & stems[other]) > 0.5 * len(stems[name])
            for other in folder.folders
        ):
            assignments |= {
                i: Assignment(None, paths[i].parts, reason=MASK) for i in folder.folders.pop(name).all_photos()
            }
    for inner in folder.folders.values():
        _take_masks(inner, paths, assignments)


def _is_mask_name(name: str) -> bool:
    return not MASKS.isdisjoint(words_of(name))


def _stem(path: PurePosixPath) -> str:
    return re.sub(r"[\W_]*(mask|masks|seg|segmentation|label|gt|annotation)$", "", path.stem.lower())
