"""Label issues: photos whose label a classifier trained on other photos disputes, as a page for a person to review."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues

from gemmodel.core import files
from gemmodel.core.dask_client import ordered_map
from gemmodel.core.errors import DataError
from gemmodel.core.params import FusionParams
from gemmodel.embed import feature_set
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.figures import html, tiles
from gemmodel.train.ridge.calibration import FITS_AT_ONCE
from gemmodel.train.ridge.kernel_ridge import KernelRidge

TEMPLATE = Path(__file__).with_suffix(".html")
EXAMPLES = 3  # photos of a gem beside one with a label issue
MAX_FITTED = 4_000  # photos per fold, a random sample; the time of a fit grows with their cube


def out_of_fold(
    params: FusionParams, photos: FeatureSet, folds: np.ndarray, *, max_fitted: int = MAX_FITTED
) -> np.ndarray:
    """Returns each photo's probabilities by a kernel head that was fitted to the other folds only.

    This head is used whatever `model.name` is: it is accurate and takes seconds.

    Args:
        params: of the head; the middle one of its penalties is used.
        photos: all of them.
        folds: each photo's fold, int of shape (photos,).
        max_fitted: the number of photos that a head is fitted to.

    Returns:
        float32 of shape (photos, classes).
    """
    penalty = sorted(params.penalties)[len(params.penalties) // 2]
    classes, blocks = len(photos.classes), list(photos.blocks.values())

    def fit(fold: int) -> KernelRidge:
        train = np.random.default_rng(0).permutation(np.flatnonzero(folds != fold))[:max_fitted]
        ridge = KernelRidge(replace(params, labels="all"), classes=classes, blocks=blocks, penalty=penalty, loo=False)
        return ridge.fit(photos.features[train], photos.labels[train])

    names = np.unique(folds)
    fits = ordered_map(None, fit, ((fold,) for fold in names), threads=FITS_AT_ONCE)
    ridges = dict(zip(names, fits, strict=True))
    probs = np.zeros((len(photos.labels), classes), np.float32)
    for rows in feature_set.shard_slices(len(photos.labels)):  # so each photo is read once
        features = photos.features[rows]
        for fold, ridge in ridges.items():
            held_out = folds[rows] == fold
            probs[rows][held_out] = ridge.predict_proba(features[held_out])
    return probs


def find_issues(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the indices of photos with a label issue, the most likely one first.

    Confident learning: a label is disputed where another class's probability exceeds the mean probability that this
    class has on its own photos (Northcutt and others, Journal of Artificial Intelligence Research 70, 2021).

    Args:
        labels: class indices, shape (photos,).
        probabilities: out-of-fold, shape (photos, classes).
    """
    return find_label_issues(
        labels, probabilities, return_indices_ranked_by="normalized_margin", filter_by="confident_learning", n_jobs=1
    )


def write(
    page: Path, *, features: Path, folds: Path, clean: Path, params: FusionParams, max_shown: int,
    max_fitted: int = MAX_FITTED,
) -> pd.DataFrame:  # fmt: skip
    """Writes the page, on which a person makes a table of corrections that the clean stage reads.

    Args:
        page: an HTML page that needs no other file and no network.
        features: holds the features of both parts, `train` and `val`.
        folds: the table of their photos' folds.
        clean: the clean photos, with their manifest.
        params: of the kernel head.
        max_shown: photos on the page.
        max_fitted: see `out_of_fold`.

    Returns:
        One row per label issue, the most likely one first: `photo` (the raw file's SHA-256), `path` in the clean
        folder, `gem` (the label), `suggested`, and the probabilities of both, `label_prob` and `suggested_prob`.

    Raises:
        DataError: the features and the folds are not of the same photos.
    """
    table = files.read_table(folds, numbers={"fold": int})  # in the order of the features
    photos = feature_set.read(features / "train").concat(feature_set.read(features / "val"))
    labels, gems, paths = photos.labels, photos.classes, table["file"].to_numpy()
    if table["gem"].tolist() != [gems[label] for label in labels]:
        raise DataError(f"{folds}: of other photos than {features}; `dvc repro` makes both again")
    probs = out_of_fold(params, photos, table["fold"].to_numpy(), max_fitted=max_fitted)
    names, best = np.array(gems), probs.argmax(axis=1)
    issues = find_issues(labels, probs)
    hashes = {row["path"]: row["sha256"] for row in files.read_jsonl(clean / "manifest.jsonl") if "path" in row}
    rows = pd.DataFrame(
        {
            "photo": [hashes[path] for path in paths[issues]],
            "path": paths[issues],
            "gem": names[labels[issues]],
            "suggested": names[best[issues]],
            "label_prob": probs[issues, labels[issues]].astype(float).round(6),
            "suggested_prob": probs[issues, best[issues]].astype(float).round(6),
        }
    )
    shown = rows.head(max_shown)
    table["issue"] = table["file"].isin(rows["path"])
    examples = table.sort_values("issue", kind="stable").groupby("gem").head(EXAMPLES).groupby("gem")["file"]
    html.write(
        page,
        TEMPLATE,
        rows=[
            {**row, "picture": html.data_url(tiles.thumbnail(clean / row["path"], 180))}
            for row in shown.to_dict("records")
        ],
        examples={
            gem: html.data_url(
                tiles.contact_sheet([(tiles.thumbnail(clean / path, 96), "") for path in example_paths], side=96)
            )
            for gem, example_paths in examples
            if gem in {*shown["gem"], *shown["suggested"]}
        },
        gems=gems,
        accuracy=float((best == labels).mean()),
        photos=len(labels),
        issues=len(rows),
        sampled=max_fitted if len(table) - table["fold"].value_counts().min() > max_fitted else 0,
    )
    return rows
