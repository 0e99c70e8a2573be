"""Faithfulness of the maps that say why: deletion and insertion curves on photos that the model was not fitted to.

python benchmarks/explanations.py [--data data] [--number 200] [--only shown] [--seconds 0]

A map ranks the cells of a photo. Deletion: the answer's mean probability while the cells disappear, the highest first,
under the photo's mean colour; the lower, the better. Insertion: the same while they appear on the blurred photo; the
higher, the better (Vitali Petsiuk and others, arXiv 1806.07421). Both are areas under curves of six points. The score
is insertion minus deletion, compared with random maps of the same smoothness on the same photos.

Methods: `halves` hides random halves of the cells, `cell` one cell at a time, which was the method before; each under a
blur, the mean colour, the background (the median of the border) and inpainting (OpenCV, Telea); each for the log
probability of the answer, and for its contrast with the runner-up. `centre` ranks cells by their nearness to the centre
whatever the photo shows. `--only shown` has the present and the former method only.

Then how often a part carries the answer, and how often the answer is right in both cases. The model is fitted to the
training part, and the photos are the first ones of a random order of the validation part. `--seconds` ends after that
time. Run it after `dvc repro` on real photos: on two idle cores some 40 minutes, with `--only shown` 10.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFilter

from gemmodel import devices
from gemmodel.core import image_folder, params
from gemmodel.embed import extractor, feature_set
from gemmodel.embed.litert import Graph
from gemmodel.explain import occlusion
from gemmodel.images import decode
from gemmodel.models import fusion, saving
from gemmodel.train.fusion_head import fit_kernel, to_keras

CELLS = occlusion.CELLS
BLUR = 0.1  # radius, as a fraction of the photo's side
FILLS = ("blur", "mean colour", "background", "inpainting")
COUNTS = (0, 2, 5, 10, 15, CELLS**2)  # cells at the points of a curve
ONE_CELL = np.eye(CELLS**2, dtype=bool).reshape(-1, CELLS, CELLS)
CENTRE = -((np.indices((CELLS, CELLS)) - (CELLS - 1) / 2) ** 2).sum(axis=0)


class HiddenPhotos:
    """A photo's probabilities with parts hidden; the same parts are predicted once."""

    def __init__(self, graph: Graph, pool: ThreadPoolExecutor, pixels: np.ndarray) -> None:
        self.graph, self.pool, self.pixels = graph, pool, pixels
        border = np.concatenate([pixels[:11].reshape(-1, 3), pixels[-11:].reshape(-1, 3),
                                 pixels[:, :11].reshape(-1, 3), pixels[:, -11:].reshape(-1, 3)])  # fmt: skip
        blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR * len(pixels)))
        self.fills = {
            "blur": np.asarray(blurred),
            "mean colour": np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8),
            "background": np.median(border, axis=0).astype(np.uint8),
        }
        self.seen: dict[tuple[str, bytes], np.ndarray] = {}

    def __call__(self, fill: str, hidden: np.ndarray) -> np.ndarray:
        """Returns the probabilities (photos, classes) with cells (photos, cells, cells) hidden under a fill."""
        keys = [(fill, mask.tobytes()) for mask in hidden]
        new = {key: mask for key, mask in zip(keys, hidden, strict=True) if key not in self.seen}
        outputs = self.pool.map(lambda mask: self.graph(self.hide(fill, mask))["probabilities"][0], new.values())
        self.seen |= dict(zip(new, outputs, strict=True))
        return np.stack([self.seen[key] for key in keys])

    def hide(self, fill: str, mask: np.ndarray) -> np.ndarray:
        """Returns the photo with cells (cells, cells) hidden under a fill."""
        cell = np.arange(len(self.pixels)) * CELLS // len(self.pixels)
        whole = mask[np.ix_(cell, cell)]
        if fill != "inpainting":
            return np.where(whole[..., None], self.fills[fill], self.pixels)
        if whole.all():
            return self.hide("background", mask)
        half = cv2.resize(self.pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)  # it takes long
        painted = cv2.inpaint(half, np.ascontiguousarray(whole[::2, ::2]).astype(np.uint8), 3, cv2.INPAINT_TELEA)
        return np.where(whole[..., None], cv2.resize(painted, whole.shape), self.pixels)


def maps_of(hidden_photos: HiddenPhotos, unhidden: np.ndarray, *, only_shown: bool, seed: int) -> dict[str, np.ndarray]:
    """Returns the maps of a photo by method, float (cells, cells)."""
    answer, other = np.argsort(-unhidden)[:2]
    random = np.random.default_rng(seed).normal(size=(CELLS + 2, CELLS + 2))
    maps = {"random": cv2.blur(random, (3, 3))[1:-1, 1:-1], "centre": CENTRE}
    halves = occlusion.hidden_halves(CELLS)

    def scores(probs: np.ndarray) -> dict[str, np.ndarray]:
        logs = np.log(np.maximum(probs, occlusion.EPS))
        return {"log p": logs[..., answer], "contrast": logs[..., answer] - logs[..., other]}

    for fill in FILLS:
        for target in ("log p", "contrast"):
            if not only_shown or (fill, target) == ("mean colour", "log p"):
                values = occlusion.cell_values(scores(hidden_photos(fill, halves))[target], halves)
                maps[f"halves, {fill}, {target}"] = values
            if not only_shown or (fill, target) == ("blur", "log p"):
                values = scores(unhidden)[target] - scores(hidden_photos(fill, ONE_CELL))[target]
                maps[f"cell, {fill}, {target}"] = values.reshape(CELLS, CELLS)
    return maps


def areas(hidden_photos: HiddenPhotos, values: np.ndarray, answer: int) -> tuple[float, float]:
    """Returns the areas under the deletion curve and under the insertion curve of a map."""
    rank = np.argsort(np.argsort(-values.ravel(), kind="stable"), kind="stable").reshape(values.shape)
    removed = np.stack([rank < count for count in COUNTS])
    x = np.array(COUNTS) / CELLS**2
    deletion = np.trapezoid(hidden_photos("mean colour", removed)[:, answer], x)
    insertion = np.trapezoid(hidden_photos("blur", ~removed)[:, answer], x)
    return float(deletion), float(insertion)


def photos_of(folder: Path, number: int) -> Iterator[tuple[int, Path, str]]:
    paths = [(path, gem) for gem, by_gem in image_folder.list_images(folder).items() for path in by_gem]
    for i in np.random.default_rng(0).permutation(len(paths))[:number].tolist():
        yield i, *paths[i]


def measure(
    graph: Graph, photos: Iterable[tuple[int, Path, str]], classes: list[str], *, only_shown: bool, seconds: float
) -> None:
    pool, start = ThreadPoolExecutor(os.cpu_count()), time.perf_counter()
    results: dict[str, list[tuple[float, float]]] = {}
    carried: list[tuple[bool, bool, float, float]] = []
    for i, path, gem in photos:
        if time.perf_counter() - start > seconds:
            break
        hidden_photos = HiddenPhotos(graph, pool, decode.load(path, graph.size))
        unhidden = hidden_photos("blur", np.zeros((1, CELLS, CELLS), bool))[0]
        answer = int(unhidden.argmax())
        maps = maps_of(hidden_photos, unhidden, only_shown=only_shown, seed=i)
        for method, values in maps.items():
            results.setdefault(method, []).append(areas(hidden_photos, values, answer))
        values = maps["halves, mean colour, log p"]
        without = hidden_photos("mean colour", occlusion.largest(values)[None])[0]
        others = partial(hidden_photos, "mean colour", occlusion.random_parts(CELLS))
        part = occlusion.part_of(values, unhidden, without, others)
        fall = float(unhidden[answer] - without[answer])
        carried.append((part.carries, classes[answer] == gem, float(unhidden[answer]), fall))
        if len(carried) % 10 == 0:
            print(f"{len(carried)} photos, {time.perf_counter() - start:.0f} s", flush=True)
    difference = {method: np.array(rows)[:, 1] - np.array(rows)[:, 0] for method, rows in results.items()}
    print(f"{len(carried)} photos of the validation part, {CELLS} x {CELLS} cells, {occlusion.HALVES} halves")
    for method, rows in sorted(results.items(), key=lambda item: -difference[item[0]].mean()):
        deletion, insertion = np.mean(rows, axis=0)
        gain = difference[method] - difference["random"]
        print(f"{method:28} deletion {deletion:.3f}, insertion {insertion:.3f}, above random {gain.mean():+.3f} "
              f"± {gain.std() / len(gain) ** 0.5:.3f}, better than random on {(gain > 0).mean():.2f}")  # fmt: skip
    table = np.array(carried, float)
    for name, rows in (("carried by a part", table[table[:, 0] == 1]), ("by no single part", table[table[:, 0] == 0])):
        if len(rows):
            _, right, probability, fall = rows.mean(axis=0)
            print(f"{name}: {len(rows)} photos, right {right:.2f}, probability {probability:.2f}, without the part "
                  f"{fall:.2f} lower")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="with features and split")
    parser.add_argument("--number", type=int, default=200, help="of photos")
    parser.add_argument("--only", choices=["shown"], help="the present and the former method only")
    parser.add_argument("--seconds", type=float, default=np.inf, help="after which no further photo is explained")
    arguments = parser.parse_args()
    settings = params.load(Path("params.yaml"))
    print(devices.prepare(settings.base))
    train, val = (feature_set.read(arguments.data / "features" / part) for part in ("train", "val"))
    head, _ = fit_kernel(replace(settings.model.fusion, refit_on_validation=False), train, val, params=settings.train)
    with tempfile.TemporaryDirectory() as scratch:
        pixels_to_features = extractor.extractor(settings.embed, image_size=settings.base.image_size)
        saving.export(fusion.attach(pixels_to_features, to_keras(head)), Path(scratch) / "model.tflite")
        photos = photos_of(arguments.data / "split" / "val", arguments.number)
        measure(
            Graph(Path(scratch) / "model.tflite"), photos, train.classes,
            only_shown=bool(arguments.only), seconds=arguments.seconds,
        )  # fmt: skip


if __name__ == "__main__":
    main()
