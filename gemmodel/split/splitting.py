"""Training, validation and test part, by split-folders, and the folds of cross-validation."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import splitfolders
from sklearn.model_selection import StratifiedKFold

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError, ParameterError
from gemmodel.core.params import SplitParams
from gemmodel.split import test_list


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
    found = image_folder.list_images(clean)
    test, kept = test_list.resolve_test_list(clean, Path(params.test_list))
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
    with files.scratch_dir(parts["train"].parent / ".dealing") as beside:
        dealt = _deal(clean, found, test, beside, params)
        left_out = _undersample(dealt / "train", params)
        _write_folds(dealt, folds_file, params)
        counts = {
            part: {name: len(paths) for name, paths in image_folder.list_images(dealt / part).items()} for part in parts
        }
        for part, target in parts.items():
            with files.atomic_write(target) as new:
                (dealt / part).rename(new)
    if test:
        kept["new_classes"] = [name for name in found if not listed[name]]
    return {
        "photos": {part: sum(by_class.values()) for part, by_class in counts.items()},
        "classes": {name: {part: counts[part][name] for part in parts} for name in found},
        "dropped": small,
        "undersampled": left_out,
        "test_list": kept,
    }


def summary(report: Mapping[str, Any]) -> str:
    """Returns what `split` did beyond the ordinary, in words, or nothing."""
    kept = report["test_list"]
    notes = [f"dropped {name} ({number} photos)" for name, number in report["dropped"].items()]
    if report["undersampled"]:
        notes.append(f"{sum(report['undersampled'].values())} left out of train by split.max_per_class")
    if kept["listed"]:
        fates = ", ".join(f"{len(kept[fate])} {fate.replace('_', ' ')}" for fate in test_list.STATUSES if kept[fate])
        notes.append(f"{kept['listed']} listed for test{f' ({fates})' if fates else ''}")
    return "".join(f"; {note}" for note in notes)


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
            files.copy(path, (dealt / "test" if name in test else rest) / name)
    train = _train_of_two(params)
    for source, shares in ((new, (params.train, params.val, params.test)), (known, (train, 1 - train))):
        if source.is_dir():
            splitfolders.ratio(source, dealt, seed=params.seed, ratio=shares, formats=[".jpg"], move=True)
    return dealt


def _undersample(train: Path, params: SplitParams) -> dict[str, int]:
    """Removes photos of the classes that have too many, and returns how many by class."""
    left_out = {}
    for name, paths in image_folder.list_images(train).items():
        if params.max_per_class and (surplus := len(paths) - params.max_per_class) > 0:
            for path in Random(f"{params.seed}/{name}").sample(paths, surplus):
                path.unlink()
            left_out[name] = surplus
    return left_out


def _write_folds(dealt: Path, out: Path, params: SplitParams) -> None:
    """Writes the photos of train, then val, each in the order of `folders.photos`, with their folds."""
    rows = [
        (part, path.relative_to(dealt / part).as_posix(), gem)
        for part in ("train", "val")
        for gem, paths in image_folder.list_images(dealt / part).items()
        for path in paths
    ]
    table = pd.DataFrame(rows, columns=["part", "file", "gem"])
    table["fold"] = folds(table["gem"], params.folds, params.seed)
    with files.atomic_write(out) as new:
        table.to_csv(new, index=False)
