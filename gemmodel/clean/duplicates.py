"""Which photos show the same picture: rescaled, recompressed, cropped slightly or mirrored.

There are three filters. Each is finer and slower than the one before, so few pairs of 100,000 photos reach the last:

1. the nearest neighbours by colour layout (the 12 numbers of MPEG-7's descriptor of that name), in a k-d tree;
2. the perceptual hash (ImageHash's `phash`, 64 bits);
3. the thumbnails, registered to each other: a crop is undone first (Lucas and Kanade 1981; a scale and a shift per
   axis), then colour and fine detail have to agree. Fine detail tells apart cabochons on white, which else look alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from gemmodel.core.params import CleanParams
from gemmodel.images import phash

Array = NDArray[Any]

SIDES = (16, 32, 64)  # pixels of the thumbnails
TOLERANCE = (0.5, 0.15, 0.0)  # by how much a pair may miss the limits at each size and still be compared at the next
EARLY_ACCEPT_SIDE = 32  # a fifth of the allowed dissimilarity accepts here: much smaller copies lack fine detail
LAYOUT = ((0, 0, 1, 2, 1, 0), (0, 1, 0, 0, 1, 2)), (6, 3, 3)  # rows and columns in zigzag; coefficients of Y, Cb, Cr
MIRRORED = np.concatenate([[(-1) ** column for column in LAYOUT[0][1][:count]] for count in LAYOUT[1]])
NEIGHBOURS = 10  # candidates per photo, so that a class of similar photos takes no longer than others
MAX_LAYOUT_DISTANCE = 24.0  # grey levels between two layouts; it stays below 21 with 5 % cropped away
JITTER = 0.05  # grey levels of noise, so that equal layouts do not all fall into one leaf of the tree
MAX_SCALE, MAX_SHIFT = 1.18, 0.15  # of an axis that a crop changed; the shift in half sides
DETAIL = 10.0  # grey levels; stronger detail hardly counts more
BATCH = 500  # pairs that are compared at a time


@dataclass(frozen=True)
class Descriptor:
    """The features by which a photo is recognised.

    Attributes:
        views: Thumbnails: grey of shape (1, 16, 16) and (1, 32, 32), RGB of shape (3, 64, 64), all uint8.
        layout: MPEG-7's colour layout before its quantisation, float32 of shape (12,), in grey levels.
        hashes: 64 bits each of the photo and of its mirror image, uint64 of shape (2,).
    """

    views: tuple[Array, Array, Array]
    layout: Array
    hashes: Array


def describe(image: Image.Image) -> Descriptor:
    """Returns the descriptor of an RGB image of any size."""
    colour, grey = phash.thumbnails(image)
    small_grey = grey.resize((SIDES[0], SIDES[0]), Image.Resampling.BOX)
    tiny = colour.resize((8, 8), Image.Resampling.BOX).convert("YCbCr")
    spectrum = dctn(np.asarray(tiny, np.float32), axes=(0, 1), norm="ortho") / 8
    (rows, columns), counts = LAYOUT
    return Descriptor(
        (
            np.asarray(small_grey)[np.newaxis],
            np.asarray(grey)[np.newaxis],
            np.ascontiguousarray(np.asarray(colour).transpose(2, 0, 1)),
        ),
        np.concatenate([spectrum[rows[:count], columns[:count], channel] for channel, count in enumerate(counts)]),
        phash.phash(grey),
    )


def candidates(layouts: Array) -> Array:
    """Finds the nearest neighbours of each photo and of its mirror image.

    Args:
        layouts: one colour layout per row, shape (photos, 12).

    Returns:
        Sorted rows (i, j, mirrored), i < j; at most 2 * NEIGHBOURS per photo.
    """
    points = layouts + np.random.default_rng(0).normal(0, JITTER, layouts.shape)
    tree = KDTree(points)
    pairs = []
    for mirrored, queries in enumerate((points, points * MIRRORED)):
        near = tree.query(queries, NEIGHBOURS + 1, eps=1, distance_upper_bound=MAX_LAYOUT_DISTANCE, workers=-1)[1]
        i, rank = np.nonzero((near < len(points)) & (near != np.arange(len(points))[:, np.newaxis]))
        j = near[i, rank]
        pairs.append(np.stack([np.minimum(i, j), np.maximum(i, j), np.full(len(i), mirrored)], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def verify_pairs(descriptors: Sequence[Descriptor], pairs: Array, params: CleanParams) -> Array:
    """Decides which pairs of photos show the same picture.

    Args:
        descriptors: of all photos.
        pairs: rows (i, j, mirrored), shape (pairs, 3).
        params: `hash_distance` in bits of 64; `pixel_difference` as the mean over the thumbnails in [0, 255];
            `similarity` of their fine detail, at most 1.

    Returns:
        Whether the two are the same, bool of shape (pairs,).
    """
    hashes = np.stack([descriptor.hashes for descriptor in descriptors])
    distance = np.bitwise_count(hashes[pairs[:, 0], 0] ^ hashes[pairs[:, 1], pairs[:, 2]])
    verified = distance <= params.hash_distance
    indices = np.flatnonzero(verified)
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        affine = np.tile(np.array([[1, 0], [1, 0]], np.float32), (len(batch), 1, 1))
        for size, tolerance in enumerate(TOLERANCE):
            if not len(batch):
                break
            a, b = _thumbnails(descriptors, size, pairs[batch])
            affine = register_affine(a, b, affine) if tolerance else affine
            warped, mask = warp(b, affine)
            similarity = _similarity(a, warped, mask)
            same = _difference(a, warped, mask) <= (1 + tolerance / 2) * params.pixel_difference
            same &= similarity >= params.similarity - tolerance
            verified[batch[~same]] = False
            if SIDES[size] == EARLY_ACCEPT_SIDE:
                same &= similarity < 1 - (1 - params.similarity) / 5
            batch, affine = batch[same], affine[same]
    return verified


def duplicate_groups(descriptors: Sequence[Descriptor], params: CleanParams) -> list[list[int]]:
    """Groups the photos that show the same picture.

    Args:
        descriptors: of all photos, the best photo first.
        params: when two photos are the same; see `verify_pairs`.

    Returns:
        Groups of two or more indices, the best photo first. Every photo of a group was compared with its best photo: a
        chain whose neighbours are the same and whose ends are not becomes several groups.
    """
    if len(descriptors) < 2:
        return []
    pairs = candidates(np.stack([descriptor.layout for descriptor in descriptors]))
    pairs = pairs[verify_pairs(descriptors, pairs, params)]
    shape = (len(descriptors), len(descriptors))
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=shape).tocsr()
    rest, groups = np.unique(pairs[:, :2]), []
    while len(rest):
        labels = connected_components(graph[rest][:, rest], directed=False)[1]
        best = rest[np.unique(labels, return_index=True)[1]][labels]
        plain, mirrored = (np.stack([best, rest, np.full(len(rest), flag)], axis=1) for flag in (0, 1))
        joined = best == rest
        joined |= verify_pairs(descriptors, plain, params) | verify_pairs(descriptors, mirrored, params)
        groups += [rest[joined & (best == first)].tolist() for first in np.unique(best)]
        rest = rest[~joined]
    return sorted(group for group in groups if len(group) > 1)


def interpolation_weights(affine: Array, side: int) -> tuple[Array, Array]:
    """Returns how an axis is sampled linearly at scale * x + shift, x in [-1, 1].

    Args:
        affine: scale and shift per pair, shape (n, 2).
        side: pixels of the axis.

    Returns:
        The weights, shape (n, 1, side, side), and whether a sample lies inside the image, bool of shape (n, side).
    """
    x = (np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1
    position = (affine[:, :1] * x + affine[:, 1:] + 1) * side / 2 - 0.5
    inside = (position > -0.5) & (position < side - 0.5)
    distance = np.abs(position.clip(0, side - 1)[:, :, np.newaxis] - np.arange(side, dtype=np.float32))
    return np.maximum(0, 1 - distance)[:, np.newaxis], inside


def warp(images: Array, affine: Array) -> tuple[Array, Array]:
    """Resamples images by scale and shift of rows, then of columns.

    Args:
        images: shape (n, channels, side, side).
        affine: scale and shift of rows and of columns, shape (n, 2, 2).

    Returns:
        The warped images, and a mask of shape (n, 1, side, side): 1 inside of the original image, 0 outside.
    """
    down, rows = interpolation_weights(affine[:, 0], images.shape[-1])
    across, columns = interpolation_weights(affine[:, 1], images.shape[-1])
    mask = (rows[:, :, np.newaxis] & columns[:, np.newaxis, :])[:, np.newaxis].astype(np.float32)
    return down @ images @ across.swapaxes(2, 3), mask


def register_affine(a: Array, b: Array, affine: Array, iterations: int = 6) -> Array:
    """Improves the affine by which b is warped to a, by Gauss-Newton on grey images of shape (n, 1, side, side)."""
    side = a.shape[-1]
    x = (np.arange(side, dtype=np.float32) + 0.5) * 2 / side - 1
    gradients = np.concatenate([b, *np.gradient(b, 2 / side, axis=(2, 3))], axis=1)
    for _ in range(iterations):
        warped, mask = warp(gradients, affine)
        warped = warped * mask
        error = a * mask - warped[:, :1]
        vertical, horizontal = warped[:, 1], warped[:, 2]
        jacobian = np.stack([vertical * x[:, np.newaxis], vertical, horizontal * x, horizontal], axis=1)
        jacobian = jacobian.reshape(len(a), 4, -1)
        hessian = jacobian @ jacobian.swapaxes(1, 2)
        damping = 1e-3 * (hessian.trace(axis1=1, axis2=2) + 1)[:, np.newaxis, np.newaxis] * np.eye(4, dtype=np.float32)
        step = np.linalg.solve(hessian + damping, jacobian @ error.reshape(len(a), -1, 1))
        affine = affine + step.reshape(-1, 2, 2)
        scale, shift = affine[..., 0].clip(1 / MAX_SCALE, MAX_SCALE), affine[..., 1].clip(-MAX_SHIFT, MAX_SHIFT)
        affine = np.stack([scale, shift], axis=-1)
    return affine


def _thumbnails(descriptors: Sequence[Descriptor], size: int, pairs: Array) -> tuple[Array, Array]:
    """Returns both photos of each pair, float32 of shape (n, channels, side, side), the second mirrored if needed."""
    a, b = (np.empty((len(pairs), *descriptors[0].views[size].shape), np.float32) for _ in range(2))
    for index, (i, j, mirrored) in enumerate(pairs):
        a[index] = descriptors[i].views[size]
        b[index] = descriptors[j].views[size][..., :: -1 if mirrored else 1]
    return a, b


def _difference(a: Array, warped: Array, mask: Array) -> Array:
    """Returns the mean absolute difference of each pair, in [0, 255]."""
    return (np.abs(a - warped) * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) * a.shape[1])


def _similarity(a: Array, warped: Array, mask: Array) -> Array:
    """Returns how well the fine detail agrees: 1 for equal images, about 0 for unrelated ones.

    Detail is the difference between a narrow and a wide blur. It saturates at some grey levels, or else the outline of
    a stone on white would outweigh what is inside it.
    """
    details = []
    for image in (a, warped):
        detail = gaussian_filter(image, (0, 0, 1, 1), truncate=3) - uniform_filter(image, (1, 1, 7, 7))
        details.append(detail / np.hypot(detail, DETAIL) * mask)
    energy = (details[0] ** 2 + details[1] ** 2).sum((1, 2, 3))
    return 1 - ((details[0] - details[1]) ** 2).sum((1, 2, 3)) / np.maximum(energy, 1e-6)
