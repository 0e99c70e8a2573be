"""Mineral classes and prediction sets of the kernel head, by stratified five-fold cross-validation on cached features.

python benchmarks/prediction_sets.py [--features data/features] [--hierarchy data/split/hierarchy.json] [--seed 1 2 3]
    [--only sets] [--test reports/evaluation/predictions.csv]

Mineral classes: the class with the largest sum of probabilities over its gems, against the class of the most probable
gem, for `labels: all` and `labels: separate`. Each photo gives one point for the right gem and one for the right class.

Prediction sets: coverage (the fraction of photos whose set contains the actual gem), gems per set, and the fraction of
sets of one gem. There are three thresholds: from the leave-one-out probabilities of all training photos; from a tenth
of the photos, on which the head is not fitted (split conformal prediction, exact); and the latter for a head that is
fitted to all. The penalty is the first one of params.yaml, so the benchmark selects nothing.

Rules: which gems are in a set. All are calibrated by the leave-one-out probabilities and pooled over folds and seeds.
For each the coverage by size and by the highest probability; the violation is the largest distance of the coverage of a
size from 0.9 (Angelopoulos and others, ICLR 2021), over sizes of at least one photo in a hundred. Then how often the
words of an answer are right, and the promised frequency against the one on other photos.

`--only sets` leaves out the mineral classes and the split thresholds. `--test` reports the rules on the test part, too,
from the table of `evaluate`; nothing was chosen by it.

Expected on the 2,426 photos of the training and validation parts of 87 real gems: 0.82 to 0.83 of the gems and 0.86 to
0.87 of the mineral classes are right; leave-one-out thresholds have coverage 0.92 to 0.93 with 1.4 gems per set. A
seed takes some ten minutes on two cores, with `--only sets` two. Run it after `dvc repro` on real photos.
"""

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold, train_test_split

from gemmodel import devices
from gemmodel.core import files, params
from gemmodel.embed import feature_set
from gemmodel.evaluate import set_metrics
from gemmodel.models import conformal, held_out
from gemmodel.models.conformal import HeldOutPredictions, ReferenceSet, Thresholds
from gemmodel.models.metadata import ModelMetadata, mineral_class_indices
from gemmodel.serve import predictions
from gemmodel.train.ridge.kernel_ridge import KernelRidge

FOLDS = 5
Scores = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
RULES: dict[
    str, Scores
] = {  # of sorted probabilities, their running sums, ranks from 0 and a number in [0, 1) per photo
    "probability (before)": lambda p, total, rank, u: -p,
    "ratio to the highest": lambda p, total, rank, u: -p / p[:, :1],
    "filled to a sum": lambda p, total, rank, u: total - p,
    "APS": lambda p, total, rank, u: total,
    "APS, randomised": lambda p, total, rank, u: total - u * p,
    "RAPS 0.01, randomised": lambda p, total, rank, u: total - u * p + 0.01 * rank,
    "RAPS 0.1, randomised": lambda p, total, rank, u: total - u * p + 0.1 * rank,
    "RAPS 0.01": lambda p, total, rank, u: total + 0.01 * rank,
}


def rule_scores(rule: str, probs: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Returns each gem's nonconformity; that of the most probable gem is the least, since it is in every set."""
    order = np.argsort(-probs, axis=1, kind="stable")
    ranked = np.take_along_axis(probs, order, axis=1)
    scores = RULES[rule](ranked, ranked.cumsum(axis=1), np.arange(probs.shape[1]), u[:, None]).astype(float)
    scores[:, 0] = -np.inf
    result = np.empty_like(scores)
    np.put_along_axis(result, order, scores, axis=1)
    return result


def rule_sets(
    rule: str, coverage: float, *, held: np.ndarray, labels: np.ndarray, held_u: np.ndarray, probs: np.ndarray,
    u: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Returns the sets of photos by a rule that is calibrated on held-out photos, bool (photos, classes)."""
    label_scores = rule_scores(rule, held, held_u)[np.arange(len(labels)), labels]
    threshold = conformal.conformal_quantile(label_scores, coverage, default=np.inf)
    return rule_scores(rule, probs, u) <= threshold


def uniform(names: np.ndarray) -> np.ndarray:
    """Returns a number in [0, 1) for each photo that is always the same: from a hash of its name."""
    return np.array([int(hashlib.sha256(str(name).encode()).hexdigest()[:8], 16) / 2**32 for name in names])


def report_rules(sets: Mapping[str, np.ndarray], probs: np.ndarray, labels: np.ndarray, coverage: float) -> None:
    for rule, members in sets.items():
        table = set_metrics.stratified(labels, probs, members)
        common = table[(table["by"] == "size") & (table["photos"] >= len(labels) / 100)]
        whole = table[table["by"] == "all"].iloc[0]
        violation = (common["coverage"] - coverage).abs().max()
        print(f"{rule}: coverage {whole['coverage']:.3f}, {whole['size']:.2f} gems per set, "
              f"{(members.sum(axis=1) == 1).mean():.2f} of one gem, violation {violation:.3f}")  # fmt: skip
        for by, rows in table[table["by"] != "all"].groupby("by", sort=False):
            print(f"    {by}: " + ", ".join(f"{r.stratum} {r.coverage:.2f} ({r.photos})" for r in rows.itertuples()))


def report_words(
    folds: Sequence[tuple[HeldOutPredictions, np.ndarray, np.ndarray]], classes: list[str], train: params.TrainParams
) -> None:
    rows = []
    for held, probs, labels in folds:
        thresholds = conformal.fit_thresholds(held, train)
        summary = held_out.summarise(held, classes, thresholds)
        metadata = ModelMetadata(classes, dict.fromkeys(classes, ""), thresholds, held.reference, summary)
        made = predictions.to_predictions(probs, np.zeros((len(probs), 1)), metadata)
        for prediction, label in zip(made, labels, strict=True):
            text = predictions.to_text(replace(prediction, unknown=False))
            word = text.removesuffix(predictions.join(prediction.prediction_set)).strip() or "no word"
            kind = f"{word}, {'one gem' if len(prediction.prediction_set) == 1 else 'several gems'}"
            rows.append((kind, prediction.frequency, classes[label] in prediction.prediction_set))
    table = pd.DataFrame(rows, columns=["kind", "promised", "right"])
    print("Words: " + ", ".join(f"{kind} {g['right'].mean():.3f} ({len(g)})" for kind, g in table.groupby("kind")))
    print("Promised and right: " + ", ".join(
        f"{g['promised'].mean():.3f} {g['right'].mean():.3f} ({len(g)})"
        for _, g in table.groupby(table["promised"].mul(20).round())
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("data/features"), help="output of `embed`")
    parser.add_argument("--hierarchy", type=Path, default=Path("data/split/hierarchy.json"), help="output of `split`")
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3], help="of the folds")
    parser.add_argument("--only", choices=["sets"], help="leaves out mineral classes and split thresholds")
    parser.add_argument("--test", type=Path, help="predictions.csv of `evaluate`, for the rules on the test part")
    arguments = parser.parse_args()
    settings = params.load(Path("params.yaml"))
    print(devices.prepare(settings.base))
    photos = feature_set.read(arguments.features / "train").concat(feature_set.read(arguments.features / "val"))
    features, labels, u = photos.features[:], photos.labels, uniform(photos.files)
    names, parents = mineral_class_indices(photos.classes, files.read_json(arguments.hierarchy))
    coverage = settings.train.coverage
    reference = ReferenceSet(np.zeros((4, 1)), np.zeros(4, int), np.array(["", "", "", ""]))  # words need no distance
    pooled: dict[str, list[np.ndarray]] = {rule: [] for rule in RULES}
    tested, words = [], []

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
            ridge = fit("all", train)
            probs = ridge.predict_proba(features[test])
            for rule in RULES:
                pooled[rule].append(rule_sets(rule, coverage, held=ridge.loo_probs_, labels=labels[train],
                                              held_u=u[train], probs=probs, u=u[test]))  # fmt: skip
            tested.append((probs, labels[test]))
            held = HeldOutPredictions(ridge.loo_probs_, labels[train], reference)
            words.append((held, probs, labels[test]))
            thresholds = [("leave-one-out", probs, conformal.fit_thresholds(held, settings.train))]
            if not arguments.only:
                fit_part, calibration = train_test_split(
                    train, test_size=1 / 8, stratify=labels[train], random_state=seed
                )
                partial, separate_probs = fit("all", fit_part), fit("separate", train).predict_proba(features[test])
                for kind, kind_probs in (("all", probs), ("separate", separate_probs)):
                    best, summed = kind_probs.argmax(axis=1), kind_probs @ np.eye(len(names))[parents]
                    for kind_rule, mineral_class in (("best gem", parents[best]), ("summed", summed.argmax(axis=1))):
                        right = (best == labels[test]).sum(), (mineral_class == parents[labels[test]]).sum()
                        key = f"{kind}, {kind_rule}"
                        points[key] = tuple(np.add(points[key], right).tolist())
                split = replace(
                    held, probabilities=partial.predict_proba(features[calibration]), labels=labels[calibration]
                )
                split_thresholds: Thresholds = conformal.fit_thresholds(split, settings.train)
                thresholds += [("split", partial.predict_proba(features[test]), split_thresholds),
                               ("split, head fitted to all", probs, split_thresholds)]  # fmt: skip
            for name, rule_probs, fitted in thresholds:
                members = conformal.prediction_sets(rule_probs, fitted)
                covered = members[np.arange(len(test)), labels[test]]
                right = rule_probs.argmax(axis=1) == labels[test]
                sizes = members.sum(axis=1)
                sets.setdefault(name, []).append(np.stack([covered, sizes, sizes == 1, right]))
        for name, (gems, classes) in points.items() if not arguments.only else ():
            print(f"seed {seed}, {name}: {gems / len(labels):.4f} gems, {classes / len(labels):.4f} mineral classes, "
                  f"{gems + classes} of {2 * len(labels)} points", flush=True)  # fmt: skip
        for name, folds in sets.items():
            covered, size, single, right = np.concatenate(folds, axis=1).mean(axis=1)
            std = np.std([fold[0].mean() for fold in folds], ddof=1)
            print(f"seed {seed}, {name}: coverage {covered:.4f} (std over folds {std:.4f}), {size:.2f} gems per set, "
                  f"{single:.3f} of one gem, top-1 {right:.4f}", flush=True)  # fmt: skip
    all_probs, all_labels = (np.concatenate(arrays) for arrays in zip(*tested, strict=True))
    print(f"\nRules, {len(all_labels)} predictions of {len(labels)} photos")
    report_rules({rule: np.concatenate(s) for rule, s in pooled.items()}, all_probs, all_labels, coverage)
    report_words(words, photos.classes, settings.train)
    if arguments.test:
        table = pd.read_csv(arguments.test)
        test_probs = table[[f"P({gem})" for gem in photos.classes]].to_numpy()
        test_labels, test_u = table["actual"].map(photos.classes.index).to_numpy(), uniform(table["file"].to_numpy())
        loo = fit("all", np.arange(len(labels))).loo_probs_
        print(f"\nRules, {len(test_labels)} photos of the test part")
        members = {
            rule: rule_sets(rule, coverage, held=loo, labels=labels, held_u=u, probs=test_probs, u=test_u)
            for rule in RULES
        }
        report_rules(members, test_probs, test_labels, coverage)
        held = HeldOutPredictions(loo, labels, reference)
        report_words([(held, test_probs, test_labels)], photos.classes, settings.train)


if __name__ == "__main__":
    main()
