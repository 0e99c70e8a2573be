"""Accuracy and calibration of `fusion` on real photos, by stratified five-fold cross-validation; a Markdown table.

python benchmarks/accuracy.py [--photos ../shared/gemstones] [--keep FOLDER] [--seed 1 2] [--only default "no colours"]

Each row changes one parameter, or leaves out a block of features. In each fold a tenth of the training photos is the
validation part. It selects the epoch, or the penalty where there are several; the head is fitted to it too. The head is
calibrated by leave-one-out on its photos; the combined predictions of a fine-tuned network and fusion, by the
validation part. The scores are those of the out-of-fold probabilities of all photos, averaged over the seeds; +- is the
standard error over the folds of one seed. The log loss is in nats, the calibration error is over ten bins.

Expected on 2,778 cleaned photos of 87 gems: "default" has top-1 0.83 to 0.84, top-5 0.98 and calibration error 0.01.
Two cores take 6 minutes for the features, and up to a minute per fold for each row. The rows in SLOW run only if
--only names them: "distilled" takes four minutes per fold, the others ten; try it with --folds 0.

--backbones measures what embed.backbone may name: --backbones dinov2_small@224 efficientnet_lite0@224+resnet50. Weights
that are not installed are fetched.

--keep FOLDER stores photos, features and predictions, the latter under a hash of parameters, features and code. An
interrupted benchmark resumes from it. Several processes may share the folder and run different --folds; a last one
prints the scores of all. Let one process make the photos and features first (--only default --folds 0). They are not
made again when their code changes: take a new folder then.
"""

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from gemmodel import devices
from gemmodel.clean import cleaning
from gemmodel.core import environment, hashing, image_folder, params
from gemmodel.core.params import Params
from gemmodel.embed import feature_set
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.models import npz

FOLDS, TOP = 5, 5
SCORES = ("accuracy", f"top_{TOP}_accuracy", "log_loss", "calibration_error")
LITE2 = {"embed": {"backbone": ("efficientnet_lite2",)}, "base": {"image_size": 260}}
BOTH = {"embed": {"backbone": ("efficientnet_lite0@224", "efficientnet_lite2")}, "base": {"image_size": 260}}
BOTH_240: dict[str, Any] = {
    "embed": {"backbone": ("efficientnet_lite0", "efficientnet_lite2")},
    "base": {"image_size": 240},
}
FINE_TUNED: dict[str, Any] = {
    "fusion": {"fine_tune_epochs": 16, "distillation": 0.0, "learning_rate": 0.0007, "unfreeze": "blocks.5"},
    "train": {"batch_size": 32, "mixup": 0.4},
    "augment": {"rotation": 180.0, "shift": 0.1, "shear": 0.1, "vertical_flip": True},
}
DISTILLED = FINE_TUNED | {
    "fusion": {"fine_tune_epochs": 5, "distillation": 0.5, "learning_rate": 0.001, "unfreeze": "blocks.5"},
    "train": {"batch_size": 32, "mixup": 0.2},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "no covariances": {"without": ["covariances"]},
    "no colours": {"without": ["colours"]},
    "maps alone": {"without": ["covariances", "colours"]},
    "one view": {"embed": {"views": ("photo",)}},
    "three views": {"embed": {"views": ("photo", "mirror", "quarter_turn")}},
    "no stacking": {"fusion": {"stacking_penalty": 0.0}},
    "degree 3 alone": {"fusion": {"degree": (3,)}},
    "degree 3 alone, no stacking": {"fusion": {"degree": (3,), "stacking_penalty": 0.0}},
    "degree 8 alone": {"fusion": {"degree": (8,)}},
    "linear kernel": {"fusion": {"degree": (1,)}},
    "512 components": {"fusion": {"components": 512}},
    "penalty of 0.03, 0.1 or 0.3": {"fusion": {"penalties": (0.03, 0.1, 0.3)}},
    "Lite2 at 260 pixels": LITE2,
    "Lite0 at 224 pixels with Lite2 at 260": BOTH,
}
FINE_TUNED_AND_DISTILLED = FINE_TUNED | {"fusion": FINE_TUNED["fusion"] | {"distillation": 0.5}}
SLOW = {
    "fine-tuned": FINE_TUNED, "distilled": DISTILLED, "fine-tuned and distilled": FINE_TUNED_AND_DISTILLED,
    "Lite2 at 260 pixels, fine-tuned": LITE2 | FINE_TUNED,
    "Lite0 with Lite2 at 240 pixels, fine-tuned and distilled": BOTH_240 | FINE_TUNED_AND_DISTILLED,
}  # fmt: skip


def with_changes(settings: Params, changes: dict[str, Any]) -> Params:
    """Returns the parameters with some values of a few sections replaced."""
    sections = ("base", "embed", "train", "augment")
    return replace(
        settings,
        **{name: replace(getattr(settings, name), **changes.get(name, {})) for name in sections},
        model=replace(settings.model, fusion=replace(settings.model.fusion, **changes.get("fusion", {}))),
    )


def subset(photos: FeatureSet, indices: np.ndarray) -> FeatureSet:
    """Returns some of the photos."""
    rows = {name: getattr(photos, name)[indices] for name in ("features", "labels", "files")}
    return photos._replace(**rows)


def without_blocks(photos: FeatureSet, names: list[str]) -> FeatureSet:
    """Returns the photos without some blocks of features."""
    blocks = {name: size for name, size in photos.blocks.items() if name not in names}
    return photos._replace(features=np.concatenate([photos.block(name) for name in blocks], axis=1), blocks=blocks)


def validation_split(settings: Params, labels: np.ndarray, train: np.ndarray) -> list[np.ndarray]:
    """Returns the indices of the photos to fit to and of the validation photos."""
    return train_test_split(train, test_size=0.1, stratify=labels[train], random_state=settings.base.seed)


def predict_head(settings: Params, photos: FeatureSet, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fits the head as the train stage does, and returns the probabilities of the test photos."""
    from gemmodel.train import fusion_head
    from gemmodel.train.ridge.kernel_ridge import KernelRidge

    model, classes = settings.model.fusion, len(photos.classes)
    if len(model.penalties) == 1:  # nothing to select, so it is fitted to all photos at once
        ridge = KernelRidge(
            model, classes=classes, blocks=list(photos.blocks.values()), penalty=model.penalties[0]
        ).fit(photos.features[train], photos.labels[train])  # fmt: skip
        return ridge.predict_proba(photos.features[test])
    fit_part, val = (subset(photos, indices) for indices in validation_split(settings, photos.labels, train))
    ridge, _ = fusion_head.fit_kernel(model, fit_part, val, params=settings.train)
    return ridge.predict_proba(photos.features[test])


def predict_fine_tuned(
    settings: Params, photos: FeatureSet, clean: Path, scratch: Path, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Fine-tunes as the train stage does, and returns the probabilities of the test photos."""
    from gemmodel.embed import samples
    from gemmodel.train import fine_tuning
    from gemmodel.train.context import TrainingContext

    shutil.rmtree(scratch, ignore_errors=True)
    for name, indices in zip(("train", "val"), validation_split(settings, photos.labels, train), strict=True):
        part = subset(photos, np.sort(indices))  # by class, as the stages have them
        for file in part.files:
            link = scratch / name / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((clean / file).resolve())
        feature_set.write(scratch / "features" / name, part)
    context = TrainingContext(
        settings, split=scratch, augmented=scratch, features=scratch / "features", hierarchy={},
        checkpoints=scratch / "checkpoints",
        on_epoch=lambda epoch, values: print(epoch, values, file=sys.stderr),
    )  # fmt: skip
    result = fine_tuning.fine_tune(context)
    data = samples.batches(
        [clean / name for name in photos.files[test]], photos.labels[test],
        classes=len(photos.classes), image_size=settings.base.image_size, batch_size=8,
    )  # fmt: skip
    probs, _ = result.model.predict(data, verbose=0)
    return probs


def clean_photos(photos: Path, out: Path, scratch: Path, settings: Params) -> None:
    """Crawls and cleans a folder of class folders."""
    from scraper.sources import crawl

    crawl(replace(settings.crawl, source=("folder",), folder=str(photos)), scratch / "raw", logs=scratch / "logs")
    cleaning.clean(scratch / "raw", out, settings.clean)


def read_features(settings: Params, keep: Path) -> tuple[Path, FeatureSet]:
    """Returns the table of the features of the clean photos, computed if it is not there yet, and the features."""
    from gemmodel.embed import embedding, extractor

    size, folders = settings.base.image_size, {}
    classes = list(image_folder.list_images(keep / "clean"))
    for label, one in extractor.apart(settings.embed).items():  # each backbone apart, for other sets of them
        parts = (label, size, *one.views, one.covariance_channels, *one.colour_spaces)
        folders[label] = keep / "-".join(map(str, parts))
        if not folders[label].is_dir():
            model = extractor.extractor(one, image_size=size)
            embedding.embed({keep / "clean": folders[label]}, model, classes=classes)
    folder = keep / "+".join(path.name for path in folders.values())
    if not folder.is_dir():
        feature_set.join(folders, folder, settings={})
    photos = feature_set.read(folder)
    return folder / feature_set.TABLE, photos._replace(features=photos.features[:])


def compute_scores(probs: np.ndarray, labels: np.ndarray, classes: list[str]) -> list[float]:
    """Returns the SCORES of some photos."""
    from gemmodel.evaluate import metrics

    scores = metrics.compute_scores(metrics.Predictions([], labels, probs, classes), top=TOP)
    return [float(scores[name]) for name in SCORES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("../shared/gemstones"), help="a folder per class")
    parser.add_argument("--keep", type=Path, help="stores photos, features and predictions for other runs")
    parser.add_argument("--seed", type=int, nargs="+", help="of the folds and the head (default: base.seed)")
    parser.add_argument("--only", choices=ABLATIONS | SLOW, nargs="+", help="rows (default: all that are not slow)")
    parser.add_argument("--backbones", nargs="+", default=[], metavar="NAME", help="rows instead: NAME or NAME+NAME")
    parser.add_argument("--image-size", type=int, default=224, help="of these rows, in pixels")
    parser.add_argument("--folds", type=int, nargs="+", choices=range(FOLDS), default=[*range(FOLDS)])
    arguments = parser.parse_args()
    rows = ABLATIONS | SLOW
    for names in arguments.backbones:
        size = {"image_size": arguments.image_size}
        rows |= {names: {"embed": {"backbone": tuple(names.split("+"))}, "base": size}}
    if not arguments.photos.is_dir():
        raise SystemExit(f"accuracy: {arguments.photos}: no such folder; --photos takes one with a folder per class")
    shipped = params.load(Path("params.yaml"))
    seeds = arguments.seed or [shipped.base.seed]
    environment.apply_environment()
    print(devices.prepare(shipped.base))
    import keras

    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        keep = arguments.keep or scratch / "keep"
        keep.mkdir(parents=True, exist_ok=True)
        if not (keep / "clean").is_dir():
            clean_photos(arguments.photos, keep / "clean", scratch, shipped)
        print("| setting | top-1 | top-5 | log loss | calibration error | seconds per fit |\n| --- |" + 5 * " ---: |")
        for name in [*(arguments.only or ([] if arguments.backbones else ABLATIONS)), *arguments.backbones]:
            changes = rows[name]
            changed = with_changes(shipped, changes)
            file, photos = read_features(changed, keep)
            photos = without_blocks(photos, changes.get("without", []))
            scores, errors, start, fits = [], [], time.perf_counter(), 0
            for seed in seeds:
                settings = replace(changed, base=replace(changed.base, seed=seed))
                splits = list(
                    StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(photos.labels, photos.labels)
                )
                key = hashing.run_key([settings], [file])
                probs = np.zeros((len(photos.labels), len(photos.classes)), np.float32)
                scores_by_fold, predicted = [], []
                for fold in arguments.folds:
                    train, test = splits[fold]
                    stored = keep / f"{name.replace('/', '_')}-{fold}-{key}.npz"
                    if not stored.is_file():
                        keras.utils.set_random_seed(seed)
                        if settings.model.fusion.fine_tune_epochs:
                            fold_probs = predict_fine_tuned(
                                settings, photos, keep / "clean", scratch / "fold", train, test
                            )
                        else:
                            fold_probs = predict_head(settings, photos, train, test)
                        npz.write(stored, probs=fold_probs)
                        fits += 1
                    with np.load(stored) as arrays:
                        probs[test] = arrays["probs"]
                    scores_by_fold.append(compute_scores(probs[test], photos.labels[test], photos.classes))
                    rounded = np.round(scores_by_fold[-1], 4)
                    print(name, f"seed {seed}, fold {fold}", *rounded, file=sys.stderr, flush=True)
                    predicted += test.tolist()
                scores.append(compute_scores(probs[predicted], photos.labels[predicted], photos.classes))
                folds = len(scores_by_fold)
                errors.append(np.std(scores_by_fold, axis=0, ddof=1) / folds**0.5 if folds > 1 else len(SCORES) * [0])
            seconds = f"{(time.perf_counter() - start) / fits:.0f}" if fits else "stored"
            means = zip(np.mean(scores, axis=0), np.mean(errors, axis=0), strict=True)
            columns = [f"{mean:.4f} +- {error:.4f}" for mean, error in means]
            print(f"| {name} | {' | '.join(columns)} | {seconds} |", flush=True)
        print(f"\n{len(photos.labels)} photos, seeds {seeds}, folds {arguments.folds} of each")


if __name__ == "__main__":
    main()
