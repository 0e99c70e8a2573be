"""Two-level labels and prediction sets of the kernel head, by stratified five-fold cross-validation on cached features.

Labels: one point for each right label (mineral class, gem) of each photo, and the probability summed over a mineral
class's gems against that of the best gem. Sets: share of photos whose gem is in its set, gems a set, share of sets of
one gem; with thresholds from every photo, left out in turn, or from a tenth of the photos, which the head has not seen
(split conformal, exact), and with the latter for a head that has then learnt from all.
The penalty is the first one of params.yaml, so nothing is chosen here.

python benchmarks/answers.py [--features data/features] [--hierarchy data/split/hierarchy.json] [--seed 1 2 3]
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from gemmodel import devices
from gemmodel.core import files, params
from gemmodel.embed import feature_set
from gemmodel.models import conformal
from gemmodel.models.metadata import mineral_class_indices

FOLDS = 5


def threshold(told: np.ndarray, labels: np.ndarray, coverage: float) -> float:
    return -conformal.conformal_quantile(-told[np.arange(len(labels)), labels], coverage, otherwise=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("data/features"), help="what `embed` wrote")
    parser.add_argument("--hierarchy", type=Path, default=Path("data/split/hierarchy.json"), help="what `split` wrote")
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3], help="of the folds")
    arguments = parser.parse_args()
    settings = params.load(Path("params.yaml"))
    print(devices.prepare(settings.base))
    from gemmodel.train import kernel_ridge

    photos = feature_set.read(arguments.features / "train.npz").joined(feature_set.read(arguments.features / "val.npz"))
    known, labels, _, classes, blocks = photos
    names, of_gems = mineral_class_indices(classes, files.read_json(arguments.hierarchy))
    sizes: dict[str, Any] = {"classes": len(classes), "blocks": blocks, "parents": of_gems.tolist()}
    coverage = settings.train.coverage

    def fitted(kind: str, part: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = replace(settings.model.fusion, labels=kind)
        head, _, left_out = kernel_ridge.kernel_head(
            model, known[part], labels[part], **sizes, penalty=model.penalties[0]
        )
        return head.predict(known[test], verbose=0), left_out

    for seed in arguments.seed:
        points = dict.fromkeys(("all, best gem", "all, summed", "separate, best gem", "separate, summed"), (0, 0))
        sets: dict[str, list[np.ndarray]] = {}
        for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels):
            some, rest = train_test_split(train, test_size=1 / 8, stratify=labels[train], random_state=seed)
            told, left_out = fitted("all", train, test)
            separate, _ = fitted("separate", train, test)
            both, _ = fitted("all", some, np.concatenate([test, rest]))
            split_told, split_rest = both[: len(test)], both[len(test) :]
            for kind, given in (("all", told), ("separate", separate)):
                best, summed = given.argmax(axis=1), given @ np.eye(len(names))[of_gems]
                for way, primary in (("best gem", of_gems[best]), ("summed", summed.argmax(axis=1))):
                    right = (best == labels[test]).sum(), (primary == of_gems[labels[test]]).sum()
                    points[f"{kind}, {way}"] = tuple(np.add(points[f"{kind}, {way}"], right).tolist())
            by_rest = threshold(split_rest, labels[rest], coverage)
            for name, given, at in (
                ("left out, all learnt from", told, threshold(left_out, labels[train], coverage)),
                ("split", split_told, by_rest),
                ("split, then all learnt from", told, by_rest),
            ):
                chosen = conformal.prediction_sets(given, at)
                held = chosen[np.arange(len(test)), labels[test]]
                right = given.argmax(axis=1) == labels[test]
                sets.setdefault(name, []).append(np.stack([held, chosen.sum(axis=1), chosen.sum(axis=1) == 1, right]))
        for name, (gem, primary) in points.items():
            print(f"seed {seed}, {name}: {gem / len(labels):.4f} gems, {primary / len(labels):.4f} mineral classes, "
                  f"{gem + primary} of {2 * len(labels)} points", flush=True)  # fmt: skip
        for name, parts in sets.items():
            held, size, single, right = np.concatenate(parts, axis=1).mean(axis=1)
            spread = np.std([part[0].mean() for part in parts], ddof=1)
            print(f"seed {seed}, {name}: coverage {held:.4f} (over folds +- {spread:.4f}), {size:.2f} gems a set, "
                  f"{single:.3f} of one gem, top-1 {right:.4f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
