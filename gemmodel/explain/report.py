"""Explanations of a model's predictions, as one page with its pictures and tables."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from gemmodel.core import files, image_folder
from gemmodel.core.params import ExplainParams
from gemmodel.embed.litert import Graph
from gemmodel.explain import ablation, cues
from gemmodel.figures import html, overlays, plots
from gemmodel.figures.tiles import Gallery
from gemmodel.images import decode

if TYPE_CHECKING:
    import keras

    from gemmodel.explain.explainer import Explainer

# What needs Keras is imported in functions: it starts beside the first predictions.
TEMPLATE = Path(__file__).with_suffix(".html")
DPI, QUALITY = 90, 88
Maps = dict[str, np.ndarray]  # of a photo, by method
PREDICTED_PER_SHOWN = 4  # photos predicted for each one shown: enough for wrong predictions among them


@dataclass(frozen=True)
class ExplainedPhoto:
    """A photo and the model's prediction.

    Attributes:
        path: of the photo.
        actual: the class index.
        probabilities: shape (classes,).
        side: of the model's input in pixels.
    """

    path: Path
    actual: int
    probabilities: np.ndarray
    side: int

    @property
    def predicted(self) -> int:
        """The index of the predicted class, which is the one that is explained."""
        return int(self.probabilities.argmax())

    @property
    def right(self) -> bool:
        """Whether the predicted class is the actual one."""
        return self.predicted == self.actual

    @cached_property
    def pixels(self) -> np.ndarray:
        """The model's input, uint8 of shape (side, side, 3)."""
        return decode.load(self.path, self.side)


def write(
    load: "Callable[[], keras.Model]", graph: Graph, test: Path, classes: Sequence[str], params: ExplainParams, *,
    out: Path, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Writes the page `index.html`, which needs no other file, and its pictures and tables.

    Args:
        load: returns the model, from pixels in [0, 255] to probabilities. Another thread calls it, beside predictions.
        graph: the model's export, for all that needs no gradients: it is faster, and what is served.
        test: a folder of class folders; nothing is selected by it.
        classes: the class names in the order of the probabilities.
        params: how many photos are explained, and how precisely.
        out: the folder.
        seed: of the samples of photos, of noise and of shuffled weights.

    Returns:
        The table of `ablation.measure`.
    """
    count = max(PREDICTED_PER_SHOWN * params.photos, params.ablation_photos) if params.ablation_photos else None
    ended = Event()
    with files.atomic_write(out) as new, ThreadPoolExecutor(1) as beside, ExitStack() as stack:
        stack.callback(ended.set)  # also by an error, so that nobody waits for the gradients
        loading = beside.submit(_explainer, load)
        with _timed("predictions of test photos"):
            photos = predict(graph, test, classes, count=count, seed=seed)
        shown = choose(photos, params.photos)
        right, wrong = ([photo for photo in shown if photo.right is value] for value in (True, False))
        compared = [photo for pair in zip_longest(right, wrong) for photo in pair if photo][: params.comparison_photos]
        # LiteRT leaves Python's lock to the tracing of gradients.
        gradients = beside.submit(_gradient_maps, loading, shown, compared, params, ended, seed=seed)
        (new / "photos").mkdir(parents=True)
        ablation_photos = photos[: params.ablation_photos or None]
        perturbations = ablation.perturbations(params, seed=seed)
        with _timed(f"occlusion of {len(shown)} photos"):
            # As `gemmodel predict --explain` does, but for the known photos.
            explanations = [
                cues.explain(graph.probabilities, photo.pixels, photo.probabilities, classes, cells=params.occlusion)
                for photo in shown
            ]
        with _timed(f"{len(perturbations) - 1} perturbations of {len(ablation_photos)} photos"):
            pixels = np.stack([photo.pixels for photo in ablation_photos])
            actual = np.array([photo.actual for photo in ablation_photos])
            unchanged = np.stack([photo.probabilities for photo in ablation_photos])
            ablation_table = ablation.measure(graph.probabilities, pixels, unchanged, actual, perturbations)
        explainer, (cams, trained, shuffled) = loading.result(), gradients.result()
        from gemmodel.explain import attribution, feature_maps

        for i, (photo, explanation, cam) in enumerate(zip(shown, explanations, cams, strict=True)):
            picture = _gallery_picture(photo, explanation, cam)
            picture.save(new / "photos" / f"{i:02d}.jpg", quality=QUALITY)
        values = {photo.path: answer.part.values for photo, answer in zip(shown, explanations, strict=True)}
        for photo, maps in zip(compared, trained, strict=True):
            maps[attribution.OCCLUSION] = np.maximum(values[photo.path], 0)
        methods_gallery, checks = compare(explainer, compared, trained, shuffled, classes, params, seed=seed)
        methods_gallery.picture().save(new / "methods.jpg", quality=QUALITY)
        plots.save(ablation.plot(ablation_table, classes=len(classes)), new / "ablation.png", dpi=DPI)
        examples = Gallery(ablation.examples(compared[0].pixels, perturbations), columns=5, side=170)
        examples.picture().save(new / "perturbations.jpg", quality=QUALITY)
        with _timed("feature maps"):
            plots.save(feature_maps.plot(explainer, compared[0].pixels), new / "feature_maps.png", dpi=DPI)
        photo_table = _photo_table(shown, test, classes).assign(
            part_carries=[explanation.part.carries for explanation in explanations],
            explanation=[" ".join(explanation.sentences) for explanation in explanations],
        )
        for name, table in (("photos", photo_table), ("checks", checks), ("ablation", ablation_table)):
            table.to_csv(new / f"{name}.csv", index=False)
        rows = [
            row | {"picture": html.data_url(new / "photos" / f"{i:02d}.jpg")}
            for i, row in enumerate(photo_table.to_dict("records"))
        ]
        html.write(
            new / "index.html",
            TEMPLATE,
            pictures={name: html.data_url(new / name) for name in ("ablation.png", "feature_maps.png")},
            compared=html.tile_values(methods_gallery.tiles),
            perturbed=html.tile_values(examples.tiles),
            groups=[
                ("right", [row for row in rows if row["right"]]),
                ("wrong", [row for row in rows if not row["right"]]),
            ],
            checks=checks.to_dict("records"),
            methods=list(shuffled[0]),
            means=checks[list(shuffled[0])].mean().to_dict(),
            ablation=ablation_table.to_dict("records"),
            has_histograms=bool(explainer.histograms),
            params=params,
        )
    return ablation_table


def predict(graph: Graph, test: Path, classes: Sequence[str], *, count: int | None, seed: int) -> list[ExplainedPhoto]:
    """Returns the model's predictions of a random sample, or of all photos, of a folder, in random order."""
    paths, labels = image_folder.list_samples(test, classes)
    order = np.random.default_rng(seed).permutation(len(paths))[:count]
    paths, labels = [paths[i] for i in order], labels[order]
    probs = graph.probabilities(paths)
    return [
        ExplainedPhoto(path, int(label), p, graph.size) for path, label, p in zip(paths, labels, probs, strict=True)
    ]


def choose(photos: Sequence[ExplainedPhoto], count: int) -> list[ExplainedPhoto]:
    """Returns `count` photos, half of them wrongly predicted if there are enough, the right ones first."""
    right, wrong = ([photo for photo in photos if photo.right is value] for value in (True, False))
    wrong_count = max(count - len(right), min(count // 2, len(wrong)))
    return right[: count - wrong_count] + wrong[:wrong_count]


def _explainer(load: "Callable[[], keras.Model]") -> "Explainer":
    with _timed("loading the model beside"):
        model = load()  # imports Keras as this process needs it
        from gemmodel.explain.explainer import Explainer

        return Explainer(model)


def _gradient_maps(
    loading: "Future[Explainer]", shown: Sequence[ExplainedPhoto], compared: Sequence[ExplainedPhoto],
    params: ExplainParams, ended: Event, *, seed: int,
) -> tuple[list[np.ndarray], list[Maps], list[Maps]]:  # fmt: skip
    """Returns what needs the model in Keras: Grad-CAM of the shown photos, and the maps of the compared ones.

    The latter are by method, with the trained weights, but for occlusion, and with shuffled weights. It gives up once
    `ended` is set.
    """
    explainer = loading.result()
    from gemmodel.explain import attribution

    methods = attribution.methods(params, seed=seed)

    def explain(name: str, photos: Sequence[ExplainedPhoto]) -> list[np.ndarray]:
        maps = []
        for photo in photos:
            if ended.is_set():
                raise CancelledError
            maps.append(methods[name](explainer, photo.pixels.astype(np.float32), photo.predicted))
        return maps

    def by_photo(maps: dict[str, list[np.ndarray]]) -> list[Maps]:
        return [{name: values[i] for name, values in maps.items()} for i in range(len(compared))]

    with _timed(f"Grad-CAM of {len(shown)} photos"):
        cams = explain(attribution.GRAD_CAM, shown)
    trained = {}
    for name in methods:
        if name != attribution.OCCLUSION:
            with _timed(f"{name} of {len(compared)} photos"):
                trained[name] = explain(name, compared)
    with _timed("the same with shuffled weights"), explainer.randomised(seed):
        shuffled = {name: explain(name, compared) for name in methods}
    return cams, by_photo(trained), by_photo(shuffled)


def compare(
    explainer: "Explainer", photos: Sequence[ExplainedPhoto], trained: Sequence[Maps], shuffled: Sequence[Maps],
    classes: Sequence[str], params: ExplainParams, *, seed: int,
) -> tuple[Gallery, pd.DataFrame]:  # fmt: skip
    """Compares the maps of trained and of shuffled weights (Adebayo and others, 1810.03292).

    Args:
        explainer: of the model.
        photos: are explained.
        trained: the maps of each, by method.
        shuffled: those with shuffled weights.
        classes: their names in the order of the probabilities.
        params: of the methods.
        seed: of the baseline's noise.

    Returns:
        A gallery of the maps; and one row per photo: its name (`photo`), the predicted `gem`, the
        `completeness_error`, and by method the rank correlation of its two maps, with trained and shuffled weights.
    """
    from gemmodel.explain import attribution

    methods = list(shuffled[0])
    cells, rows = [], []
    for photo, trained_maps, shuffled_maps in zip(photos, trained, shuffled, strict=True):
        gem = classes[photo.predicted]
        title = gem if photo.right else f"{classes[photo.actual]}, predicted {gem}"
        for caption, maps in ((title, trained_maps), ("with shuffled weights", shuffled_maps)):
            cells.append((Image.fromarray(photo.pixels), caption))
            cells += [(overlays.overlay(photo.pixels, maps[name]), name) for name in methods]
        error = attribution.completeness_error(
            explainer, photo.pixels.astype(np.float32), photo.predicted, trained_maps["integrated gradients"],
            baseline=params.baseline, seed=seed,
        )  # fmt: skip
        correlations = {name: attribution.rank_correlation(trained_maps[name], shuffled_maps[name]) for name in methods}
        rows.append({"photo": photo.path.name, "gem": gem, "completeness_error": error} | correlations)
    return Gallery(cells, columns=1 + len(methods), side=200), pd.DataFrame(rows).round(4)


def _gallery_picture(photo: ExplainedPhoto, explanation: cues.Explanation, cam: np.ndarray) -> Image.Image:
    """Returns a photo and its maps by the methods that are fast enough for every photo, side by side."""
    maps = [overlays.overlay(photo.pixels, values) for values in (explanation.part.shown, cam)]
    return Image.fromarray(np.concatenate([photo.pixels, *map(np.asarray, maps)], axis=1))


def _photo_table(photos: Sequence[ExplainedPhoto], test: Path, classes: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "file": [photo.path.relative_to(test).as_posix() for photo in photos],
            "actual": [classes[photo.actual] for photo in photos],
            "predicted": [classes[photo.predicted] for photo in photos],
            "right": [photo.right for photo in photos],
            "probability": [float(photo.probabilities[photo.predicted]) for photo in photos],
            "probability_of_actual": [float(photo.probabilities[photo.actual]) for photo in photos],
        }
    ).round(4)


@contextmanager
def _timed(task: str) -> Iterator[None]:
    """Prints how long a task takes; no output contains a time."""
    start = time.perf_counter()
    yield
    print(f"explain: {task}: {time.perf_counter() - start:.1f} s", flush=True)
