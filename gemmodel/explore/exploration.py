"""What the features know before any classifier is trained: components, clusters and maps.

Everything runs on one thread: sums in another order have other bits, and UMAP magnifies them.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.decomposition import KernelPCA
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import ExploreParams
from gemmodel.embed import feature_set

MAX_PHOTOS = 4_000  # photos: the time of the components grows with their cube, and each one's picture is in the page


@dataclass(frozen=True)
class FeatureTable:
    """Cached features: float32 (photos, features), the photos' files below the split, and each one's gem."""

    features: np.ndarray
    files: list[str]
    gems: list[str]


@dataclass(frozen=True)
class Exploration:
    """What was found.

    Attributes:
        maps: `UMAP`, `t-SNE` and `PCA`: places, float32 (photos, 2).
        clusters: of KMeans after `PCA` and after `UMAP`: indices, int (photos,).
        variance: a row a component: `component` from 1 on, `fraction` of the variance that it and those before tell.
        elbow: a row a number of clusters: `clusters`, and the mean squared distance to the centre after `PCA` and after
            `UMAP`, each as a share of that to a single centre.
        scores: figures by name, nested, rounded to six digits.
    """

    maps: dict[str, np.ndarray]
    clusters: dict[str, np.ndarray]
    variance: pd.DataFrame
    elbow: pd.DataFrame
    scores: dict[str, Any]


def read(features: Path, parts: Sequence[str]) -> FeatureTable:
    """Reads the features that the stage embed has cached, without loading TensorFlow.

    Raises:
        DataError: a part is missing.
    """
    kept = {part: feature_set.read(features / f"{part}.npz") for part in parts}
    return FeatureTable(
        np.concatenate([of.features for of in kept.values()]),
        [f"{part}/{name}" for part, of in kept.items() for name in of.files],
        [of.classes[label] for of in kept.values() for label in of.labels],
    )


def subsample(known: FeatureTable, *, seed: int) -> FeatureTable:
    """Returns the photos that are explored: all, or MOST of them at random."""
    places = np.sort(np.random.default_rng(seed).permutation(len(known.gems))[:MAX_PHOTOS])
    if len(places) == len(known.gems):
        return known
    return FeatureTable(known.features[places], [known.files[i] for i in places], [known.gems[i] for i in places])


def explore(
    known: FeatureTable, mineral_classes: Mapping[str, str], params: ExploreParams, *, seed: int
) -> Exploration:
    """Standardises the features, finds components, clusters and maps, and compares the clusters with the names.

    Args:
        known: the features.
        mineral_classes: by gem.
        params: of the maps and clusters.
        seed: of KMeans, UMAP and t-SNE.

    Returns:
        The maps, clusters, curves and scores; the same input gives the same bits.

    Raises:
        ParameterError: more clusters were asked for than there are photos.
    """
    names = {"gem": known.gems, "mineral_class": [mineral_classes[gem] for gem in known.gems]}
    number = params.clusters or len(set(known.gems))
    for name, least in (("clusters", number), ("elbow", min(params.elbow))):
        if least >= len(known.gems):
            raise ParameterError(
                f"explore.{name} is {least}; it must be less than the photos' number, {len(known.gems)}"
            )
    with threadpool_limits(limits=1):
        scores, variance = _components(known.features, params.clip)
        kept = int(np.searchsorted(variance, params.variance)) + 1
        components = np.ascontiguousarray(scores[:, :kept])
        spaces = {"PCA": components, "UMAP": _umap(components, params, seed)}
        kmeans = {name: _clusters(space, number, seed).labels_ for name, space in spaces.items()}
        tried = sorted(k for k in set(params.elbow) if k < len(known.gems))
        elbow = pd.DataFrame(
            {"clusters": tried}
            | {
                name: [_clusters(space, k, seed).inertia_ / (space.var(axis=0).sum() * len(space)) for k in tried]
                for name, space in spaces.items()
            }
        )
        agreement = {
            name.lower(): _agreement(space, kmeans[name], names)
            | {"elbow": elbow_point(elbow["clusters"], elbow[name])}
            for name, space in spaces.items()
        }
        silhouettes = {f"{name}_silhouette": _silhouette(components, labels) for name, labels in names.items()}
        perplexity = min(params.perplexity, (len(known.gems) - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(components)
    counts = {
        "photos": len(known.gems),
        "gems": len(set(known.gems)),
        "mineral_classes": len(set(names["mineral_class"])),
    }
    sizes = {"features": known.features.shape[1], "components": kept, "clusters": number}
    return Exploration(
        maps={"UMAP": spaces["UMAP"], "t-SNE": tsne, "PCA": components[:, :2]},
        clusters=kmeans,
        variance=pd.DataFrame({"component": np.arange(1, len(variance) + 1), "fraction": variance.round(6)}),
        elbow=elbow.round(6),
        scores=counts | sizes | agreement | silhouettes,
    )


def _components(features: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns principal component scores and the cumulative shares of the variance.

    With more features than photos the kernel matrix is far the smaller problem, and its components are the same.
    """
    standard = np.clip(StandardScaler().fit_transform(features), -clip, clip)
    pca = KernelPCA(kernel="linear", eigen_solver="dense")
    scores = pca.fit_transform(standard).astype(np.float32)
    variance = np.cumsum(pca.eigenvalues_.astype(np.float64))
    return scores, variance / variance[-1]


def _umap(components: np.ndarray, params: ExploreParams, seed: int) -> np.ndarray:
    """Returns UMAP's places (McInnes and others, arXiv 1802.03426), float32 of shape (photos, 2)."""
    if "tensorflow" not in sys.modules:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]  # UMAP would load it for a variant not used here
        try:
            import umap
        finally:
            del sys.modules["tensorflow"]
    import umap

    neighbours = min(params.neighbours, len(components) - 1)
    fitted = umap.UMAP(n_neighbors=neighbours, min_dist=params.min_dist, random_state=seed, n_jobs=1)
    places: np.ndarray = fitted.fit_transform(components)
    return places


def _clusters(space: np.ndarray, number: int, seed: int) -> KMeans:
    return KMeans(number, random_state=seed).fit(space)


def _agreement(space: np.ndarray, clusters: np.ndarray, names: Mapping[str, Sequence[str]]) -> dict[str, float]:
    found = {"silhouette": _silhouette(space, clusters)}
    for name, labels in names.items():
        found[f"{name}_adjusted_rand_index"] = round(float(adjusted_rand_score(labels, clusters)), 6)
        found[f"{name}_mutual_information"] = round(float(normalized_mutual_info_score(labels, clusters)), 6)
    return found


def _silhouette(space: np.ndarray, labels: Any) -> float:
    """Returns the mean silhouette, in [-1, 1]; 0, that of a group of one, where there are no two groups."""
    return round(float(silhouette_score(space, labels)), 6) if 1 < len(set(labels)) < len(space) else 0.0


def elbow_point(numbers: pd.Series, losses: pd.Series) -> int:
    """Returns the number of clusters farthest below the chord of the curve (Satopää and others, Kneedle, 2011)."""
    x = (numbers - numbers.iloc[0]) / max(1, numbers.iloc[-1] - numbers.iloc[0])
    fall = losses.iloc[0] - losses.iloc[-1]
    y = (losses.iloc[0] - losses) / (fall if fall > 0 else 1)
    return int(numbers.iloc[int((y - x).argmax())])
