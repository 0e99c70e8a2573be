"""Training, validation and test part, split by split-folders, and the folds of cross-validation."""

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
    """Splits the photos of each class into the parts, by the fractions of the parameters.

    The photos of the test list are the test part of their classes; the other photos of these classes are split into
    train and val. A class without a photo on the list is split into all three parts.

    Args:
        clean: one folder per class, with the `manifest.jsonl` of cleaning.
        parts: the folders of `train`, `val` and `test` to write, each with one folder per class.
        folds_file: the output, a table of the photos of train and val with their folds.
        params: fractions, seed, and what is done with small and large classes.

    Returns:
        The report: the number of `photos` by part; the same for each of the `classes`; `dropped` classes with their
        numbers of photos; how many photos each `undersampled` class lost; and the report on the `test_list`.

    Raises:
        ParameterError: the fractions do not add up to 1, or there are more folds than photos in any class.
        DataError: there is only one class, or a class is too small for all parts.
    """
    total = params.train + params.val + params.test
    if abs(total - 1) > 1e-6:
        raise ParameterError(f"split.train + split.val + split.test is {total:g}; it must be 1")
    photos = image_folder.list_images(clean)
    test, test_report = test_list.resolve_test_list(clean, Path(params.test_list))
    listed = Counter(name.split("/")[0] for name in test)
    small = {name: len(paths) for name, paths in photos.items() if min(_sizes(len(paths), listed[name], params)) < 1}
    if small and params.small_classes == "refuse":
        name, count = next(iter(small.items()))
        raise DataError(
            f"{clean / name}: {count} photos are too few for fractions of {params.train:g}, {params.val:g} and "
            f"{params.test:g}{f' with {listed[name]} of them on the test list' if listed[name] else ''}; add photos, "
            "leave the gem out with crawl.only, set split.small_classes to drop, or change the fractions in split"
        )
    for name in small:
        del photos[name]
    if len(photos) < 2:
        raise DataError(
            f"{clean}: {', '.join(photos) or 'none'} is the only class with enough photos; a classifier needs two, "
            "with a folder of photos each"
        )
    with files.scratch_dir(parts["train"].parent / ".splitting") as scratch:
        by_part = _copy_parts(clean, photos, test, scratch, params)
        undersampled = _undersample(by_part / "train", params)
        _write_folds(by_part, folds_file, params)
        counts = {
            part: {name: len(paths) for name, paths in image_folder.list_images(by_part / part).items()}
            for part in parts
        }
        for part, target in parts.items():
            with files.atomic_write(target) as new:
                (by_part / part).rename(new)
    if test:
        test_report["new_classes"] = [name for name in photos if not listed[name]]
    return {
        "photos": {part: sum(by_class.values()) for part, by_class in counts.items()},
        "classes": {name: {part: counts[part][name] for part in parts} for name in photos},
        "dropped": small,
        "undersampled": undersampled,
        "test_list": test_report,
    }


def summary(report: Mapping[str, Any]) -> str:
    """Returns what was special about a split, as a text that begins with a semicolon, or an empty text."""
    test_report = report["test_list"]
    notes = [f"dropped {name} ({count} photos)" for name, count in report["dropped"].items()]
    if report["undersampled"]:
        notes.append(f"{sum(report['undersampled'].values())} left out of train by split.max_per_class")
    if test_report["listed"]:
        statuses = ", ".join(
            f"{len(test_report[status])} {status.replace('_', ' ')}"
            for status in test_list.STATUSES
            if test_report[status]
        )
        notes.append(f"{test_report['listed']} on the test list{f' ({statuses})' if statuses else ''}")
    return "".join(f"; {note}" for note in notes)


def folds(labels: Sequence[Any] | np.ndarray, k: int, seed: int) -> np.ndarray:
    """Splits photos into the folds of a stratified cross-validation.

    Args:
        labels: the class of each photo, shape (photos,).
        k: the number of folds.
        seed: of the random split.

    Returns:
        The fold, from 0, in which each photo is validated: int array of shape (photos,). A class with fewer than k
        photos is missing from some folds.

    Raises:
        ParameterError: no class has k photos.
    """
    labels = np.asarray(labels)
    if k > (largest := np.unique(labels, return_counts=True)[1].max()):
        raise ParameterError(f"split.folds is {k}; the largest class has {largest} photos in train and val; lower it")
    fold = np.empty(len(labels), int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        splits = StratifiedKFold(k, shuffle=True, random_state=seed).split(labels, labels)
        for i, (_, validated) in enumerate(splits):
            fold[validated] = i
    return fold


def _sizes(photos: int, listed: int, params: SplitParams) -> tuple[int, int, int]:
    """Returns the number of photos in each part of a class."""
    if listed:
        train = int(_train_without_test(params) * (photos - listed))
        return train, photos - listed - train, listed
    train, val = int(params.train * photos), int(params.val * photos)
    return train, val, photos - train - val


def _train_without_test(params: SplitParams) -> float:
    """Returns train's fraction of train and val together."""
    return params.train / (params.train + params.val or 1)


def _copy_parts(
    clean: Path, photos: Mapping[str, Sequence[Path]], test: AbstractSet[str], scratch: Path, params: SplitParams
) -> Path:
    """Copies the photos into one folder per part, and returns the folder that holds these."""
    three_parts, two_parts, by_part = (scratch / name for name in ("three_parts", "two_parts", "by_part"))
    for paths in photos.values():
        names = [path.relative_to(clean).as_posix() for path in paths]
        unsplit = three_parts if test.isdisjoint(names) else two_parts
        for path, name in zip(paths, names, strict=True):
            files.copy(path, (by_part / "test" if name in test else unsplit) / name)
    train = _train_without_test(params)
    for source, ratio in ((three_parts, (params.train, params.val, params.test)), (two_parts, (train, 1 - train))):
        if source.is_dir():
            splitfolders.ratio(source, by_part, seed=params.seed, ratio=ratio, formats=[".jpg"], move=True)
    return by_part


def _undersample(train: Path, params: SplitParams) -> dict[str, int]:
    """Removes photos of the classes that have too many, and returns how many by class."""
    removed = {}
    for name, paths in image_folder.list_images(train).items():
        if params.max_per_class and (surplus := len(paths) - params.max_per_class) > 0:
            for path in Random(f"{params.seed}/{name}").sample(paths, surplus):
                path.unlink()
            removed[name] = surplus
    return removed


def _write_folds(by_part: Path, out: Path, params: SplitParams) -> None:
    """Writes the photos of train, then of val, each in the order of `image_folder.list_images`, with their folds."""
    rows = [
        (part, path.relative_to(by_part / part).as_posix(), gem)
        for part in ("train", "val")
        for gem, paths in image_folder.list_images(by_part / part).items()
        for path in paths
    ]
    table = pd.DataFrame(rows, columns=["part", "file", "gem"])
    table["fold"] = folds(table["gem"], params.folds, params.seed)
    with files.atomic_write(out) as new:
        table.to_csv(new, index=False)
