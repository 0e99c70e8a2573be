"""Mineral classes and prediction sets of the kernel head, by stratified five-fold cross-validation on cached features.

python benchmarks/prediction_sets.py [--features data/features] [--hierarchy data/split/hierarchy.json] [--seed 1 2 3]

Mineral classes: the class with the largest sum of probabilities over its gems, against the class of the most probable
gem, for `labels: all` and `labels: separate`. Each photo gives one point for the right gem and one for the right class.

Prediction sets: coverage (the fraction of photos whose set contains the actual gem), gems per set, and the fraction of
sets of one gem. There are three thresholds: from the leave-one-out probabilities of all training photos; from a tenth
of the photos, on which the head is not fitted (split conformal prediction, exact); and the latter for a head that is
fitted to all. The penalty is the first one of params.yaml, so the benchmark selects nothing.

Expected on the 2,426 photos of the training and validation parts of 87 real gems: 0.82 to 0.83 of the gems and 0.86 to
0.87 of the mineral classes are right; leave-one-out thresholds have coverage 0.92 to 0.93 with 1.4 gems per set. A
seed takes some ten minutes on two cores. Run it after `dvc repro` on real photos.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from gemmodel import devices
from gemmodel.core import files, params
from gemmodel.embed import feature_set
from gemmodel.models import conformal
from gemmodel.models.metadata import mineral_class_indices
from gemmodel.train.kernel_ridge import KernelRidge

FOLDS = 5


def set_threshold(probs: np.ndarray, labels: np.ndarray, coverage: float) -> float:
    return -conformal.conformal_quantile(-probs[np.arange(len(labels)), labels], coverage, default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("data/features"), help="output of `embed`")
    parser.add_argument("--hierarchy", type=Path, default=Path("data/split/hierarchy.json"), help="output of `split`")
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3], help="of the folds")
    arguments = parser.parse_args()
    settings = params.load(Path("params.yaml"))
    print(devices.prepare(settings.base))
    photos = feature_set.read(arguments.features / "train").concat(feature_set.read(arguments.features / "val"))
    features, labels = photos.features[:], photos.labels
    names, parents = mineral_class_indices(photos.classes, files.read_json(arguments.hierarchy))
    coverage = settings.train.coverage

    def fit(kind: str, part: np.ndarray) -> KernelRidge:
        model = replace(settings.model.fusion, labels=kind)
        ridge = KernelRidge(
            model, classes=len(photos.classes), blocks=list(photos.blocks.values()), penalty=model.penalties[0],
            parents=parents.tolist(),
        )  # fmt: skip
        return ridge.fit(features[part], labels[part])

    for seed in arguments.seed:
        points = dict.fromkeys(("all, best gem", "all, summed", "separate, best gem", "separate, summed"), (0, 0))
        sets: dict[str, list[np.ndarray]] = {}
        for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels):
            fit_part, calibration = train_test_split(train, test_size=1 / 8, stratify=labels[train], random_state=seed)
            ridge, partial = fit("all", train), fit("all", fit_part)
            probs, partial_probs = ridge.predict_proba(features[test]), partial.predict_proba(features[test])
            separate_probs = fit("separate", train).predict_proba(features[test])
            for kind, kind_probs in (("all", probs), ("separate", separate_probs)):
                best, summed = kind_probs.argmax(axis=1), kind_probs @ np.eye(len(names))[parents]
                for rule, mineral_class in (("best gem", parents[best]), ("summed", summed.argmax(axis=1))):
                    right = (best == labels[test]).sum(), (mineral_class == parents[labels[test]]).sum()
                    points[f"{kind}, {rule}"] = tuple(np.add(points[f"{kind}, {rule}"], right).tolist())
            split_threshold = set_threshold(partial.predict_proba(features[calibration]), labels[calibration], coverage)
            for name, rule_probs, threshold in (
                ("leave-one-out", probs, set_threshold(ridge.loo_probs_, labels[train], coverage)),
                ("split", partial_probs, split_threshold),
                ("split, head fitted to all", probs, split_threshold),
            ):
                members = conformal.prediction_sets(rule_probs, threshold)
                covered = members[np.arange(len(test)), labels[test]]
                right = rule_probs.argmax(axis=1) == labels[test]
                sizes = members.sum(axis=1)
                sets.setdefault(name, []).append(np.stack([covered, sizes, sizes == 1, right]))
        for name, (gems, classes) in points.items():
            print(f"seed {seed}, {name}: {gems / len(labels):.4f} gems, {classes / len(labels):.4f} mineral classes, "
                  f"{gems + classes} of {2 * len(labels)} points", flush=True)  # fmt: skip
        for name, folds in sets.items():
            covered, size, single, right = np.concatenate(folds, axis=1).mean(axis=1)
            std = np.std([fold[0].mean() for fold in folds], ddof=1)
            print(f"seed {seed}, {name}: coverage {covered:.4f} (std over folds {std:.4f}), {size:.2f} gems per set, "
                  f"{single:.3f} of one gem, top-1 {right:.4f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
