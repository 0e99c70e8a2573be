"""Training, validation and test part, by split-folders, and the folds of cross-validation."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import splitfolders
from sklearn.model_selection import StratifiedKFold

from gemmodel.data import folders
from gemmodel.errors import DataError, ParameterError
from gemmodel.params import SplitParams

FATES = ("stood_for", "set_aside", "vanished")  # of listed photos that are not there as they were
TEST_LIST_HEAD = (
    "# SHA-256 of a raw photo, a tab, its path: the photos that stay the test part. See `gemmodel keep-test`.\n"
)


def split(clean: Path, parts: Mapping[str, Path], folds_file: Path, params: SplitParams) -> dict[str, Any]:
    """Deals the photos of each class out to the parts, in the shares that the parameters give.

    The photos of the test list make up the test part of their classes, whose other photos are dealt out to train and
    val; a class without a photo on the list is dealt out to all three.

    Args:
        clean: a folder a class, with the `manifest.jsonl` of cleaning.
        parts: where `train`, `val` and `test` shall appear, a folder a class each.
        folds_file: becomes a table of the photos of train and val with their folds.
        params: shares, seed, and what is done with small and large classes.

    Returns:
        The report: `photos` by part, `classes` with theirs by part, `dropped` classes with their photos, the photos
        `left_out` of train by class, and what `kept_test` tells.

    Raises:
        ParameterError: the shares do not add up to 1, or there are more folds than photos in any class.
        DataError: there is one class only, or one so small that a part would get none of its photos.
    """
    shares = (params.train, params.val, params.test)
    if abs(sum(shares) - 1) > 1e-6:
        raise ParameterError(f"split.train + split.val + split.test is {sum(shares):g}; it must be 1")
    found = folders.photos(clean)
    test, kept = kept_test(clean, Path(params.keep_test))
    listed = Counter(name.split("/")[0] for name in test)
    small = {name: len(paths) for name, paths in found.items() if min(_sizes(len(paths), listed[name], params)) < 1}
    if small and params.small_classes == "refuse":
        name, number = next(iter(small.items()))
        raise DataError(
            f"{clean / name}: {number} photos are too few for shares of {params.train:g}, {params.val:g} and "
            f"{params.test:g}{f' with {listed[name]} of them kept for test' if listed[name] else ''}; add photos, "
            "leave the gem out with crawl.only, set split.small_classes to drop, or change the shares in split"
        )
    for name in small:
        del found[name]
    if len(found) < 2:
        raise DataError(
            f"{clean}: {', '.join(found) or 'none'} is the only class with enough photos; a classifier needs two, a "
            "folder of photos each"
        )
    with folders.scratch(parts["train"].parent / ".dealing") as beside:
        dealt = _deal(clean, found, test, beside, params)
        left_out = _undersample(dealt / "train", params)
        _write_folds(dealt, folds_file, params)
        counts = {part: {name: len(paths) for name, paths in folders.photos(dealt / part).items()} for part in parts}
        for part, target in parts.items():
            with folders.replacing(target) as new:
                (dealt / part).rename(new)
    if test:
        kept["new_classes"] = [name for name in found if not listed[name]]
    return {
        "photos": {part: sum(by_class.values()) for part, by_class in counts.items()},
        "classes": {name: {part: counts[part][name] for part in parts} for name in found},
        "dropped": small,
        "left_out": left_out,
        "kept_test": kept,
    }


def told(report: Mapping[str, Any]) -> str:
    """Returns what `split` did beyond the ordinary, in words, or nothing."""
    kept = report["kept_test"]
    notes = [f"dropped {name} ({number} photos)" for name, number in report["dropped"].items()]
    if report["left_out"]:
        notes.append(f"{sum(report['left_out'].values())} left out of train by split.most_per_class")
    if kept["listed"]:
        fates = ", ".join(f"{len(kept[fate])} {fate.replace('_', ' ')}" for fate in FATES if kept[fate])
        notes.append(f"{kept['listed']} listed for test{f' ({fates})' if fates else ''}")
    return "".join(f"; {note}" for note in notes)


def kept_test(clean: Path, test_list: Path) -> tuple[set[str], dict[str, Any]]:
    """Finds the photos that a test list names in a clean folder.

    A listed photo that was set aside as a copy of another, since that came in, is stood for by the other one: what
    was tested on must not be trained on.

    Args:
        clean: holds the `manifest.jsonl` of cleaning.
        test_list: one line a photo, the SHA-256 of its raw file, a tab, and its path; `#` begins a comment.

    Returns:
        The photos' paths within the clean folder, and the report: how many are `listed`, and the raw paths of those
        that a copy `stood_for`, that are `set_aside` without one, and that have `vanished`.

    Raises:
        DataError: the list does not exist, or holds a line of another form.
    """
    listed = read_test_list(test_list)
    by_hash = defaultdict(list)
    paths = {}
    for row in folders.read_lines(clean / "manifest.jsonl") if listed else ():
        by_hash[row["sha256"]].append(row)
        if "path" in row:
            paths[row["source"]] = row["path"]
    test: set[str] = set()
    fates: dict[str, list[str]] = {fate: [] for fate in FATES}
    for sha256, name in listed.items():
        rows = by_hash[sha256]
        own = {row["path"] for row in rows if "path" in row}
        copies = {paths[twin] for row in rows for twin in row.get("twins", ()) if twin in paths}
        if not own:
            fates["stood_for" if copies else "set_aside" if rows else "vanished"].append(name)
        test |= own or copies
    return test, {"listed": len(listed), **fates}


def read_test_list(path: Path) -> dict[str, str]:
    """Returns the raw paths on a test list by their SHA-256; see `kept_test`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; split.keep_test names a list, an empty one to begin with") from None
    listed = {}
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            sha256, tab, name = line.partition("\t")
            if len(sha256) != 64 or not tab:
                raise DataError(f"{path}:{number}: no SHA-256, tab and path; `gemmodel keep-test` writes such lines")
            listed[sha256] = name
    return listed


def write_test_list(test: Path, clean: Path, out: Path) -> int:
    """Writes the list of the photos that make up a test part; see `kept_test`.

    Args:
        test: the test part, a folder a class.
        clean: what it was split from.
        out: the list; an older one is replaced.

    Returns:
        The number of photos.

    Raises:
        DataError: a photo of the test part is not in the clean folder.
    """
    rows = {row["path"]: row for row in folders.read_lines(clean / "manifest.jsonl") if "path" in row}
    names = [path.relative_to(test).as_posix() for paths in folders.photos(test).values() for path in paths]
    if strange := [name for name in names if name not in rows]:
        raise DataError(f"{test / strange[0]}: not in {clean / 'manifest.jsonl'}; run `dvc repro split` first")
    lines = sorted((rows[name]["source"], rows[name]["sha256"]) for name in names)
    with folders.replacing(out) as new:
        new.write_text(TEST_LIST_HEAD + "".join(f"{sha256}\t{source}\n" for source, sha256 in lines), encoding="utf-8")
    return len(lines)


def folds(labels: Sequence[Any] | np.ndarray, k: int, seed: int) -> np.ndarray:
    """Deals photos out to the folds of a stratified cross-validation.

    Args:
        labels: the class of each photo, shape (photos,).
        k: the number of folds.
        seed: of the dealing.

    Returns:
        The fold, from 0, in which each photo is validated: int array of shape (photos,). A class of fewer than k
        photos is missing from some.

    Raises:
        ParameterError: no class has k photos.
    """
    labels = np.asarray(labels)
    if k > (most := np.unique(labels, return_counts=True)[1].max()):
        raise ParameterError(f"split.folds is {k}; the largest class has {most} photos in train and val; lower it")
    fold = np.empty(len(labels), int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        dealt = StratifiedKFold(k, shuffle=True, random_state=seed).split(labels, labels)
        for number, (_, validated) in enumerate(dealt):
            fold[validated] = number
    return fold


def _sizes(photos: int, listed: int, params: SplitParams) -> tuple[int, int, int]:
    """Returns how many photos of a class each part gets."""
    if listed:
        train = int(_train_of_two(params) * (photos - listed))
        return train, photos - listed - train, listed
    train, val = int(params.train * photos), int(params.val * photos)
    return train, val, photos - train - val


def _train_of_two(params: SplitParams) -> float:
    return params.train / (params.train + params.val or 1)


def _deal(
    clean: Path, found: Mapping[str, Sequence[Path]], test: AbstractSet[str], into: Path, params: SplitParams
) -> Path:
    """Copies the photos into a folder a part; those of classes with listed photos have two parts to go to."""
    new, known, dealt = (into / name for name in ("new", "known", "dealt"))
    for paths in found.values():
        names = [path.relative_to(clean).as_posix() for path in paths]
        rest = new if test.isdisjoint(names) else known
        for path, name in zip(paths, names, strict=True):
            folders.copy(path, (dealt / "test" if name in test else rest) / name)
    train = _train_of_two(params)
    for source, shares in ((new, (params.train, params.val, params.test)), (known, (train, 1 - train))):
        if source.is_dir():
            splitfolders.ratio(source, dealt, seed=params.seed, ratio=shares, formats=[".jpg"], move=True)
    return dealt


def _undersample(train: Path, params: SplitParams) -> dict[str, int]:
    """Removes photos of the classes that have too many, and returns how many by class."""
    left_out = {}
    for name, paths in folders.photos(train).items():
        if params.most_per_class and (surplus := len(paths) - params.most_per_class) > 0:
            for path in Random(f"{params.seed}/{name}").sample(paths, surplus):
                path.unlink()
            left_out[name] = surplus
    return left_out


def _write_folds(dealt: Path, out: Path, params: SplitParams) -> None:
    """Writes the photos of train, then val, each in the order of `folders.photos`, with their folds."""
    rows = [
        (part, path.relative_to(dealt / part).as_posix(), gem)
        for part in ("train", "val")
        for gem, paths in folders.photos(dealt / part).items()
        for path in paths
    ]
    table = pd.DataFrame(rows, columns=["part", "file", "gem"])
    table["fold"] = folds(table["gem"], params.folds, params.seed)
    with folders.replacing(out) as new:
        table.to_csv(new, index=False)
