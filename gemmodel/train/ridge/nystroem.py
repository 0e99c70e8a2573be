"""Ridge regression on the features of the Nyström method (Williams and Seeger, NIPS 2001), block by block of photos.

With the kernel K_nm between n photos and m landmarks, the weights W = 1 / penalty and Q = K_mn W K_nm + K_mm, the
coefficients of the landmarks are Q^-1 K_mn W Y. One pass over the photos sums K_mn W K_nm and K_mn W Y, a second one
gives the leave-one-out scores. A block of photos is in memory at a time. Blocks are computed by this process or by
Dask's workers, and are always added in their order: the result has the same bits.
"""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular
from scipy.linalg.blas import dsyr2, ssyrk, strsm

from gemmodel.core import files
from gemmodel.core.dask_client import ordered_map
from gemmodel.embed.feature_set import SHARD_SIZE, ShardedArray
from gemmodel.train.ridge.calibration import Ridge
from gemmodel.train.ridge.landmark_kernel import LandmarkKernel

T = TypeVar("T")
BLOCK = SHARD_SIZE  # photos whose kernel with the landmarks is in memory
CHUNK = 512  # photos whose kernel is in memory as float64, and columns of the inverse
JITTER = 1e-4  # is added to the diagonal of the landmarks' kernel, which is 1: two of them may be nearly the same photo


@dataclass(frozen=True)
class Regression:
    """One-hot regression of some classes, fitted to the photos and the landmarks of these classes only.

    Attributes:
        classes: the indices of its classes among those of its labels.
        targets: the position in `classes` of each photo's class, int32 (photos,); -1: a photo of another regression.
        columns: the indices of its landmarks, among the landmarks.
    """

    classes: np.ndarray
    targets: np.ndarray
    columns: np.ndarray

    def one_hot(self, rows: np.ndarray) -> np.ndarray:
        """Returns what the regression predicts for photos of its own, float64 (photos, classes)."""
        return np.eye(len(self.classes))[self.targets[rows]] - 1 / len(self.classes)


@dataclass(frozen=True)
class Problem:
    """What is summed over the photos.

    Attributes:
        kernel: between photos and landmarks.
        degrees: of the kernel, one regression each.
        centres: of each degree the mean kernel of each landmark, float32 (landmarks,). It is subtracted from the
            kernel before float32 products are made, and added to their sums: else these would lose digits.
        weights: of the photos, float32 (photos,): 1 / penalty.
        regressions: of which each photo is in one, or in one per kind of label.
    """

    kernel: LandmarkKernel
    degrees: Sequence[int]
    centres: Sequence[np.ndarray]
    weights: np.ndarray
    regressions: Sequence[Regression]


@dataclass(frozen=True)
class Solution:
    """A solved regression of one degree.

    Attributes:
        dual_coef: the coefficients of its landmarks, float64 (landmarks, classes).
        factor: the lower Cholesky factor of Q, float32 (landmarks, landmarks).
    """

    dual_coef: np.ndarray
    factor: np.ndarray


Solutions = list[list[Solution]]  # by degree and regression


class Nystroem:
    """Ridge regressions on the same photos and landmarks.

    Args:
        problem: kernel, degrees, weights and regressions.
        features: float32 (photos, features).
        landmarks: their indices among the photos, sorted.
        client: of Dask; None: this process computes all blocks. Workers need features in files.
        scratch: a folder for what the workers read, on a disk that all hosts share.
    """

    def __init__(
        self,
        problem: Problem,
        features: np.ndarray | ShardedArray,
        landmarks: np.ndarray,
        *,
        client: Any = None,
        scratch: Path,
    ) -> None:
        self.problem, self.features, self.landmarks = problem, features, landmarks
        self.client = client if isinstance(features, ShardedArray) else None
        self.scratch = scratch

    def fit(self) -> list[list[Ridge]]:
        """Returns, by degree and regression, the dual coefficients and the leave-one-out scores.

        The scores of a regression of some classes are (photos, classes) for all photos: leaving out a photo of another
        regression changes nothing.
        """
        with self._shared(self.problem) as problem:
            solutions, of_landmarks = self._solve(self._sums(problem))
            scores = [
                [np.empty((len(self.features), len(one.classes))) for one in self.problem.regressions]
                for _ in self.problem.degrees
            ]
            with self._shared(solutions) as shared:
                blocks = list(self._blocks())
                arguments = [(problem, shared, self.features, start, stop) for start, stop in blocks]
                for (start, stop), block in zip(blocks, ordered_map(self.client, block_scores, arguments), strict=True):
                    for into, new in zip(scores, block, strict=True):
                        for one_into, one_new in zip(into, new, strict=True):
                            one_into[start:stop] = one_new
        for into, new in zip(scores, of_landmarks, strict=True):
            for one, one_into, one_new in zip(self.problem.regressions, into, new, strict=True):
                one_into[self.landmarks[one.columns]] = one_new
        return [
            [(solution.dual_coef, one) for solution, one in zip(by_degree, into, strict=True)]
            for by_degree, into in zip(solutions, scores, strict=True)
        ]

    def _blocks(self) -> Iterator[tuple[int, int]]:
        for start in range(0, len(self.features), BLOCK):
            yield start, min(start + BLOCK, len(self.features))

    def _sums(self, problem: Problem | Path) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Returns, by degree and regression, the sums of `block_sums` as float64."""
        sizes = [(len(one.columns), len(one.classes) + 1) for one in self.problem.regressions]
        sums = [[(np.zeros((m, m)), np.zeros((m, k))) for m, k in sizes] for _ in self.problem.degrees]
        arguments = ((problem, self.features, start, stop) for start, stop in self._blocks())
        for block in ordered_map(self.client, block_sums, arguments):
            for into, new in zip(sums, block, strict=True):
                for (gram, moment), (gram_term, moment_term) in zip(into, new, strict=True):
                    gram += gram_term
                    moment += moment_term
        return sums

    def _solve(
        self, sums: list[list[tuple[np.ndarray, np.ndarray]]]
    ) -> tuple[list[list[Solution]], list[list[np.ndarray]]]:
        """Returns, by degree and regression, the solution and the leave-one-out scores of the landmarks.

        The sums are used up.
        """
        solutions: list[list[Solution]] = []
        scores: list[list[np.ndarray]] = []
        for degree, centre in zip(self.problem.degrees, self.problem.centres, strict=True):
            solutions.append([])
            scores.append([])
            by_regression = sums.pop(0)
            for one in self.problem.regressions:
                solution, of_landmarks = self._solve_one(one, degree, centre[one.columns].astype(float), by_regression)
                solutions[-1].append(solution)
                scores[-1].append(of_landmarks)
        return solutions, scores

    def _solve_one(
        self, one: Regression, degree: int, centre: np.ndarray, sums: list[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[Solution, np.ndarray]:
        gram, moment = sums.pop(0)
        inside = np.flatnonzero(one.targets >= 0)
        weights = self.problem.weights[inside].astype(float)
        ones = moment[:, -1]
        # Each lower triangle here is the upper one of the transpose, whose order is Fortran's: nothing is copied.
        gram = dsyr2(1.0, centre, ones + weights.sum() / 2 * centre, a=gram.T, lower=0, overwrite_a=1).T
        moment = moment[:, :-1] + np.outer(centre, weights @ one.one_hot(inside))
        kernel = self.problem.kernel.between_landmarks(one.columns)
        np.power(kernel, degree, out=kernel)
        jitter, diagonal = JITTER, np.diag_indices_from(kernel)
        while True:
            kernel[diagonal] = 1 + jitter
            try:
                factor = cho_factor((gram + kernel).T, lower=False, overwrite_a=True, check_finite=False)[0].T
                break
            except LinAlgError:  # of landmarks so nearly equal that rounding decides
                jitter *= 10
        del gram
        dual_coef = cho_solve((factor.T, False), moment, check_finite=False)
        scores = self._landmark_scores(one, kernel, factor, dual_coef)
        return Solution(dual_coef, np.asfortranarray(factor, np.float32)), scores

    def _landmark_scores(
        self, one: Regression, kernel: np.ndarray, factor: np.ndarray, dual_coef: np.ndarray
    ) -> np.ndarray:
        """Returns the leave-one-out scores of the landmarks, float64 (landmarks, classes).

        A landmark is left out as a photo and as a landmark, as in the exact solution: its coefficient is constrained
        to 0, which subtracts P_i P_i^T / P_ii from P = Q^-1.
        """
        photos = self.landmarks[one.columns]
        scores, targets = kernel @ dual_coef, one.one_hot(photos)
        for start in range(0, len(photos), CHUNK):
            columns = slice(start, min(start + CHUNK, len(photos)))
            unit = np.zeros((len(photos), columns.stop - start))
            unit[np.arange(start, columns.stop), np.arange(columns.stop - start)] = 1
            half, inverse = (
                solve_triangular(factor, x, lower=True, check_finite=False) for x in (kernel[:, columns], unit)
            )
            diagonal, cross = np.einsum("ij,ij->j", inverse, inverse), np.einsum("ij,ij->j", half, inverse)
            leverage = np.einsum("ij,ij->j", half, half) - cross**2 / diagonal
            leverage = (leverage * self.problem.weights[photos[columns]])[:, None]
            score = scores[columns] - (cross / diagonal)[:, None] * dual_coef[columns]
            scores[columns] = (score - leverage * targets[columns]) / (1 - leverage)
        return scores

    @contextmanager
    def _shared(self, value: T) -> Iterator[T | Path]:
        """Yields the value, or a file of it where Dask's workers compute."""
        if self.client is None:
            yield value
            return
        path = self.scratch / f"{uuid4()}.pickle"  # a new name each time, since workers keep what they have read
        try:
            with files.atomic_write(path) as new, new.open("wb") as file:
                pickle.dump(value, file, protocol=pickle.HIGHEST_PROTOCOL)
            yield path.absolute()
        finally:
            path.unlink(missing_ok=True)


def centres(kernel: LandmarkKernel, degrees: Sequence[int]) -> list[np.ndarray]:
    """Returns `Problem.centres`."""
    between = kernel.between_landmarks()
    return [(between**degree).mean(axis=0).astype(np.float32) for degree in degrees]


def block_sums(
    problem: Problem | Path, features: np.ndarray | ShardedArray, start: int, stop: int
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Returns the terms of some photos of the sums, by degree and regression.

    Returns:
        The lower triangle of K_mn W K_nm, float32 (landmarks, landmarks), and K_mn W [Y, 1], float32 (landmarks,
        classes + 1); of the centred kernel.
    """
    problem = opened(problem)
    similarity = problem.kernel.rows(features, start, stop)
    terms: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for degree, centre in zip(problem.degrees, problem.centres, strict=True):
        kernel = similarity**degree - centre
        terms.append([])
        for one in problem.regressions:
            rows = np.flatnonzero(one.targets[start:stop] >= 0)
            root = np.sqrt(problem.weights[start:stop][rows])[:, None]
            weighted = _submatrix(kernel, rows, one.columns) * root
            targets = np.append(one.one_hot(start + rows), np.ones((len(rows), 1)), axis=1).astype(np.float32)
            gram = ssyrk(1.0, weighted.T, lower=0).T if len(rows) else np.zeros((len(one.columns),) * 2, np.float32)
            terms[-1].append((gram, weighted.T @ (targets * root)))
    return terms


def block_scores(
    problem: Problem | Path, solutions: Solutions | Path, features: np.ndarray | ShardedArray, start: int, stop: int
) -> list[list[np.ndarray]]:
    """Returns the leave-one-out scores of some photos as if none were a landmark, by degree and regression.

    The score of a photo is (s - h y) / (1 - h), where s is its score, y the target and h = w k Q^-1 k its leverage. For
    photos of another regression it is s.

    Returns:
        float64 (photos, classes).
    """
    problem, by_degree = opened(problem), opened(solutions)
    similarity = problem.kernel.rows(features, start, stop)
    scores: list[list[np.ndarray]] = []
    for degree, solved in zip(problem.degrees, by_degree, strict=True):
        kernel = similarity**degree
        scores.append([])
        for one, solution in zip(problem.regressions, solved, strict=True):
            score = np.concatenate(
                [
                    _submatrix(kernel[i : i + CHUNK], None, one.columns).astype(float) @ solution.dual_coef
                    for i in range(0, len(kernel), CHUNK)
                ]
            )
            rows = np.flatnonzero(one.targets[start:stop] >= 0)
            if len(rows):
                half = strsm(1.0, solution.factor, _submatrix(kernel, rows, one.columns).T, lower=1)
                leverage = np.einsum("ij,ij->j", half, half).astype(float) * problem.weights[start:stop][rows]
                leverage = leverage[:, None]
                score[rows] = (score[rows] - leverage * one.one_hot(start + rows)) / (1 - leverage)
            scores[-1].append(score)
    return scores


def _submatrix(matrix: np.ndarray, rows: np.ndarray | None, columns: np.ndarray) -> np.ndarray:
    """Returns the rows and columns of some sorted indices; the matrix itself where these are all."""
    if rows is not None and len(rows) < len(matrix):
        matrix = matrix[rows]
    return matrix if len(columns) == matrix.shape[1] else matrix[:, columns]


def opened(value: T | Path) -> T:
    """Returns a value, which a file may hold."""
    return cast("T", _read(value)) if isinstance(value, Path) else value


@lru_cache(maxsize=2)
def _read(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)
