"""Which foreground crop serves `fusion` best: stratified five-fold cross-validation on cleaned real photos.

All methods see the same photos in the same folds. In each fold a tenth of the training photos selects the epoch.

python benchmarks/crop.py --photos ../shared/gemstones [--per-gem 12] [--keep FOLDER] [--seed 1] [--classifier logistic]
Some 12 minutes on two cores for 2,793 photos; 3 where the features are kept already.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gemmodel import devices
from gemmodel.clean import cleaning
from gemmodel.core import files, image_folder, params
from gemmodel.core.params import Params
from gemmodel.embed import feature_set

METHODS = ("none", "canny", "otsu")
FOLDS, TOP, RESAMPLES = 5, 5, 10_000


def embedded(method: str, raw: Path, keep: Path, settings: Params) -> Path:
    """Cleans the photos with one crop and returns the file of their features, made unless it is there already."""
    from gemmodel.embed import embedding, extractor

    kept = keep / f"{method}.npz"
    if not kept.is_file():
        cleaned = keep / method
        cleaning.clean(raw, cleaned, replace(settings.clean, crop=method))
        extractor = extractor.extractor(settings.embed, image_size=settings.base.image_size)
        embedding.embed({cleaned: kept}, extractor, classes=list(image_folder.list_images(cleaned)))
    cropped = sum("box" in line for line in files.read_jsonl(keep / method / "manifest.jsonl"))
    print(f"{method:<6} {cropped} photos cropped", flush=True)
    return kept


def logistic(train: np.ndarray, labels: np.ndarray, test: np.ndarray, settings: Params) -> np.ndarray:
    """Returns the probabilities of a multinomial logistic regression on standardised features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
    return model.fit(train, labels).predict_proba(test)


def head(train: np.ndarray, labels: np.ndarray, test: np.ndarray, settings: Params) -> np.ndarray:
    """Returns the probabilities of fusion's softmax head with the shipped parameters."""
    import keras
    import tensorflow as tf

    from gemmodel.models import fusion
    from gemmodel.train import fit

    keras.utils.set_random_seed(settings.base.seed)
    x, x_val, y, y_val = train_test_split(
        train, labels, test_size=0.1, stratify=labels, random_state=settings.base.seed
    )
    one_hot = np.eye(labels.max() + 1, dtype=np.float32)
    model = fusion.softmax_head(settings.model.fusion, x, classes=len(one_hot))
    size = settings.train.batch_size
    data = tf.data.Dataset.from_tensor_slices((x, one_hot[y])).shuffle(len(x), seed=settings.base.seed).batch(size)
    val = tf.data.Dataset.from_tensor_slices((x_val, one_hot[y_val])).batch(size)
    fit.fit(model, data, val, settings.train, labels=y, on_epoch=lambda epoch, logs: None)
    return model.predict(test, verbose=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("../shared/gemstones"), help="a folder a class")
    parser.add_argument("--per-gem", type=int, default=0, help="the first N photos of a class; 0: all")
    parser.add_argument(
        "--keep", type=Path, help="folder to keep cleaned photos and features in, and to reuse them from"
    )
    parser.add_argument("--classifier", choices=("head", "logistic"), default="head")
    parser.add_argument("--seed", type=int, help="of the folds and the head; base.seed unless told")
    arguments = parser.parse_args()
    if not arguments.photos.is_dir():
        raise SystemExit(f"crop: {arguments.photos}: no such folder; name one of class folders with --photos")
    settings = params.load(Path("params.yaml"))
    if arguments.seed is not None:
        settings = replace(settings, base=replace(settings.base, seed=arguments.seed))
    print(devices.prepare(settings.base))
    from scraper.sources import crawl

    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "raw")
        source = {"source": ("folder",), "folder": str(arguments.photos), "max_per_gem": arguments.per_gem}
        crawl(replace(settings.crawl, **source), raw, logs=Path(scratch, "logs"))
        keep = arguments.keep or Path(scratch, "kept")
        known = {method: feature_set.read(embedded(method, raw, keep, settings)) for method in METHODS}
    labels = known["none"].labels
    assert all((other.labels == labels).all() for other in known.values()), "the methods differ in their photos"
    classifier = {"head": head, "logistic": logistic}[arguments.classifier]
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=settings.base.seed).split(labels, labels))
    right = {}
    print(f"{arguments.classifier} on {len(labels)} photos: mean of {FOLDS} folds, their standard error")
    for method, (x, _, _, classes, _) in known.items():
        probabilities = np.zeros((len(labels), len(classes)))
        for train, test in folds:
            probabilities[test] = classifier(x[train], labels[train], x[test], settings)
        right[method] = probabilities.argmax(axis=1) == labels
        one = [right[method][test].mean() for _, test in folds]
        top = [
            top_k_accuracy_score(labels[test], probabilities[test], k=TOP, labels=range(len(classes)))
            for _, test in folds
        ]
        told = [f"{np.mean(values):.4f} +- {np.std(values, ddof=1) / FOLDS**0.5:.4f}" for values in (one, top)]
        print(f"{method:<6} top-1 {told[0]}, top-{TOP} {told[1]}", flush=True)
    draws = np.random.default_rng(settings.base.seed).integers(len(labels), size=(RESAMPLES, len(labels)))
    for method in METHODS[1:]:
        difference = right[method].astype(int) - right["none"]
        low, high = np.quantile(difference[draws].mean(axis=1), (0.025, 0.975))
        won, lost = int((difference > 0).sum()), int((difference < 0).sum())
        print(
            f"{method} - none: {difference.mean():+.4f} (95 % by bootstrap: {low:+.4f} to {high:+.4f}), "
            f"{won} photos won, {lost} lost, McNemar p {binomtest(won, won + lost).pvalue:.3f}"
        )


if __name__ == "__main__":
    main()
