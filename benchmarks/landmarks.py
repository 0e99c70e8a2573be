"""The kernel head with fewer landmarks than photos, by stratified five-fold cross-validation on cached features.

python benchmarks/landmarks.py [--features data/features] [--landmarks 8192 1500 1000 500] [--seed 91]

For each number of landmarks: top-1 and log loss on the photos of the fold; the same of the leave-one-out probabilities
of the photos that the head is fitted to; seconds. The penalty is the first one of params.yaml. Run it after
`dvc repro embed` on real photos: on the 2,426 photos of 87 gems it takes some five minutes on two cores.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from gemmodel.core import params
from gemmodel.embed import feature_set
from gemmodel.train.kernel_ridge import KernelRidge

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("data/features"), help="output of `embed`")
    parser.add_argument("--landmarks", type=int, nargs="+", default=[8192, 1500, 1000, 500])
    parser.add_argument("--seed", type=int, default=91, help="of the folds")
    arguments = parser.parse_args()
    model = params.load(Path("params.yaml")).model.fusion
    photos = feature_set.read(arguments.features / "train").concat(feature_set.read(arguments.features / "val"))
    features, labels = photos.features[:], photos.labels
    classes = range(len(photos.classes))
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=arguments.seed).split(labels, labels))
    print("landmarks  top-1  log loss  top-1 left out  log loss left out  seconds a fold")
    for landmarks in arguments.landmarks:
        scores, start = [], time.perf_counter()
        for train, test in folds:
            ridge = KernelRidge(
                replace(model, landmarks=landmarks), classes=len(classes), blocks=list(photos.blocks.values()),
                penalty=model.penalties[0],
            ).fit(features[train], labels[train])  # fmt: skip
            scores.append(
                [
                    score
                    for probs, actual in (
                        (ridge.predict_proba(features[test]), labels[test]),
                        (ridge.loo_probs_, labels[train]),
                    )
                    for score in ((probs.argmax(axis=1) == actual).mean(), log_loss(actual, probs, labels=classes))
                ]
            )
        means, seconds = np.mean(scores, axis=0), (time.perf_counter() - start) / FOLDS
        print(
            f"{landmarks:9}  {means[0]:.3f}  {means[1]:8.3f}  {means[2]:14.3f}  {means[3]:17.3f}  {seconds:14.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
