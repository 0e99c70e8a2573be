"""How accurate and how honest `fusion` is on real photos: stratified five-fold cross-validation, default and ablations.

Each row has one ingredient of params.yaml changed. In each fold a tenth of the training photos, the validation part,
selects the penalty (or the epoch); calibration is by leave-one-out within the training photos. Calibration error is
over all photos' out-of-fold probabilities, in ten bins.

python benchmarks/accuracy.py [--photos ../shared/gemstones] [--keep FOLDER] [--seed 1 2] [--only default "no colour"]
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from gemmodel import devices, params
from gemmodel.data import cleaning, folders
from gemmodel.params import Params

FOLDS, TOP = 5, 5
ABLATIONS = {
    "default": {},
    "no covariances": {"embed": {"covariance_channels": 0}},
    "no colour": {"embed": {"colour_spaces": ()}},
    "one view": {"embed": {"views": ("photo",)}},
    "linear kernel": {"fusion": {"degree": 1}},
    "softmax head": {"fusion": {"head": "softmax"}},
    "softmax head, no covariances": {"embed": {"covariance_channels": 0}, "fusion": {"head": "softmax"}},
    "Lite2 at 260 pixels": {"embed": {"backbone": "efficientnet_lite2"}, "base": {"image_size": 260}},
}


def changed(settings: Params, changes: dict[str, dict[str, object]]) -> Params:
    """Returns the parameters with some values of `base`, `embed` and `fusion` replaced."""
    return replace(
        settings,
        base=replace(settings.base, **changes.get("base", {})),
        embed=replace(settings.embed, **changes.get("embed", {})),
        model=replace(settings.model, fusion=replace(settings.model.fusion, **changes.get("fusion", {}))),
    )


def fold(settings: Params, known: np.ndarray, labels: np.ndarray, scratch: Path, train: np.ndarray) -> np.ndarray:
    """Fits as the train stage does and returns the probabilities of all photos."""
    import keras

    from gemmodel.models import training

    keras.utils.set_random_seed(settings.base.seed)
    fit, val = train_test_split(train, test_size=0.1, stratify=labels[train], random_state=settings.base.seed)
    classes = np.arange(labels.max() + 1).astype(str)
    for name, part in (("train", fit), ("val", val)):
        files = part.astype(str)
        np.savez(scratch / f"{name}.npz", features=known[part], labels=labels[part], files=files, classes=classes)
    model, *_ = training.train_fusion(
        settings.model.fusion, settings.train, settings.embed,
        base=settings.base, folder=scratch, on_epoch=lambda epoch, values: None,
    )  # fmt: skip
    return np.asarray(model.get_layer("head")(known))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("../shared/gemstones"), help="a folder a class")
    parser.add_argument("--keep", type=Path, help="keeps cleaned photos and features here, and reuses them")
    parser.add_argument("--seed", type=int, nargs="+", help="of the folds and the head; base.seed unless told")
    parser.add_argument("--only", choices=ABLATIONS, nargs="+", default=list(ABLATIONS), help="rows")
    arguments = parser.parse_args()
    if not arguments.photos.is_dir():
        raise SystemExit(f"accuracy: {arguments.photos}: no such folder; name one of class folders with --photos")
    settings = params.load(Path("params.yaml"))
    print(devices.prepare(settings.base))
    from gemmodel.insight import evaluation
    from gemmodel.models import features
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
        classes = list(folders.photos(keep / "clean"))
        for name in arguments.only:
            given = changed(settings, ABLATIONS[name])
            embed, size = given.embed, given.base.image_size
            tag = (embed.backbone, size, *embed.views, embed.covariance_channels, *embed.colour_spaces)
            file = keep / f"{'-'.join(map(str, tag))}.npz"
            started = time.perf_counter()
            if not file.is_file():
                features.embed(keep / "clean", file, features.extractor(embed, image_size=size), classes=classes)
            embedded = time.perf_counter() - started
            known, labels, _ = features.read(file)
            for seed in arguments.seed or [settings.base.seed]:
                given = replace(given, base=replace(given.base, seed=seed))
                started = time.perf_counter()
                told = np.zeros((len(labels), len(classes)), np.float32)
                by_fold = []
                for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels):
                    told[test] = fold(given, known, labels, scratch, train)[test]
                    part = evaluation.Predictions([], labels[test], told[test], classes)
                    by_fold.append(evaluation.scores(part, top=TOP))
                whole = evaluation.scores(evaluation.Predictions([], labels, told, classes), top=TOP)
                columns = []
                for figure in ("accuracy", f"top_{TOP}_accuracy", "log_loss", "calibration_error"):
                    error = np.std([scores[figure] for scores in by_fold], ddof=1) / FOLDS**0.5
                    columns.append(f"{figure} {whole[figure]:.4f} +- {error:.4f}")
                seconds = time.perf_counter() - started
                print(
                    f"{name}, seed {seed}: {', '.join(columns)} ({len(labels)} photos; embedded in {embedded:.0f} s, "
                    f"five fits {seconds:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
