"""How well the kernel head notices photos unlike all known gems, by stratified five-fold cross-validation.

In each fold a fifth of the gems is left out whole. Of the others, the fold's photos are the known gems; strangers are
photos of something else (cats and dogs), and, far harder, the photos of the gems left out. For each score: the area
under the ROC curve, and the share noticed where 5 % of the known gems' photos are flagged. Then, of the score in use,
what its threshold, set by the photos learnt from with each left out in turn, flags of all three.

python benchmarks/unknown.py [--features data/features] [--strangers ../shared/cats_dogs] [--keep FILE] [--seed 1 2]
"""

import argparse
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from answers import FOLDS
from scipy.linalg import cho_factor, cho_solve
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from gemmodel import devices
from gemmodel.core import image_folder, params
from gemmodel.embed import feature_set
from gemmodel.models import conformal
from gemmodel.models.conformal import HeldOutPredictions, ReferenceSet


def strangeness(told: np.ndarray, photos: np.ndarray, reference: ReferenceSet) -> dict[str, np.ndarray]:
    """Returns several scores, the higher the stranger; float (photos,) each."""
    known = reference.embedding.astype(np.float64)
    means = np.stack([known[reference.labels == label].mean(axis=0) for label in np.unique(reference.labels)])
    within = known - means[np.unique(reference.labels, return_inverse=True)[1]]
    spread = within.T @ within / len(within)
    precision = np.linalg.inv(spread + np.trace(spread) / len(spread) * np.eye(len(spread)))
    away = [np.einsum("ij,jk,ik->i", photos - mean, precision, photos - mean, optimize=True) for mean in means]
    similar = ((1 + photos @ known.T) / 2) ** 3  # the kernel
    explained = cho_solve(cho_factor(((1 + known @ known.T) / 2) ** 3 + 0.3 * np.eye(len(known))), similar.T)
    lengths = np.linalg.norm(known, axis=1) ** 2 + np.linalg.norm(photos, axis=1)[:, None] ** 2
    euclid = np.sqrt(np.maximum(lengths - 2 * photos @ known.T, 0))
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (photos, known)]
    return {
        "1 - highest probability": 1 - told.max(axis=1),
        "1 - inner product, nearest": conformal.nearest(photos, known, 1)[0].mean(axis=1),
        "1 - inner product, mean of 3": conformal.nearest(photos, known, 3)[0].mean(axis=1),
        "1 - inner product, mean of 10": conformal.nearest(photos, known, 10)[0].mean(axis=1),
        "1 - cosine, mean of 3": conformal.nearest(*units, 3)[0].mean(axis=1),
        "Euclidean distance, mean of 3": np.sort(euclid, axis=1)[:, :3].mean(axis=1),
        "less the length": -np.linalg.norm(photos, axis=1),
        "Mahalanobis distance": np.min(away, axis=0),
        "variance of a Gaussian process": 1 - (similar * explained.T).sum(axis=1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("data/features"), help="what `embed` wrote")
    parser.add_argument("--strangers", type=Path, default=Path("../shared/cats_dogs"), help="a folder a class")
    parser.add_argument("--keep", type=Path, help="keeps their features in this file, and reuses it")
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2], help="of the folds and the gems left out")
    arguments = parser.parse_args()
    settings = params.load(Path("params.yaml"))
    print(devices.prepare(settings.base))
    from gemmodel.embed import embedding, extractor
    from gemmodel.models import saving
    from gemmodel.train import kernel_ridge

    photos = feature_set.read(arguments.features / "train.npz").joined(feature_set.read(arguments.features / "val.npz"))
    known, labels, _, classes, blocks = photos
    extractor = extractor.extractor(settings.embed, image_size=settings.base.image_size)
    with tempfile.TemporaryDirectory() as scratch:
        file = arguments.keep or Path(scratch) / "strangers.npz"
        if not file.is_file():
            names = list(image_folder.list_images(arguments.strangers))
            embedding.embed({arguments.strangers: file}, extractor, classes=names)
        strangers = feature_set.read(file).features
    whole = replace(settings.model.fusion, labels="all")
    for seed in arguments.seed:
        found, flagged = defaultdict(list), defaultdict(list)
        aside = np.random.default_rng(seed).permutation(len(classes))
        for number, (train, test) in enumerate(
            StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels)
        ):
            left = np.isin(labels, aside[number::FOLDS])
            learnt, tested = train[~left[train]], test[~left[test]]
            _, of_photos = np.unique(labels[learnt], return_inverse=True)
            sizes = {"classes": int(of_photos.max()) + 1, "blocks": blocks}
            head, _, left_out = kernel_ridge.kernel_head(
                whole, known[learnt], of_photos, **sizes, penalty=whole.penalties[0]
            )
            embedder = saving.with_embedding(head)
            reference = ReferenceSet(embedder.predict(known[learnt], verbose=0)[1], of_photos, learnt.astype(str))
            limits = conformal.fit_thresholds(HeldOutPredictions(left_out, of_photos, reference), settings.train)
            scores = {}
            for kind, photos in (("known", known[tested]), ("strangers", strangers), ("other gems", known[left])):
                told, embedding = embedder.predict(photos, verbose=0)
                scores[kind] = strangeness(told, embedding, reference)
                away = conformal.nearest(embedding, reference.embedding, limits.neighbours)[0].mean(axis=1)
                flagged[kind].append((away > limits.unknown_distance).mean())
            for name, own in scores["known"].items():
                for kind in ("strangers", "other gems"):
                    other = scores[kind][name]
                    truth = np.repeat([0, 1], [len(own), len(other)])
                    area = roc_auc_score(truth, np.concatenate([own, other]))
                    found[name, kind].append((area, (other > np.quantile(own, 0.95)).mean()))
        for (name, kind), values in found.items():
            area, share = np.mean(values, axis=0)
            print(f"seed {seed}, {name}, {kind}: area {area:.4f}, noticed {share:.3f}", flush=True)
        told = ", ".join(f"{kind} {np.mean(shares):.3f}" for kind, shares in flagged.items())
        print(f"seed {seed}, flagged by the threshold in use: {told}", flush=True)


if __name__ == "__main__":
    main()
