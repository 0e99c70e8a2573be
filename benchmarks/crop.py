"""Accuracy of `fusion` by foreground crop, by stratified five-fold cross-validation on cleaned real photos.

python benchmarks/crop.py --photos ../shared/gemstones [--per-gem 12] [--keep FOLDER] [--seed 1] [--classifier logistic]

All crops have the same photos in the same folds. `head` is fusion's head.

Expected on 2,793 photos of 87 gems: top-1 0.80 without a crop, 0.79 with canny and 0.79 to 0.80 with otsu. It takes
12 minutes on two cores; 3 if --keep has the features from an earlier run.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gemmodel import devices
from gemmodel.clean import cleaning
from gemmodel.core import files, image_folder, params
from gemmodel.core.params import Params
from gemmodel.embed import feature_set

METHODS = ("none", "canny", "otsu")
FOLDS, TOP, RESAMPLES = 5, 5, 10_000


def features_folder(method: str, raw: Path, keep: Path, settings: Params) -> Path:
    """Cleans the photos with one crop, and returns the folder of their features, computed if it is not there yet."""
    from gemmodel.embed import embedding
    from gemmodel.embed.extractor import extractor

    folder = keep / f"{method}-features"
    if not folder.is_dir():
        cleaned = keep / method
        cleaning.clean(raw, cleaned, replace(settings.clean, crop=method))
        model = extractor(settings.embed, image_size=settings.base.image_size)
        classes = list(image_folder.list_images(cleaned))
        embedding.embed({cleaned: folder}, model, classes=classes)
    cropped = sum("box" in line for line in files.read_jsonl(keep / method / "manifest.jsonl"))
    print(f"{method:<6} {cropped} photos cropped", flush=True)
    return folder


def logistic(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, settings: Params, blocks: list[int]
) -> np.ndarray:
    """Returns the probabilities of a multinomial logistic regression on standardised features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
    return model.fit(train, labels).predict_proba(test)


def head(train: np.ndarray, labels: np.ndarray, test: np.ndarray, settings: Params, blocks: list[int]) -> np.ndarray:
    """Returns the probabilities of fusion's head with the shipped parameters."""
    from gemmodel.train.kernel_ridge import KernelRidge

    model = settings.model.fusion
    ridge = KernelRidge(model, classes=labels.max() + 1, blocks=blocks, penalty=model.penalties[0])
    return ridge.fit(train, labels).predict_proba(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("../shared/gemstones"), help="a folder per class")
    parser.add_argument("--per-gem", type=int, default=0, help="the first N photos of each class; 0: all")
    parser.add_argument("--keep", type=Path, help="stores cleaned photos and features in this folder for other runs")
    parser.add_argument("--classifier", choices=("head", "logistic"), default="head")
    parser.add_argument("--seed", type=int, help="of the folds and the head (default: base.seed)")
    arguments = parser.parse_args()
    if not arguments.photos.is_dir():
        raise SystemExit(f"crop: {arguments.photos}: no such folder; --photos takes one with a folder per class")
    settings = params.load(Path("params.yaml"))
    if arguments.seed is not None:
        settings = replace(settings, base=replace(settings.base, seed=arguments.seed))
    print(devices.prepare(settings.base))
    from scraper.sources import crawl

    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "raw")
        source = {"source": ("folder",), "folder": str(arguments.photos), "max_per_gem": arguments.per_gem}
        crawl(replace(settings.crawl, **source), raw, logs=Path(scratch, "logs"))
        keep = arguments.keep or Path(scratch, "keep")
        photos = {method: feature_set.read(features_folder(method, raw, keep, settings)) for method in METHODS}
    labels = photos["none"].labels
    assert all((other.labels == labels).all() for other in photos.values()), "the methods differ in their photos"
    classifier = {"head": head, "logistic": logistic}[arguments.classifier]
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=settings.base.seed).split(labels, labels))
    right = {}
    print(f"{arguments.classifier} on {len(labels)} photos: mean of {FOLDS} folds, their standard error")
    for method, of in photos.items():
        x, blocks = of.features[:], list(of.blocks.values())
        probs = np.zeros((len(labels), len(of.classes)))
        for train, test in folds:
            probs[test] = classifier(x[train], labels[train], x[test], settings, blocks)
        right[method] = probs.argmax(axis=1) == labels
        top_1 = [right[method][test].mean() for _, test in folds]
        top = [
            top_k_accuracy_score(labels[test], probs[test], k=TOP, labels=range(len(of.classes))) for _, test in folds
        ]
        columns = [f"{np.mean(values):.4f} +- {np.std(values, ddof=1) / FOLDS**0.5:.4f}" for values in (top_1, top)]
        print(f"{method:<6} top-1 {columns[0]}, top-{TOP} {columns[1]}", flush=True)
    draws = np.random.default_rng(settings.base.seed).integers(len(labels), size=(RESAMPLES, len(labels)))
    for method in METHODS[1:]:
        difference = right[method].astype(int) - right["none"]
        low, high = np.quantile(difference[draws].mean(axis=1), (0.025, 0.975))
        gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
        print(
            f"{method} - none: {difference.mean():+.4f} (95 % by bootstrap: {low:+.4f} to {high:+.4f}), "
            f"{gained} photos gained, {lost} lost, McNemar p {binomtest(gained, gained + lost).pvalue:.3f}"
        )


if __name__ == "__main__":
    main()
