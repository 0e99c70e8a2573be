"""Detection of photos that show none of the model's gems, by stratified five-fold cross-validation of the kernel head.

python benchmarks/out_of_distribution.py [--features data/features] [--photos ../shared/cats_dogs] [--keep FILE]
    [--seed 1 2]

In each fold a fifth of the gems is left out. The fold's photos of the other gems are in the distribution. Two kinds of
photos are out of it: photos of other things (cats and dogs) and, far harder, photos of the left-out gems. For each
score the output is the area under the ROC curve, and the fraction of the latter photos that are detected where 5 % of
the former are flagged. The last line has the fractions that the threshold in use flags; it is set by the leave-one-out
distances of the training photos.

Expected on real photos: the score in use (mean distance to the 3 nearest neighbours) has an area of 0.99 and detects
95 % of the cats and dogs; for left-out gems 0.79 and 24 %. A seed takes some ten minutes on two cores. Run it after
`dvc repro` on real photos.
"""

import argparse
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from prediction_sets import FOLDS
from scipy.linalg import cho_factor, cho_solve
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from gemmodel import devices
from gemmodel.core import image_folder, params
from gemmodel.embed import feature_set
from gemmodel.models import conformal
from gemmodel.models.conformal import HeldOutPredictions, ReferenceSet


def novelty_scores(probs: np.ndarray, embedding: np.ndarray, reference: ReferenceSet) -> dict[str, np.ndarray]:
    """Returns several scores, which are higher for photos unlike the reference; float (photos,) each."""
    x = reference.embedding.astype(np.float64)
    means = np.stack([x[reference.labels == label].mean(axis=0) for label in np.unique(reference.labels)])
    within = x - means[np.unique(reference.labels, return_inverse=True)[1]]
    covariance = within.T @ within / len(within)
    precision = np.linalg.inv(covariance + np.trace(covariance) / len(covariance) * np.eye(len(covariance)))
    mahalanobis = [
        np.einsum("ij,jk,ik->i", embedding - mean, precision, embedding - mean, optimize=True) for mean in means
    ]
    kernel = ((1 + embedding @ x.T) / 2) ** 3
    explained = cho_solve(cho_factor(((1 + x @ x.T) / 2) ** 3 + 0.3 * np.eye(len(x))), kernel.T)
    lengths = np.linalg.norm(x, axis=1) ** 2 + np.linalg.norm(embedding, axis=1)[:, None] ** 2
    euclidean = np.sqrt(np.maximum(lengths - 2 * embedding @ x.T, 0))
    units = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (embedding, x)]
    return {
        "1 - highest probability": 1 - probs.max(axis=1),
        "1 - inner product, nearest": conformal.nearest(embedding, x, 1)[0].mean(axis=1),
        "1 - inner product, mean of 3": conformal.nearest(embedding, x, 3)[0].mean(axis=1),
        "1 - inner product, mean of 10": conformal.nearest(embedding, x, 10)[0].mean(axis=1),
        "1 - cosine, mean of 3": conformal.nearest(*units, 3)[0].mean(axis=1),
        "Euclidean distance, mean of 3": np.sort(euclidean, axis=1)[:, :3].mean(axis=1),
        "minus the length": -np.linalg.norm(embedding, axis=1),
        "Mahalanobis distance": np.min(mahalanobis, axis=0),
        "variance of a Gaussian process": 1 - (kernel * explained.T).sum(axis=1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("data/features"), help="output of `embed`")
    parser.add_argument("--photos", type=Path, default=Path("../shared/cats_dogs"), help="of other things")
    parser.add_argument("--keep", type=Path, help="stores their features in this folder for other runs")
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2], help="of the folds and the left-out gems")
    arguments = parser.parse_args()
    settings = params.load(Path("params.yaml"))
    print(devices.prepare(settings.base))
    from gemmodel.embed import embedding
    from gemmodel.embed.extractor import extractor
    from gemmodel.train import fusion_head
    from gemmodel.train.kernel_ridge import KernelRidge

    photos = feature_set.read(arguments.features / "train").concat(feature_set.read(arguments.features / "val"))
    features, labels = photos.features[:], photos.labels
    with tempfile.TemporaryDirectory() as scratch:
        file = arguments.keep or Path(scratch) / "other"
        if not file.is_dir():
            names = list(image_folder.list_images(arguments.photos))
            model = extractor(settings.embed, image_size=settings.base.image_size)
            embedding.embed({arguments.photos: file}, model, classes=names)
        others = feature_set.read(file).features[:]
    fusion = replace(settings.model.fusion, labels="all")
    for seed in arguments.seed:
        results, flagged = defaultdict(list), defaultdict(list)
        shuffled_gems = np.random.default_rng(seed).permutation(len(photos.classes))
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels)
        for fold, (train, test) in enumerate(folds):
            left_out = np.isin(labels, shuffled_gems[fold::FOLDS])
            train, test = train[~left_out[train]], test[~left_out[test]]
            _, train_labels = np.unique(labels[train], return_inverse=True)
            ridge = KernelRidge(
                fusion, classes=int(train_labels.max()) + 1, blocks=list(photos.blocks.values()),
                penalty=fusion.penalties[0],
            ).fit(features[train], train_labels)  # fmt: skip
            embedder = fusion_head.to_keras(ridge)
            reference = ReferenceSet(embedder.predict(features[train], verbose=0)[1], train_labels, train.astype(str))
            held_out = HeldOutPredictions(ridge.loo_probs_, train_labels, reference)
            thresholds = conformal.fit_thresholds(held_out, settings.train)
            scores = {}
            for kind, part in (
                ("in distribution", features[test]),
                ("cats and dogs", others),
                ("left-out gems", features[left_out]),
            ):
                probs, embedded = embedder.predict(part, verbose=0)
                scores[kind] = novelty_scores(probs, embedded, reference)
                distances = conformal.nearest(embedded, reference.embedding, thresholds.neighbours)[0].mean(axis=1)
                flagged[kind].append((distances > thresholds.unknown_distance).mean())
            for name, inside in scores["in distribution"].items():
                for kind in ("cats and dogs", "left-out gems"):
                    outside = scores[kind][name]
                    is_outside = np.repeat([0, 1], [len(inside), len(outside)])
                    area = roc_auc_score(is_outside, np.concatenate([inside, outside]))
                    detected = (outside > np.quantile(inside, 0.95)).mean()
                    results[name, kind].append((area, detected))
        for (name, kind), values in results.items():
            area, detected = np.mean(values, axis=0)
            print(f"seed {seed}, {name}, {kind}: area {area:.4f}, detected {detected:.3f}", flush=True)
        fractions = ", ".join(f"{kind} {np.mean(values):.3f}" for kind, values in flagged.items())
        print(f"seed {seed}, flagged by the threshold in use: {fractions}", flush=True)


if __name__ == "__main__":
    main()
