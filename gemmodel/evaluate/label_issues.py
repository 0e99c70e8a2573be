"""Photos whose name a classifier that never saw them disputes, as a page for a person to review."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues

from gemmodel.core.errors import DataError
from gemmodel.core.params import FusionParams
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.embed.feature_set import read as read_features
from gemmodel.figures import html, tiles
from gemmodel.train.kernel_ridge import KernelRidge

TEMPLATE = Path(__file__).with_suffix(".html")
EXAMPLES = 3  # photos of a gem beside a disputed one
MAX_FITTED = 4_000  # photos, drawn at random; the head's time grows with their cube


def out_of_fold(params: FusionParams, photos: FeatureSet, folds: np.ndarray) -> np.ndarray:
    """Returns each photo's probabilities by a kernel head that was fitted to the other folds alone.

    Whatever model.name is, this head is the judge: it is accurate, and there in seconds.

    Args:
        params: of the head; of its penalties the middle one serves.
        photos: all of them.
        folds: each photo's fold, int of shape (photos,).

    Returns:
        float32 of shape (photos, classes).
    """
    penalty = sorted(params.penalties)[len(params.penalties) // 2]
    classes, blocks = len(photos.classes), list(photos.blocks.values())
    probs = np.zeros((len(photos.labels), classes), np.float32)
    for fold in np.unique(folds):
        inside, outside = folds == fold, np.flatnonzero(folds != fold)
        outside = np.random.default_rng(0).permutation(outside)[:MAX_FITTED]
        ridge = KernelRidge(replace(params, labels="all"), classes=classes, blocks=blocks, penalty=penalty)
        ridge.fit(photos.features[outside], photos.labels[outside])
        probs[inside] = ridge.predict_proba(photos.features[inside])
    return probs


def find_issues(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the places of photos with a disputed label, the most disputed first.

    Confident learning: a label is disputed where another class is told with more confidence than that class's own
    photos have on average (Northcutt and others, Journal of Artificial Intelligence Research 70, 2021).

    Args:
        labels: class indices, shape (photos,).
        probabilities: of shape (photos, classes), told by a model that did not learn from the photo.
    """
    return find_label_issues(
        labels, probabilities, return_indices_ranked_by="normalized_margin", filter_by="confident_learning", n_jobs=1
    )


def write(page: Path, *, features: Path, folds: Path, clean: Path, params: FusionParams, most: int) -> pd.DataFrame:
    """Writes the page, from which a person takes the table that clean.corrections names.

    Args:
        page: becomes a page of HTML that needs no other file and no network.
        features: holds `train.npz` and `val.npz`.
        folds: the table of their photos' folds.
        clean: the clean photos, with their manifest.
        params: of the kernel head.
        most: photos on the page.

    Returns:
        A row a disputed photo, the most disputed first: `photo` (the raw file's SHA-256), `path` in the clean folder,
        `gem`, `suggested`, and their probabilities `label_prob` and `suggested_prob`.

    Raises:
        DataError: the features are of other photos than the folds.
    """
    table = pd.read_csv(folds, keep_default_na=False)  # in the order of the features
    photos = read_features(features / "train.npz").concat(read_features(features / "val.npz"))
    labels, gems, files = photos.labels, photos.classes, table["file"].tolist()
    if table["gem"].tolist() != [gems[label] for label in labels]:
        raise DataError(f"{folds}: of other photos than {features}; `dvc repro` makes both anew")
    given = out_of_fold(params, photos, table["fold"].to_numpy())
    places = find_issues(labels, given)
    hashes = {row["path"]: row["sha256"] for row in files.read_jsonl(clean / "manifest.jsonl") if "path" in row}
    names, best = np.array(gems), given.argmax(axis=1)
    rows = pd.DataFrame(
        {
            "photo": [hashes[files[place]] for place in places],
            "path": [files[place] for place in places],
            "gem": names[labels[places]],
            "suggested": names[best[places]],
            "label_prob": given[places, labels[places]].astype(float).round(6),
            "suggested_prob": given[places, best[places]].astype(float).round(6),
        }
    )
    shown = rows.head(most)
    table["disputed"] = table["file"].isin(rows["path"])
    examples = table.sort_values("disputed", kind="stable").groupby("gem").head(EXAMPLES).groupby("gem")["file"]
    html.write(
        page,
        TEMPLATE,
        rows=[
            {**row, "picture": html.data_url(tiles.thumbnail(clean / row["path"], 180))}
            for row in shown.to_dict("records")
        ],
        examples={
            gem: html.data_url(
                tiles.contact_sheet([(tiles.thumbnail(clean / file, 96), "") for file in of_gem], side=96)
            )
            for gem, of_gem in examples
            if gem in {*shown["gem"], *shown["suggested"]}
        },
        gems=gems,
        accuracy=float((best == labels).mean()),
        photos=len(labels),
        disputed=len(rows),
    )
    return rows
