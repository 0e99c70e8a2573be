"""Training, validation and test part, by split-folders."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import splitfolders

from gemmodel.data import folders
from gemmodel.errors import DataError, ParameterError
from gemmodel.params import SplitParams


def split(clean: Path, parts: Mapping[str, Path], params: SplitParams) -> dict[str, int]:
    """Deals the photos of each class out to the parts, in the shares that the parameters give.

    Args:
        clean: a folder a class.
        parts: where `train`, `val` and `test` shall appear, a folder a class each.
        params: shares and seed.

    Returns:
        The number of photos by part.

    Raises:
        ParameterError: the shares do not add up to 1.
        DataError: there is one class only, or one so small that a part would get none of its photos.
    """
    shares = (params.train, params.val, params.test)
    if abs(sum(shares) - 1) > 1e-6:
        raise ParameterError(f"split.train + split.val + split.test is {sum(shares):g}; it must be 1")
    found = folders.photos(clean)
    if len(found) < 2:
        raise DataError(
            f"{clean}: {', '.join(found)} is the only class; a classifier needs two, a folder of photos each"
        )
    for name, paths in found.items():
        train, val = int(params.train * len(paths)), int(params.val * len(paths))
        if min(train, val, len(paths) - train - val) < 1:
            raise DataError(
                f"{clean / name}: {len(paths)} photos are too few for shares of {params.train:g}, {params.val:g} and "
                f"{params.test:g}; add photos, leave the gem out with crawl.only, or change the shares in split"
            )
    parent = parts["train"].parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".split.", dir=parent) as beside:
        splitfolders.ratio(clean, output=beside, seed=params.seed, ratio=shares, formats=[".jpg"])
        counts = {}
        for part, target in parts.items():
            with folders.replacing(target) as new:
                Path(beside, part).rename(new)
            counts[part] = sum(map(len, folders.photos(target).values()))
    return counts
