"""Exploration of the features without a classifier: principal components, clusters and maps.

Each step runs on one thread: the order of a sum changes its rounding, and UMAP amplifies the difference. t-SNE, which
takes as long as the others together, runs beside them.
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.decomposition import KernelPCA
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import ExploreParams
from gemmodel.embed import feature_set
from gemmodel.embed.feature_set import FeatureSet

MAX_PHOTOS = 4_000  # the time of the components grows with their cube, and the page contains a picture of each photo


@dataclass(frozen=True)
class FeatureTable:
    """Features of photos.

    Attributes:
        features: float32 (photos, features).
        files: the photos' paths, relative to the split folder.
        gems: of the photos.
        total: the number of photos that these are a sample of; 0: they are no sample.
    """

    features: np.ndarray
    files: list[str]
    gems: list[str]
    total: int = 0


@dataclass(frozen=True)
class Exploration:
    """Maps, clusters and scores of a feature table.

    Attributes:
        maps: by name (`UMAP`, `t-SNE`, `PCA`): positions, float32 (photos, 2).
        clusters: by name of the space (`PCA`, `UMAP`): KMeans' cluster indices, int (photos,).
        variance: one row per component: `component`, from 1, and the cumulative `fraction` of the variance.
        elbow: one row per number of clusters: `clusters`, and in the columns `PCA` and `UMAP` the mean squared distance
            to the cluster's centre, as a fraction of that to a single centre.
        scores: by name, nested, rounded to six digits.
    """

    maps: dict[str, np.ndarray]
    clusters: dict[str, np.ndarray]
    variance: pd.DataFrame
    elbow: pd.DataFrame
    scores: dict[str, Any]


def read(features: Path, parts: Sequence[str], *, seed: int, max_photos: int = MAX_PHOTOS) -> FeatureTable:
    """Reads the features of some parts, without loading TensorFlow: of all photos, or of a random sample of them.

    Args:
        features: the folder of the features.
        parts: of the split.
        seed: of the sample.
        max_photos: only so many are read.

    Returns:
        The features, in the order of the photos.

    Raises:
        DataError: a part is missing or damaged.
    """
    sets = [feature_set.read(features / part) for part in parts]
    files = [f"{part}/{file}" for part, photos in zip(parts, sets, strict=True) for file in photos.files]
    gems = [photos.classes[label] for photos in sets for label in photos.labels]
    sample = np.sort(np.random.default_rng(seed).permutation(len(gems))[:max_photos])
    whole = reduce(FeatureSet.concat, sets)
    total = len(gems) if len(sample) < len(gems) else 0
    return FeatureTable(whole.features[sample], [files[i] for i in sample], [gems[i] for i in sample], total)


def explore(
    table: FeatureTable, mineral_classes: Mapping[str, str], params: ExploreParams, *, seed: int
) -> Exploration:
    """Standardises the features, computes components, clusters and maps, and compares the clusters with the labels.

    Args:
        table: the features.
        mineral_classes: by gem.
        params: of the maps and clusters.
        seed: of KMeans, UMAP and t-SNE.

    Returns:
        Maps, clusters, curves and scores; the same input gives the same bits.

    Raises:
        ParameterError: there are not more photos than clusters.
    """
    photos = len(table.gems)
    labels = {"gem": table.gems, "mineral_class": [mineral_classes[gem] for gem in table.gems]}
    n_clusters = params.clusters or len(set(table.gems))
    for name, value in (("clusters", n_clusters), ("elbow", min(params.elbow))):
        if value >= photos:
            raise ParameterError(f"explore.{name} is {value}; it must be less than the number of photos, {photos}")
    with threadpool_limits(1), ThreadPoolExecutor(1, initializer=threadpool_limits, initargs=(1,)) as beside:
        all_components, variance = _components(table.features, params.clip)
        n_components = max(2, int(np.searchsorted(variance, params.variance)) + 1)  # a map has two
        components = np.ascontiguousarray(all_components[:, :n_components])
        perplexity = min(params.perplexity, (photos - 1) / 3)
        tsne = beside.submit(
            TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform, components
        )
        spaces = {"PCA": components, "UMAP": _umap(components, params, seed)}
        clusters = {name: _kmeans(space, n_clusters, seed).labels_ for name, space in spaces.items()}
        tried = sorted(k for k in set(params.elbow) if k < photos)
        elbow = pd.DataFrame(
            {"clusters": tried}
            | {
                name: [_kmeans(space, k, seed).inertia_ / (space.var(axis=0).sum() * len(space)) for k in tried]
                for name, space in spaces.items()
            }
        )
        agreement = {
            name.lower(): _agreement(space, clusters[name], labels)
            | {"elbow": elbow_point(elbow["clusters"], elbow[name])}
            for name, space in spaces.items()
        }
        silhouettes = {f"{name}_silhouette": _silhouette(components, values) for name, values in labels.items()}
    counts = {
        "photos": photos,
        "gems": len(set(table.gems)),
        "mineral_classes": len(set(labels["mineral_class"])),
    }
    sizes = {"features": table.features.shape[1], "components": n_components, "clusters": n_clusters}
    return Exploration(
        maps={"UMAP": spaces["UMAP"], "t-SNE": tsne.result(), "PCA": components[:, :2]},
        clusters=clusters,
        variance=pd.DataFrame({"component": np.arange(1, len(variance) + 1), "fraction": variance.round(6)}),
        elbow=elbow.round(6),
        scores=counts | sizes | agreement | silhouettes,
    )


def _components(features: np.ndarray, clip: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the principal components, float32 (photos, components), and the cumulative fractions of the variance.

    With more features than photos the kernel matrix is the smaller problem, and its components are the same.
    """
    standardised = np.clip(StandardScaler().fit_transform(features), -clip, clip)
    pca = KernelPCA(kernel="linear", eigen_solver="dense")
    components = pca.fit_transform(standardised).astype(np.float32)
    variance = np.cumsum(pca.eigenvalues_.astype(np.float64))
    return components, variance / variance[-1]


def _umap(components: np.ndarray, params: ExploreParams, seed: int) -> np.ndarray:
    """Returns UMAP's positions (McInnes and others, arXiv 1802.03426), float32 of shape (photos, 2)."""
    if "tensorflow" not in sys.modules:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]  # UMAP would import it for a variant not used here
        try:
            import umap
        finally:
            del sys.modules["tensorflow"]
    import umap
    from umap import layouts, umap_

    # Numba compiles UMAP's loops for longer than they run: those that it can keep on disk it compiles once.
    epoch = getattr(layouts, "_nb_optimize_layout_euclidean_single_epoch", None)  # its name is UMAP's own affair
    for function in filter(None, (umap_.smooth_knn_dist, umap_.compute_membership_strengths, epoch)):
        function.enable_caching()
    photos, neighbours = len(components), min(params.neighbours, len(components) - 1)
    distances, nearest = NearestNeighbors(n_neighbors=neighbours - 1).fit(components).kneighbors()
    with_itself = (
        np.column_stack([np.arange(photos), nearest]).astype(np.int32),
        np.column_stack([np.zeros(photos), distances]).astype(np.float32),
    )
    reducer = umap.UMAP(
        n_neighbors=neighbours, min_dist=params.min_dist, random_state=seed, n_jobs=1, precomputed_knn=with_itself
    )
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # it says that no other photos can be mapped
        positions: np.ndarray = reducer.fit_transform(components)
    return positions


def _kmeans(space: np.ndarray, n_clusters: int, seed: int) -> KMeans:
    return KMeans(n_clusters, random_state=seed).fit(space)


def _agreement(space: np.ndarray, clusters: np.ndarray, labels: Mapping[str, Sequence[str]]) -> dict[str, float]:
    scores = {"silhouette": _silhouette(space, clusters)}
    for name, values in labels.items():
        scores[f"{name}_adjusted_rand_index"] = round(float(adjusted_rand_score(values, clusters)), 6)
        scores[f"{name}_mutual_information"] = round(float(normalized_mutual_info_score(values, clusters)), 6)
    return scores


def _silhouette(space: np.ndarray, labels: Any) -> float:
    """Returns the mean silhouette, in [-1, 1]; 0, that of a group of one, where there are fewer than two groups."""
    return round(float(silhouette_score(space, labels)), 6) if 1 < len(set(labels)) < len(space) else 0.0


def elbow_point(n_clusters: pd.Series, losses: pd.Series) -> int:
    """Returns the number of clusters where the curve lies most below its chord (Satopää and others, Kneedle, 2011)."""
    x = (n_clusters - n_clusters.iloc[0]) / max(1, n_clusters.iloc[-1] - n_clusters.iloc[0])
    fall = losses.iloc[0] - losses.iloc[-1]
    y = (losses.iloc[0] - losses) / (fall if fall > 0 else 1)
    return int(n_clusters.iloc[int((y - x).argmax())])
