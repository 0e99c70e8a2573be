"""Kernel ridge regression with calibrated probabilities, in closed form and in NumPy.

The regression is that of scikit-learn's KernelRidge on one-hot labels. Leave-one-out scores, calibration and stacking
are added. Where there are more photos than landmarks, the kernel is approximated by the Nyström method (Williams and
Seeger, NIPS 2001; `Nystroem` of scikit-learn): time grows with the number of photos, memory does not.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, eigh, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from threadpoolctl import threadpool_limits

from gemmodel.core.errors import ParameterError
from gemmodel.core.params import FusionParams

STACKING_FOLDS = 5  # the leave-one-out probabilities of each fold come from a stacker fitted to the other folds
BATCH = 4_096  # photos whose kernel with the landmarks is in memory
JITTER = 1e-6  # is added to the diagonal of the landmarks' kernel, which is 1: two of them may be nearly the same photo
SMALLEST_EIGENVALUE = 1e-5  # relative to the largest one; components below it are rounding
# The smallest std that a feature is divided by, and the smallest squared length of a block, as in Keras.
MIN_STD, MIN_SQUARED_LENGTH = np.float32(1e-7), np.float32(1e-12)


@dataclass(frozen=True)
class KernelRidgeFit:
    """Kernel ridge regressions of several degrees, calibrated and combined to one score per class.

    Attributes:
        dual_coef: the coefficients of each degree, each of shape (landmarks, classes).
        arcsinh_scales: a and b of each degree: a score becomes a * arcsinh(b * score).
        stacker: the weights from the scores of all degrees to the classes, shape (degrees * classes, classes).
        loo_probs: the probabilities of each training photo when it is left out, shape (photos, classes).
    """

    dual_coef: list[np.ndarray]
    arcsinh_scales: list[tuple[float, float]]
    stacker: np.ndarray
    loo_probs: np.ndarray

    def scores(self, kernels: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the logits of photos, shape (photos, classes).

        Args:
            kernels: the kernel matrix of each degree, shape (photos, landmarks).
        """
        scaled = [
            a * np.arcsinh(b * (kernel @ dual_coef))
            for kernel, dual_coef, (a, b) in zip(kernels, self.dual_coef, self.arcsinh_scales, strict=True)
        ]
        return np.concatenate(scaled, axis=1) @ self.stacker


Ridge = tuple[np.ndarray, np.ndarray]  # dual coefficients and leave-one-out scores


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

    Attributes:
        mean_: of the training features, float32 (features,).
        variance_: of the training features, float32 (features,).
        components_: from standardised features to principal components, float32 (features, components).
        support_: the landmarks in these components, float32 (landmarks, components).
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
    ) -> None:
        self.params, self.classes, self.blocks = params, classes, list(blocks)
        self.penalty, self.parents, self.seed = penalty, np.asarray(parents, int), seed
        self.mineral_classes_: KernelRidgeFit | None = None

    def fit(self, features: np.ndarray, labels: np.ndarray) -> Self:
        """Fits the regressions.

        Args:
            features: the training features, float32 (photos, features).
            labels: class indices, shape (photos,).

        Returns:
            This estimator.

        Raises:
            ParameterError: there are fewer landmarks than classes.
        """
        photos = len(features)
        self.landmarks_ = draw_landmarks(labels, self.params.landmarks, seed=self.seed)
        self.mean_, self.variance_ = features.mean(axis=0), features.var(axis=0)
        x = self._normalised(features[self.landmarks_])
        first = max(0, len(x) - self.params.components)
        values, vectors = eigh(x @ x.T, subset_by_index=[first, len(x) - 1])
        kept = values > SMALLEST_EIGENVALUE * values[-1]
        lengths, vectors = np.sqrt(values[kept]), vectors[:, kept]
        self.components_, self.support_ = x.T @ (vectors / lengths), vectors * lengths

        kernel = (1 + (self.support_ @ self.support_.T).astype(np.float64)) / 2
        penalties = np.broadcast_to(self.penalty, photos)

        def ridges(labels: np.ndarray, groups: Sequence[np.ndarray]) -> KernelRidgeFit:
            if len(self.landmarks_) == photos:
                return fit_ridges(
                    self.params, lambda d: grouped_ridge(kernel**d, penalties, labels, groups), labels, groups
                )
            nystroem = Nystroem(kernel, self.landmarks_, lambda rows: self.similarity(features[rows]))
            return fit_ridges(
                self.params, lambda d: nystroem.grouped_ridge(d, penalties, labels, groups), labels, groups
            )

        if self.params.labels == "all":
            self.gems_ = ridges(labels, [np.arange(self.classes)])
            self.loo_probs_ = self.gems_.loo_probs
            return self
        self.mineral_classes_ = ridges(self.parents[labels], [np.arange(self.parents.max() + 1)])
        self.gems_ = ridges(labels, self._siblings())
        self.loo_probs_ = self.gems_.loo_probs * self.mineral_classes_.loo_probs[:, self.parents]
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Returns the probabilities of photos, float64 (photos, classes).

        Args:
            features: float32 (photos, features).
        """
        return np.concatenate([self._predict(features[i : i + BATCH]) for i in range(0, len(features), BATCH)])

    def _predict(self, features: np.ndarray) -> np.ndarray:
        similarity = self.similarity(features)
        kernels = [similarity**degree for degree in self.params.degree]
        scores = self.gems_.scores(kernels)
        if self.mineral_classes_ is None:
            return np.asarray(softmax(scores, axis=1))
        parent_probs = softmax(self.mineral_classes_.scores(kernels), axis=1)
        return grouped_softmax(scores, self._siblings()) * parent_probs[:, self.parents]

    def similarity(self, features: np.ndarray) -> np.ndarray:
        """Returns the kernel of degree 1 between photos and the landmarks, float32 (photos, landmarks).

        Args:
            features: float32 (photos, features).
        """
        return (1 + (self._normalised(features) @ self.components_) @ self.support_.T) / 2

    def _siblings(self) -> list[np.ndarray]:
        """Returns the indices of the classes of each mineral class."""
        return [np.flatnonzero(self.parents == parent) for parent in range(self.parents.max() + 1)]

    def _normalised(self, features: np.ndarray) -> np.ndarray:
        """Returns standardised and clipped features, each block of length 1 / sqrt(blocks), float32."""
        x = features - self.mean_
        x /= np.maximum(np.sqrt(self.variance_), MIN_STD)
        np.clip(x, -self.params.clip, self.params.clip, out=x)
        for start, end in pairwise(np.cumsum([0, *self.blocks])):
            block = x[:, start:end]
            squared_length = np.maximum(np.vecdot(block, block)[:, np.newaxis], MIN_SQUARED_LENGTH)
            block /= np.sqrt(squared_length * np.float32(len(self.blocks)))
        return x


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


def fit_ridges(
    params: FusionParams, ridge: Callable[[int], Ridge], labels: np.ndarray, groups: Sequence[np.ndarray]
) -> KernelRidgeFit:
    """Fits one calibrated regression per degree, and the stacker of their scores.

    Args:
        params: `degree` and `stacking_penalty`.
        ridge: returns the dual coefficients (landmarks, classes) and the leave-one-out scores (photos, classes) of a
            degree.
        labels: class indices, shape (photos,).
        groups: indices of the classes among which the probabilities sum to 1. Each group is fitted to its own photos.
            Only a single group is stacked.
    """
    dual_coefs, arcsinh_scales, scaled = [], [], []
    for degree in params.degree:
        dual_coef, loo_scores = ridge(degree)
        a, b = fit_arcsinh_scale(loo_scores, labels, groups)
        dual_coefs.append(dual_coef)
        arcsinh_scales.append((a, b))
        scaled.append(a * np.arcsinh(b * loo_scores))
    scores = np.concatenate(scaled, axis=1)
    classes = scaled[0].shape[1]
    mean = np.tile(np.eye(classes) / len(scaled), (len(scaled), 1))
    if len(groups) > 1 or not params.stacking_penalty:
        return KernelRidgeFit(dual_coefs, arcsinh_scales, mean, grouped_softmax(scores @ mean, groups))
    loo_probs = np.zeros((len(labels), classes))
    folds = np.arange(len(labels)) % STACKING_FOLDS  # photos are sorted by class, so every fold has all classes
    for fold in range(STACKING_FOLDS):
        inside = folds == fold
        stacker = fit_stacker(scores[~inside], labels[~inside], mean, params.stacking_penalty)
        loo_probs[inside] = softmax(scores[inside] @ stacker, axis=1)
    stacker = fit_stacker(scores, labels, mean, params.stacking_penalty)
    return KernelRidgeFit(dual_coefs, arcsinh_scales, stacker, loo_probs)


def fit_stacker(scores: np.ndarray, labels: np.ndarray, mean: np.ndarray, penalty: float) -> np.ndarray:
    """Returns the weights W of softmax regression, softmax(scores @ W), regularised towards given weights.

    It is stacked generalisation (Wolpert, Neural Networks 5, 1992) of leave-one-out scores.

    Args:
        scores: of photos that were left out, shape (photos, scores).
        labels: class indices, shape (photos,).
        mean: the weights towards which W is regularised, shape (scores, classes).
        penalty: W minimises the summed log loss of the photos + penalty / 2 * the summed squares of W - mean.
    """
    one_hot = np.eye(mean.shape[1])[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        difference = flat.reshape(mean.shape) - mean
        log_probs = log_softmax(scores @ flat.reshape(mean.shape), axis=1)
        gradient = scores.T @ (np.exp(log_probs) - one_hot) + penalty * difference
        return float(penalty / 2 * (difference**2).sum() - (one_hot * log_probs).sum()), gradient.ravel()

    with threadpool_limits(1):  # on a busy machine the threads of such small products wait for each other: 8 s, not 0.4
        best = minimize(loss, mean.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return best.x.reshape(mean.shape)


def fit_arcsinh_scale(scores: np.ndarray, labels: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """Returns the a and b for which softmax(a * arcsinh(b * score)) has the least log loss.

    Args:
        scores: leave-one-out scores of kernel ridge regression, shape (photos, classes).
        labels: class indices, shape (photos,).
        groups: indices of the classes among which the probabilities sum to 1.
    """

    def loss(logs: np.ndarray) -> float:
        a, b = np.exp(logs)
        probs = grouped_softmax(a * np.arcsinh(b * scores), groups)[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(probs, 1e-15)).mean())

    best = minimize(loss, [1.0, 2.5], method="Nelder-Mead", bounds=[(-5, 5)] * 2, options={"maxiter": 60})
    a, b = np.exp(best.x).tolist()
    return a, b


def grouped_softmax(scores: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the softmax over each group of classes, shape (photos, classes)."""
    probs = np.empty_like(scores)
    for group in groups:
        probs[:, group] = softmax(scores[:, group], axis=1)
    return probs


def _ridge(kernel: np.ndarray, penalties: np.ndarray, labels: np.ndarray, classes: int) -> Ridge:
    """Returns the dual coefficients and the leave-one-out scores, both (photos, classes)."""
    factor = cho_factor(kernel + np.diag(penalties))
    targets = np.eye(classes)[labels] - 1 / classes
    dual_coef = cho_solve(factor, targets)
    inverse, _ = dpotri(*factor)  # one triangle of it
    return dual_coef, targets - dual_coef / np.diag(inverse)[:, None]


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


@dataclass(frozen=True)
class Nystroem:
    """Ridge regression on the features that approximate a kernel.

    Attributes:
        kernel: the kernel of degree 1 of the landmarks, float64 (landmarks, landmarks).
        landmarks: their indices among the photos, sorted.
        similarity: returns the kernel of degree 1 between the photos of some rows and the landmarks, float32.
    """

    kernel: np.ndarray
    landmarks: np.ndarray
    similarity: Callable[[np.ndarray], np.ndarray]

    def grouped_ridge(
        self, degree: int, penalties: np.ndarray, labels: np.ndarray, groups: Sequence[np.ndarray]
    ) -> Ridge:
        """Returns the dual coefficients (landmarks, classes) and the leave-one-out scores (photos, classes).

        Args:
            degree: of the kernel.
            penalties: shape (photos,).
            labels: class indices, shape (photos,).
            groups: indices of the classes of each regression, which is fitted to the photos of its own classes.
        """
        classes = sum(map(len, groups))
        dual_coef, loo_scores = np.zeros((len(self.landmarks), classes)), []
        for group in groups:
            rows, columns = (np.flatnonzero(np.isin(of, group)) for of in (labels, labels[self.landmarks]))
            targets = np.eye(len(group))[np.searchsorted(group, labels[rows])] - 1 / len(group)
            dual_coef[np.ix_(columns, group)], scores = self._ridge(degree, rows, columns, penalties[rows], targets)
            loo_scores.append((np.ix_(rows, group), scores))
        scores = np.empty((len(labels), classes))
        if len(groups) > 1:  # leaving out a photo of another group changes nothing
            for batch, kernel in self._batches(degree, np.arange(len(labels)), slice(None)):
                scores[batch] = kernel @ dual_coef
        for block, group_scores in loo_scores:
            scores[block] = group_scores
        return dual_coef, scores

    def _ridge(
        self, degree: int, rows: np.ndarray, columns: np.ndarray, penalties: np.ndarray, targets: np.ndarray
    ) -> Ridge:
        """Returns the dual coefficients of some landmarks, and the leave-one-out scores of some photos.

        With features F = K_nm L^-T, weights W = 1 / penalty and A = F^T W F + I, the coefficients in feature space are
        A^-1 F^T W Y. The leave-one-out score of a photo is (s - h y) / (1 - h), where s is its score and h = w f A^-1 f
        its leverage. A landmark is left out as a photo and as a landmark, as in the exact solution: its coefficient is
        constrained to 0, which subtracts P_i P_i^T / P_ii from P = L^-T A^-1 L^-1.
        """
        size = len(columns)
        factor = cholesky(
            self.kernel[np.ix_(columns, columns)] ** degree + JITTER * np.eye(size), lower=True, overwrite_a=True
        )
        factor32 = factor.astype(np.float32)
        gram, moment = np.eye(size), np.zeros((size, targets.shape[1]))
        for batch, features in self._features(degree, rows, columns, factor32):
            weights = (1 / penalties[batch]).astype(np.float32)
            gram += features.T @ (features * weights[:, None])
            moment += features.T @ (targets[batch] * weights[:, None])
        gram_factor = cho_factor(gram, lower=True, overwrite_a=True)
        coef = cho_solve(gram_factor, moment)
        lower32 = gram_factor[0].astype(np.float32)
        loo_scores = np.empty_like(targets)
        for batch, features in self._features(degree, rows, columns, factor32):
            half = solve_triangular(lower32, features.T, lower=True)
            leverage = ((half**2).sum(axis=0) / penalties[batch])[:, None]
            loo_scores[batch] = (features @ coef - leverage * targets[batch]) / (1 - leverage)
        dual_coef = solve_triangular(factor, coef, lower=True, trans="T")
        half = solve_triangular(gram_factor[0], factor.T, lower=True)
        inverse = solve_triangular(gram_factor[0], solve_triangular(factor, np.eye(size), lower=True), lower=True)
        diagonal, cross = (inverse**2).sum(axis=0), (half * inverse).sum(axis=0)
        own = np.searchsorted(rows, self.landmarks[columns])
        leverage = (((half**2).sum(axis=0) - cross**2 / diagonal) / penalties[own])[:, None]
        scores = factor @ coef - (cross / diagonal)[:, None] * dual_coef
        loo_scores[own] = (scores - leverage * targets[own]) / (1 - leverage)
        return dual_coef, loo_scores

    def _features(
        self, degree: int, rows: np.ndarray, columns: np.ndarray, factor: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields the features of batches of photos, float32 (photos, landmarks), always in the same order."""
        for batch, kernel in self._batches(degree, rows, columns):
            yield batch, solve_triangular(factor, kernel.T, lower=True, overwrite_b=True).T

    def _batches(
        self, degree: int, rows: np.ndarray, columns: np.ndarray | slice
    ) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(rows), BATCH):
            batch = slice(start, min(start + BATCH, len(rows)))
            yield batch, self.similarity(rows[batch])[:, columns] ** degree
