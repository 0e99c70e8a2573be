"""Scores by number of training photos, with all photos as landmarks and with a tenth: a table and a figure.

python benchmarks/learning_curve.py --keep FOLDER [--features data/features] [--out docs/images/learning_curve.png]

Rendered photos: 36, 360 and 1,500 of each of the sample site's 18 gems, all of them different, and 100 others of each
gem as test photos. Of the smaller numbers up to five training sets that share no photo are drawn. Real photos: the
features of the training and validation parts of `dvc repro embed`, of which 5, 10, 20 and all of each gem are drawn in
the training part of each of five stratified folds. The test part is not read.

The head is that of params.yaml with its first penalty, fitted to all photos. "All" means at most
`model.fusion.landmarks` of them. A tenth has at least one landmark per gem. Scores of real photos are those of the
out-of-fold probabilities of all photos. The scores of rendered photos are means over the training sets. +- is the
standard error over folds or sets. The log loss is in nats, the calibration error is over ten bins.

--keep FOLDER stores the rendered photos' features, 1.4 GB, and the scores: an interrupted benchmark resumes from it.
Two quiet cores render and embed the 28,800 photos in 25 minutes, and fit in 30.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from sklearn.model_selection import StratifiedKFold

from gemmodel import devices
from gemmodel.core import files, params
from gemmodel.core.params import FusionParams, Params
from gemmodel.embed import feature_set
from gemmodel.figures import plots
from gemmodel.images import decode
from sample_site.gems import GEMS
from sample_site.render import scene

RENDERED, TEST, SETS = (36, 360, 1_500), 100, 5  # training photos of a gem; test photos of a gem; training sets at most
CHUNK = 100  # pictures of a gem that are rendered and embedded at a time
FIRST_TEST = 100_000  # the pictures' numbers: those of training start at 0
REAL, FOLDS = (5, 10, 20, 0), 5  # training photos of a gem, 0: all
SCORES = {"accuracy": "top-1 accuracy", "log_loss": "log loss, nats", "calibration_error": "calibration error"}
KINDS = {"real": "87 real gems", "rendered": "18 rendered gems"}
LANDMARKS = {"all": ("#0072B2", "o", "-"), "a tenth": ("#D55E00", "s", "--")}  # colours of Okabe and Ito
STONES = [gem for gem in GEMS if gem.cuts]

Fold = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # features and labels of training photos and of test ones


def render_features(settings: Params, numbers: Sequence[int], keep: Path) -> tuple[np.ndarray, dict[str, int]]:
    """Returns the features of some pictures of each gem, shape (gems, pictures, features), and the blocks' sizes.

    They are computed for `CHUNK` pictures at a time, which an interrupted call does not compute again.
    """
    from gemmodel.embed import litert
    from gemmodel.embed.extractor import blocks, extractor

    model = extractor(settings.embed, image_size=settings.base.image_size)
    features = np.empty((len(STONES), len(numbers), model.output_shape[1]), np.float32)
    with litert.as_litert(model) as graph, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(numbers), CHUNK):
            for i, gem in enumerate(STONES):
                chunk = numbers[start : start + CHUNK]
                if not (path := keep / f"{gem.name}-{chunk[0]}-{len(chunk)}.npy").is_file():
                    pictures = Parallel(n_jobs=-1)(delayed(scene.jpeg)(gem, number) for number in chunk)
                    embedded = pool.map(
                        lambda jpeg: graph(decode.load(BytesIO(jpeg), graph.size))["output"][0], pictures
                    )
                    with files.atomic_write(path) as new, new.open("wb") as file:
                        np.save(file, np.stack(list(embedded)))
                features[i, start : start + CHUNK] = np.load(path)
    return features, blocks(model)


def rendered_sets(test: np.ndarray, train: np.ndarray, photos: int) -> Iterator[Fold]:
    """Yields training sets that share no photo, each with the same test photos.

    Args:
        test: features, shape (gems, photos, features).
        train: features, shape (gems, photos, features).
        photos: of each gem in a training set.
    """
    gems, labels = np.arange(len(test)), np.repeat(np.arange(len(test)), test.shape[1])
    for start in range(0, train.shape[1] - photos + 1, photos)[:SETS]:
        drawn = np.concatenate(train[:, start : start + photos])
        yield drawn, np.repeat(gems, photos), np.concatenate(test), labels


def real_folds(features: np.ndarray, labels: np.ndarray, photos: int, *, seed: int) -> Iterator[Fold]:
    """Yields the folds, with at most a number of training photos of each gem, drawn at random; 0: all."""
    rng = np.random.default_rng(seed)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels):
        drawn = np.sort(
            np.concatenate(
                [rng.permutation(train[labels[train] == gem])[: photos or None] for gem in np.unique(labels)]
            )
        )
        yield features[drawn], labels[drawn], features[test], labels[test]


def predict(model: FusionParams, fold: Fold, blocks: dict[str, int], *, tenth: bool, seed: int) -> np.ndarray:
    """Returns the probabilities of the test photos."""
    from gemmodel.train.ridge.kernel_ridge import KernelRidge

    train, labels, test, _ = fold
    classes = len(np.unique(labels))
    if tenth:
        model = replace(model, landmarks=max(classes, len(labels) // 10))
    head = KernelRidge(model, classes=classes, blocks=list(blocks.values()), penalty=model.penalties[0], seed=seed)
    return head.fit(train, labels).predict_proba(test)


def scores_of(probs: np.ndarray, labels: np.ndarray) -> list[float]:
    """Returns the SCORES of some photos."""
    from gemmodel.evaluate import metrics

    predictions = metrics.Predictions([], labels, probs, [str(i) for i in range(probs.shape[1])])
    scores = metrics.compute_scores(predictions, top=5)
    return [float(scores[name]) for name in SCORES]


def row(
    model: FusionParams, folds: Iterator[Fold], blocks: dict[str, int], *, tenth: bool, seed: int
) -> dict[str, Any]:
    """Fits a head to each training set and returns the scores with their standard errors."""
    probs, actual, photos, start = [], [], 0, time.perf_counter()
    for fold in folds:
        probs.append(predict(model, fold, blocks, tenth=tenth, seed=seed))
        actual.append(fold[3])
        photos += len(fold[1])
    each = np.array([scores_of(*pair) for pair in zip(probs, actual, strict=True)])
    sets = len(each)
    return {
        "photos": photos // sets, "sets": sets, "seconds": round((time.perf_counter() - start) / sets),
        "mean": each.mean(axis=0).tolist(), "pooled": scores_of(np.concatenate(probs), np.concatenate(actual)),
        "error": (each.std(axis=0, ddof=1) / sets**0.5).tolist() if sets > 1 else None,
    }  # fmt: skip


def rows(
    settings: Params, features: Path, keep: Path, rendered: Sequence[int], *, seed: int
) -> Iterator[dict[str, Any]]:
    """Yields the scores of each kind of photos, number of photos and number of landmarks."""
    stored = keep / "scores.jsonl"
    done = files.read_jsonl(stored) if stored.exists() else []
    for kind, numbers in ("real", REAL), ("rendered", rendered):
        if kind == "real":
            parts = [feature_set.read(features / part) for part in ("train", "val")]
            photos = parts[0].concat(parts[1])
            draw, blocks = partial(real_folds, photos.features, photos.labels, seed=seed), photos.blocks
        elif numbers:
            test, _ = render_features(settings, range(FIRST_TEST, FIRST_TEST + TEST), keep)
            train, blocks = render_features(settings, range(max(rendered)), keep)
            draw = partial(rendered_sets, test, train)
        for number in numbers:
            for landmarks in LANDMARKS:
                key = {"kind": kind, "a_gem": number, "landmarks": landmarks}
                result = next((known for known in done if key.items() <= known.items()), None)
                if result is None:
                    scores = row(settings.model.fusion, draw(number), blocks, tenth=landmarks != "all", seed=seed)
                    result = key | scores | {"score": scores["pooled" if kind == "real" else "mean"]}
                    with stored.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(result) + "\n")
                yield result


def draw(results: list[dict[str, Any]]) -> Figure:
    """Draws one row of plots for each kind of photos, and one column for each score."""
    kinds = [kind for kind in KINDS if any(result["kind"] == kind for result in results)]
    figure = Figure(figsize=(10, 3 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), len(SCORES), sharex="row", squeeze=False)
    for axes_row, kind in zip(grid, kinds, strict=True):
        for i, (axes, name) in enumerate(zip(axes_row, SCORES.values(), strict=True)):
            for landmarks, (colour, marker, line) in LANDMARKS.items():
                points = [result for result in results if (result["kind"], result["landmarks"]) == (kind, landmarks)]
                axes.errorbar(
                    [point["photos"] for point in points],
                    [point["score"][i] for point in points],
                    [point["error"][i] if point["error"] else 0 for point in points],
                    color=colour, marker=marker, linestyle=line, capsize=3, label=f"landmarks: {landmarks}",
                )  # fmt: skip
            ticks = sorted({point["photos"] for point in results if point["kind"] == kind})
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45, ha="right")
            axes.minorticks_off()
            axes.grid(color="0.9")
            axes.set_title(f"{KINDS[kind]}: {name}", fontsize=10)
            axes.set_xlabel("training photos")
    grid[0, 0].legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("data/features"), help="output of `embed` on real photos")
    parser.add_argument("--keep", type=Path, required=True, help="stores features and scores for other runs")
    parser.add_argument("--out", type=Path, help="the figure to write")
    parser.add_argument("--rendered", type=int, nargs="*", default=RENDERED, help="training photos of a rendered gem")
    parser.add_argument("--seed", type=int, default=51, help="of the folds and the draws")
    arguments = parser.parse_args()
    settings = params.load(Path("params.yaml"))
    print(devices.prepare(settings.base))
    arguments.keep.mkdir(parents=True, exist_ok=True)
    print(f"| photos | a gem | photos in training | landmarks | {' | '.join(SCORES.values())} | seconds a fit |")
    print("| --- |" + 7 * " ---: |")
    results = []
    for result in rows(settings, arguments.features, arguments.keep, arguments.rendered, seed=arguments.seed):
        results.append(result)
        errors = [f" ± {error:.3f}" for error in result["error"]] if result["error"] else len(SCORES) * [""]
        columns = [f"{value:.3f}{error}" for value, error in zip(result["score"], errors, strict=True)]
        print(
            f"| {result['kind']} | {result['a_gem'] or 'all'} | {result['photos']:,} | {result['landmarks']} "
            f"| {' | '.join(columns)} | {result['seconds']} |",
            flush=True,
        )
    if arguments.out:
        plots.save(draw(results), arguments.out, dpi=120)


if __name__ == "__main__":
    main()
