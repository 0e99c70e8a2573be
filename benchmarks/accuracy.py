"""How accurate and how honest `fusion` is on real photos, by stratified cross-validation: a Markdown table, to print.

Each row has one thing of params.yaml changed, or a block of features left out. In each fold a tenth of the training
photos, the validation part, selects the epoch, or the penalty where there are several; a kernel head learns from it
too. Calibration is by leave-one-out within the photos learnt from; of a softmax head, and of a fine-tuned network's
joined answers, by the validation part. Figures are of all photos' out-of-fold probabilities, averaged over the seeds;
+- is the standard error over the folds of one seed. Calibration error is in ten bins. Log loss is in nats.

python benchmarks/accuracy.py [--photos ../shared/gemstones] [--keep FOLDER] [--seed 1 2] [--only default "no colours"]

The rows under "slow" run only when named: "fine-tuned" learns from pixels, ten minutes a fold; try `--folds 0` first.
With --keep each fold's answers stay, by parameters, features and code: so what was killed goes on, and after processes
that share the folder and do some `--folds` each one more has the figures of all. Photos and features are taken as they
lie there: let one process make them first (`--only default --folds 0`), in a new folder where their code has changed.
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
from gemmodel.core import image_folder, npz, params
from gemmodel.core.params import Params
from gemmodel.embed import feature_set

FOLDS, TOP = 5, 5
FIGURES = ("accuracy", f"top_{TOP}_accuracy", "log_loss", "calibration_error")
LITE2 = {"embed": {"backbone": "efficientnet_lite2"}, "base": {"image_size": 260}}
TUNED: dict[str, Any] = {
    "fusion": {"fine_tune_epochs": 16, "learning_rate": 0.0007, "unfreeze": "blocks.5"},
    "train": {"batch_size": 32, "mixup": 0.4},
    "augment": {"rotation": 180.0, "shift": 0.1, "shear": 0.1, "vertical_flip": True},
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "no covariances": {"without": ["covariances"]},
    "no colours": {"without": ["colours"]},
    "maps alone": {"without": ["covariances", "colours"]},
    "one view": {"embed": {"views": ("photo",)}},
    "three views": {"embed": {"views": ("photo", "mirror", "quarter_turn")}},
    "no confusions": {"fusion": {"stacking_penalty": 0.0}},
    "degree 3 alone": {"fusion": {"degree": (3,)}},
    "degree 3 alone, no confusions": {"fusion": {"degree": (3,), "stacking_penalty": 0.0}},
    "degree 8 alone": {"fusion": {"degree": (8,)}},
    "linear kernel": {"fusion": {"degree": (1,)}},
    "512 components": {"fusion": {"components": 512}},
    "penalty of 0.03, 0.1 or 0.3": {"fusion": {"penalties": (0.03, 0.1, 0.3)}},
    "softmax head": {"fusion": {"head": "softmax"}},
    "softmax head, no covariances": {"without": ["covariances"], "fusion": {"head": "softmax"}},
    "Lite2 at 260 pixels": LITE2,
}
SLOW = {"fine-tuned": TUNED, "Lite2 at 260 pixels, fine-tuned": LITE2 | TUNED}


def changed(settings: Params, changes: dict[str, Any]) -> Params:
    """Returns the parameters with some values of a few sections replaced."""
    sections = ("base", "embed", "train", "augment")
    return replace(
        settings,
        **{name: replace(getattr(settings, name), **changes.get(name, {})) for name in sections},
        model=replace(settings.model, fusion=replace(settings.model.fusion, **changes.get("fusion", {}))),
    )


def head(settings: Params, known: np.ndarray, labels: np.ndarray, sizes: list[int], train: np.ndarray) -> np.ndarray:
    """Fits the head as the train stage does and returns the probabilities of all photos."""
    from gemmodel.models import fusion
    from gemmodel.train import fit, fusion_head, kernel_ridge

    model, classes = settings.model.fusion, int(labels.max()) + 1
    fit, val = train_test_split(train, test_size=0.1, stratify=labels[train], random_state=settings.base.seed)
    names = list(map(str, range(classes)))
    parts = [feature_set.FeatureSet(known[part], labels[part], part.astype(str), names, sizes) for part in (fit, val)]
    given = {"train": settings.train, "on_epoch": lambda *_: None}
    if model.head == "kernel" and len(model.penalties) == 1:  # nothing to select: the validation photos are learnt from
        all_of_them = (known[train], labels[train])
        fitted, *_ = kernel_ridge.kernel_head(
            model, *all_of_them, classes=classes, blocks=sizes, penalty=model.penalties[0]
        )
    elif model.head == "kernel":
        fitted, *_ = fusion_head.fit_kernel(model, *parts, **given)
    else:
        fitted = fusion.softmax_head(model, parts[0].features, classes=classes)
        fusion_head.fit_softmax(fitted, *parts, seed=settings.base.seed, **given)
        fusion_head.temperature_scale(fitted, fit.held_out_predictions(fitted, parts[0][:3], parts[1][:2]))
    return np.asarray(fitted(known))


def tuned(settings: Params, file: Path, clean: Path, scratch: Path, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fine-tunes as the train stage does and returns the probabilities of the photos left out."""
    from gemmodel.embed import samples
    from gemmodel.train import fine_tuning

    shutil.rmtree(scratch, ignore_errors=True)
    embedded = feature_set.read(file)
    labels, size = embedded.labels, settings.base.image_size
    fit, val = train_test_split(train, test_size=0.1, stratify=labels[train], random_state=settings.base.seed)
    for name, part in (("train", np.sort(fit)), ("val", np.sort(val))):  # by class, as the stages have them
        for place in part:
            link = scratch / name / embedded.files[place]
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((clean / embedded.files[place]).resolve())
        rows = {key: getattr(embedded, key)[part] for key in ("features", "labels", "files")}
        npz.write(scratch / f"{name}.npz", **{**embedded._asdict(), **rows})
    model, classes, *_ = fine_tuning.fine_tune(
        settings.model.fusion, settings.train, settings.augment, settings.embed, base=settings.base,
        folder=scratch, split=scratch, backup=scratch / "backup", on_epoch=lambda epoch, values: print(epoch, values),
    )  # fmt: skip
    paths = [clean / name for name in embedded.files[test]]
    data = samples.batches(paths, labels[test], classes=len(classes), image_size=size, batch_size=8)
    return np.asarray(model.predict(data, verbose=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("../shared/gemstones"), help="a folder a class")
    parser.add_argument("--keep", type=Path, help="photos, features and answers stay here; reuse them")
    parser.add_argument("--seed", type=int, nargs="+", help="of the folds and the head; base.seed unless told")
    parser.add_argument("--only", choices=ABLATIONS | SLOW, nargs="+", default=list(ABLATIONS), help="rows")
    parser.add_argument("--folds", type=int, nargs="+", choices=range(FOLDS), default=[*range(FOLDS)], help="numbers")
    arguments = parser.parse_args()
    if not arguments.photos.is_dir():
        raise SystemExit(f"accuracy: {arguments.photos}: no such folder; name one of class folders with --photos")
    settings = params.load(Path("params.yaml"))
    print(devices.prepare(settings.base))
    import keras

    from gemmodel.core import hashing
    from gemmodel.embed import embedding, extractor
    from scraper.sources import crawl

    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        keep = arguments.keep or scratch / "kept"
        keep.mkdir(parents=True, exist_ok=True)
        if not (keep / "clean").is_dir():
            raw = scratch / "raw"
            source = replace(settings.crawl, source=("folder",), folder=str(arguments.photos))
            crawl(source, raw, logs=scratch / "logs")
            cleaning.clean(raw, keep / "clean", settings.clean)
        classes = list(image_folder.list_images(keep / "clean"))
        print("| setting | top-1 | top-5 | log loss | calibration error | seconds a fit |\n| --- |" + 5 * " ---: |")
        for name in arguments.only:
            change = (ABLATIONS | SLOW)[name]
            given = changed(settings, change)
            embed, size = given.embed, given.base.image_size
            tag = (embed.backbone, size, *embed.views, embed.covariance_channels, *embed.colour_spaces)
            file = keep / f"{'-'.join(map(str, tag))}.npz"
            if not file.is_file():
                extractor = extractor.extractor(embed, image_size=size)
                embedding.embed({keep / "clean": file}, extractor, classes=classes)
            known, labels, _, _, sizes = feature_set.read(file)
            blocks = dict(zip(("maps", "covariances", "colours"), sizes, strict=True))
            taken = [block not in change.get("without", ()) for block in blocks]
            known = known[:, np.repeat(taken, list(blocks.values()))]
            sizes = [size for size, wanted in zip(blocks.values(), taken, strict=True) if wanted]
            scores, errors, started, fits = [], [], time.perf_counter(), 0
            for seed in arguments.seed or [settings.base.seed]:
                given = replace(given, base=replace(given.base, seed=seed))
                told, by_fold, scored = np.zeros((len(labels), len(classes)), np.float32), [], []
                splits = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels))
                key = hashing.run_key([given], [file])
                for number in arguments.folds:
                    train, test = splits[number]
                    answers = keep / f"{name}-{number}-{key}.npz"
                    if not answers.is_file():
                        keras.utils.set_random_seed(seed)
                        if given.model.fusion.fine_tune_epochs:
                            found = tuned(given, file, keep / "clean", scratch / "fold", train, test)
                        else:
                            found = head(given, known, labels, sizes, train)[test]
                        npz.write(answers, told=found)
                        fits += 1
                    with np.load(answers) as kept:
                        told[test] = kept["told"]
                    by_fold.append(figures(told, labels, classes, test))
                    print(name, f"seed {seed}, fold {number}", *np.round(by_fold[-1], 4), file=sys.stderr, flush=True)
                    scored += test.tolist()
                scores.append(figures(told, labels, classes, np.array(scored)))
                errors.append(np.std(by_fold, axis=0, ddof=1) / len(by_fold) ** 0.5 if len(by_fold) > 1 else 4 * [0])
            seconds = f"{(time.perf_counter() - started) / fits:.0f}" if fits else "kept"
            columns = [
                f"{a:.4f} +- {b:.4f}" for a, b in zip(np.mean(scores, axis=0), np.mean(errors, axis=0), strict=True)
            ]
            print(f"| {name} | {' | '.join(columns)} | {seconds} |", flush=True)
        print(
            f"\n{len(labels)} photos, seeds {arguments.seed or [settings.base.seed]}, folds {arguments.folds} of each"
        )


def figures(told: np.ndarray, labels: np.ndarray, classes: list[str], part: np.ndarray) -> list[float]:
    """Returns the FIGURES of some photos."""
    from gemmodel.evaluate import metrics

    found = metrics.compute_scores(metrics.Predictions([], labels[part], told[part], classes), top=TOP)
    return [float(found[name]) for name in FIGURES]


if __name__ == "__main__":
    main()
