"""Kernel ridge regression with calibrated probabilities, in closed form and in NumPy.

The regression is that of scikit-learn's KernelRidge on one-hot labels. Leave-one-out scores, calibration and stacking
are added. Where there are more photos than landmarks, the kernel is approximated by the Nyström method (Williams and
Seeger, NIPS 2001; `Nystroem` of scikit-learn): time grows with the number of photos, memory does not.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.linalg import cho_solve, cholesky, eigh
from scipy.linalg.lapack import dtrtri
from scipy.special import softmax

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import FusionParams
from gemmodel.embed.feature_set import ShardedArray
from gemmodel.train.ridge.calibration import KernelRidgeFit, Ridge, fit_ridges, grouped_softmax
from gemmodel.train.ridge.landmark_kernel import CHUNK, LandmarkKernel, normalised
from gemmodel.train.ridge.nystroem import Nystroem, Problem, Regression, centres

SMALLEST_EIGENVALUE = 1e-5  # relative to the largest one; components below it are rounding


class KernelRidge:
    """A classifier by kernel ridge regression on one-hot labels, in closed form, with calibrated probabilities.

    The kernel is ((1 + s) / 2) ** degree. Here s is the mean over the blocks of the cosine between the standardised
    features of two photos. A score becomes a * arcsinh(b * score), and the softmax of these gives probabilities. The
    scales a and b minimise the log loss of the leave-one-out scores. Ridge regression gives these scores in closed
    form, so calibration needs no held-out photo. A softmax regression on the same scores, of all degrees, then corrects
    which classes are confused with which (stacking).

    The landmarks are the training photos where there are at most `landmarks` of them, and the regression is exact.
    Otherwise they are a sample of each class, and the regression is of the features K_nm L^-T of the Nyström method,
    with K_mm = L L^T. Its leave-one-out scores have a closed form, too: without a landmark that is left out.

    With `labels: separate` one regression predicts the mineral class from all photos, and one per mineral class
    predicts its gems from its own photos, without stacking. The probabilities are the products of both.

    Args:
        params: `degree` (one regression each), `stacking_penalty`, `landmarks`, `components` (principal components of
            the landmarks, which replace the features), `clip` and `labels`.
        classes: the number of classes.
        blocks: the number of features in each block; every block has the same weight.
        penalty: is added to the kernel's diagonal, which is 1. One for all photos, or one per photo, shape (photos,):
            half the penalty gives a photo twice the weight.
        parents: for `labels: separate`, the index of the mineral class of each class.
        seed: of the landmarks.
        loo: whether `loo_probs_` are needed; without them a fit with stacking is faster.
        client: of Dask, whose workers share the work where there are more photos than landmarks.
        scratch: a folder for what its workers read.

    Attributes:
        kernel_: the kernel between photos and the landmarks.
        landmarks_: the indices of the landmarks among the training photos, sorted.
        gems_: the regressions of the classes.
        mineral_classes_: the regressions of the mineral classes, for `labels: separate`, else None.
        loo_probs_: the probabilities of each training photo when it is left out, shape (photos, classes).
    """

    def __init__(
        self,
        params: FusionParams,
        *,
        classes: int,
        blocks: Sequence[int],
        penalty: float | np.ndarray,
        parents: Sequence[int] = (),
        seed: int = 0,
        loo: bool = True,
        client: Any = None,
        scratch: Path = Path(".train-backup"),
    ) -> None:
        self.params, self.classes, self.blocks = params, classes, list(blocks)
        self.client, self.scratch, self.loo = client, scratch, loo
        self.penalty, self.parents, self.seed = penalty, np.asarray(parents, int), seed
        self.mineral_classes_: KernelRidgeFit | None = None

    def fit(self, features: np.ndarray | ShardedArray, labels: np.ndarray) -> Self:
        """Fits the regressions.

        Args:
            features: the training features, float32 (photos, features). Of an array in shards some are read at a time.
            labels: class indices, shape (photos,).

        Returns:
            This estimator.

        Raises:
            ParameterError: there are fewer landmarks than classes.
        """
        self.landmarks_ = draw_landmarks(labels, self.params.landmarks, seed=self.seed)
        self.kernel_ = self._landmark_kernel(features[self.landmarks_])
        every = [np.arange(self.classes)]
        if self.params.labels == "all":
            (self.gems_,) = self._ridges(features, [(labels, every)])
            self.loo_probs_ = self.gems_.loo_probs
            return self
        of_parents = (self.parents[labels], [np.arange(self.parents.max() + 1)])
        self.mineral_classes_, self.gems_ = self._ridges(features, [of_parents, (labels, self._siblings())])
        self.loo_probs_ = self.gems_.loo_probs * self.mineral_classes_.loo_probs[:, self.parents]
        return self

    def _landmark_kernel(self, landmarks: np.ndarray) -> LandmarkKernel:
        mean, variance = landmarks.mean(axis=0), landmarks.var(axis=0)
        x = normalised(landmarks, mean, variance, clip=self.params.clip, blocks=self.blocks)
        first = max(0, len(x) - self.params.components)
        values, vectors = eigh(x @ x.T, subset_by_index=[first, len(x) - 1])
        kept = values > SMALLEST_EIGENVALUE * values[-1]
        lengths, vectors = np.sqrt(values[kept]), vectors[:, kept]
        return LandmarkKernel(
            mean, variance, self.params.clip, self.blocks,
            components=x.T @ (vectors / lengths), support=vectors * lengths,
        )  # fmt: skip

    def _ridges(
        self, features: np.ndarray | ShardedArray, problems: Sequence[tuple[np.ndarray, Sequence[np.ndarray]]]
    ) -> list[KernelRidgeFit]:
        """Returns the fit for each pair of labels (photos,) and groups of classes; see `fit_ridges`."""
        degrees, penalties = self.params.degree, np.broadcast_to(self.penalty, len(features))
        if len(self.landmarks_) == len(features):
            kernel = self.kernel_.between_landmarks()
            return [
                fit_ridges(
                    self.params, (grouped_ridge(kernel**d, penalties, labels, groups) for d in degrees), labels, groups,
                    loo=self.loo,
                )
                for labels, groups in problems
            ]  # fmt: skip
        regressions = [self._regression(labels, group) for labels, groups in problems for group in groups]
        weights = (1 / penalties).astype(np.float32)
        problem = Problem(self.kernel_, degrees, centres(self.kernel_, degrees), weights, regressions)
        by_degree = Nystroem(problem, features, self.landmarks_, client=self.client, scratch=self.scratch).fit()
        fits, start = [], 0
        for labels, groups in problems:
            used = slice(start, start := start + len(groups))
            joined = [self._joined(regressions[used], solved[used]) for solved in by_degree]
            fits.append(fit_ridges(self.params, joined, labels, groups, loo=self.loo))
        return fits

    def _regression(self, labels: np.ndarray, group: np.ndarray) -> Regression:
        position = np.full(max(labels.max(), group.max()) + 1, -1, np.int32)
        position[group] = np.arange(len(group))
        targets = position[labels]
        return Regression(group, targets, np.flatnonzero(targets[self.landmarks_] >= 0))

    def _joined(self, regressions: Iterable[Regression], ridges: Iterable[Ridge]) -> Ridge:
        """Returns the coefficients and scores of all groups of classes, each of shape (..., classes)."""
        pairs = list(zip(regressions, ridges, strict=True))
        classes = sum(len(one.classes) for one, _ in pairs)
        dual_coef = np.zeros((len(self.landmarks_), classes))
        scores = np.empty((len(pairs[0][1][1]), classes))
        for one, (coef, loo_scores) in pairs:
            dual_coef[np.ix_(one.columns, one.classes)] = coef
            scores[:, one.classes] = loo_scores
        return dual_coef, scores

    def predict_proba(self, features: np.ndarray | ShardedArray) -> np.ndarray:
        """Returns the probabilities of photos, float64 (photos, classes).

        Args:
            features: float32 (photos, features).
        """
        return np.concatenate(
            [np.empty((0, self.classes))]
            + [self._predict(features[i : i + CHUNK]) for i in range(0, len(features), CHUNK)]
        )

    def _predict(self, features: np.ndarray) -> np.ndarray:
        similarity = self.kernel_.similarity(features)
        kernels = [similarity**degree for degree in self.params.degree]
        scores = self.gems_.scores(kernels)
        if self.mineral_classes_ is None:
            return np.asarray(softmax(scores, axis=1))
        parent_probs = softmax(self.mineral_classes_.scores(kernels), axis=1)
        return grouped_softmax(scores, self._siblings()) * parent_probs[:, self.parents]

    def _siblings(self) -> list[np.ndarray]:
        """Returns the indices of the classes of each mineral class."""
        return [np.flatnonzero(self.parents == parent) for parent in range(self.parents.max() + 1)]


def draw_landmarks(labels: np.ndarray, landmarks: int, *, seed: int) -> np.ndarray:
    """Draws photos at random, from each class in proportion to its size and at least one.

    Args:
        labels: class indices, shape (photos,).
        landmarks: how many; all photos where there are not more.
        seed: of the draw.

    Returns:
        Their indices, sorted.

    Raises:
        ParameterError: there are fewer landmarks than classes.
    """
    if len(labels) <= landmarks:
        return np.arange(len(labels))
    present, counts = np.unique(labels, return_counts=True)
    if landmarks < len(present):
        raise ParameterError(
            f"model.fusion.landmarks: {landmarks} are fewer than the {len(present)} classes; set it to some thousands"
        )
    rng, rank = np.random.default_rng(seed), np.empty(len(labels))
    for label, count in zip(present, counts, strict=True):
        rank[labels == label] = rng.permutation(count) / count  # the first one of every class has rank 0
    return np.sort(np.argsort(rank, kind="stable")[:landmarks])


def _ridge(kernel: np.ndarray, penalties: np.ndarray, labels: np.ndarray, classes: int) -> Ridge:
    """Returns the dual coefficients and the leave-one-out scores, both (photos, classes)."""
    factor = cholesky(kernel + np.diag(penalties))
    targets = np.eye(classes)[labels] - 1 / classes
    dual_coef = cho_solve((factor, False), targets)
    inverse, _ = dtrtri(factor)  # half the work of the kernel's inverse, of which only the diagonal is needed
    return dual_coef, targets - dual_coef / np.square(inverse).sum(axis=1)[:, None]


def grouped_ridge(kernel: np.ndarray, penalties: np.ndarray, labels: np.ndarray, groups: Sequence[np.ndarray]) -> Ridge:
    """Returns the same for one regression per group of classes, each fitted to the photos of its own classes."""
    dual_coef = np.zeros((len(labels), sum(map(len, groups))))
    loo_scores_by_group = []
    for group in groups:
        rows = np.flatnonzero(np.isin(labels, group))
        block = np.ix_(rows, group)
        group_labels = np.searchsorted(group, labels[rows])
        dual_coef[block], loo_scores = _ridge(kernel[np.ix_(rows, rows)], penalties[rows], group_labels, len(group))
        loo_scores_by_group.append((block, loo_scores))
    scores = kernel @ dual_coef  # leaving out a photo of another group changes nothing
    for block, loo_scores in loo_scores_by_group:
        scores[block] = loo_scores
    return dual_coef, scores
