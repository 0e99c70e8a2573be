"""Why a model answers as it does, as one page with its pictures and tables."""

import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import jinja2
import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from gemmodel.core import files
from gemmodel.core.params import ExplainParams
from gemmodel.embed import samples
from gemmodel.explain import ablation, attribution, feature_maps
from gemmodel.explain.explainer import BATCH, Explainer
from gemmodel.figures import overlays, tiles
from gemmodel.images import decode

TEMPLATE = Path(__file__).with_suffix(".html")
POOL = 4  # photos asked for each one shown, so that wrong answers are among them however large the test part is
GALLERY = ("occlusion", "Grad-CAM")  # the methods that are quick enough for every photo


@dataclass(frozen=True)
class ExplainedPhoto:
    """A test photo, its actual class's index, and the model's probabilities, of shape (classes,)."""

    path: Path
    actual: int
    probabilities: np.ndarray
    side: int

    @property
    def target(self) -> int:
        """The index of the class that the model answers, which is what gets explained."""
        return int(self.probabilities.argmax())

    @property
    def right(self) -> bool:
        """Whether the answer is the actual class."""
        return self.target == self.actual

    @cached_property
    def photo(self) -> np.ndarray:
        """The pixels that the model sees, uint8 of shape (side, side, 3)."""
        return decode.load(self.path, self.side)


def write(
    model: keras.Model, test: Path, classes: Sequence[str], params: ExplainParams, *, out: Path, seed: int
) -> pd.DataFrame:
    """Writes the page `index.html`, which needs no other file, and beside it its pictures and tables.

    Args:
        model: from pixels in [0, 255] to probabilities.
        test: a folder a class. Nothing is chosen by it.
        classes: the class names in the order of the probabilities.
        params: how much is explained.
        out: becomes the folder.
        seed: of what is drawn: photos, noise, weights.

    Returns:
        What `colour_dependence.measure` gave.
    """
    with _timed("opening the model"):
        opened = Explainer(model)
    asked = max(POOL * params.photos, params.ablation_photos) if params.ablation_photos else None
    with _timed("answers on test photos"):
        told = answers(opened, test, classes, number=asked, seed=seed)
    chosen = choose(told, params.photos)
    right, wrong = ([answer for answer in chosen if answer.right is kind] for kind in (True, False))
    compared = [answer for pair in zip_longest(right, wrong) for answer in pair if answer][: params.comparison_photos]
    measured = told[: params.ablation_photos or None]
    changes = ablation.perturbations(params, seed=seed)
    with files.atomic_write(out) as new:
        (new / "photos").mkdir(parents=True)
        with _timed(f"occlusion and Grad-CAM of {len(chosen)} photos"):
            for number, answer in enumerate(chosen):
                _gallery(opened, answer, params, seed=seed).save(new / "photos" / f"{number:02d}.jpg", quality=88)
        sheet, checks = compare(opened, compared, classes, params, seed=seed)
        sheet.save(new / "methods.jpg", quality=88)
        with _timed(f"{len(changes) - 1} changes of {len(measured)} photos"):
            pixels, actual = np.stack([a.photo for a in measured]), np.array([a.actual for a in measured])
            table = ablation.measure(opened.probabilities, pixels, actual, changes)
        _save(ablation.plot(table, classes=len(classes)), new / "ablation.png")
        strip = ablation.examples(compared[0].photo, changes)
        tiles.contact_sheet(strip, side=170, columns=5).save(new / "perturbations.jpg", quality=88)
        with _timed("feature maps"):
            _save(feature_maps.plot(opened, compared[0].photo), new / "feature_maps.png")
        photos = _listed(chosen, test, classes)
        for name, rows in (("photos", photos), ("checks", checks), ("ablation", table)):
            rows.to_csv(new / f"{name}.csv", index=False)
        (new / "index.html").write_text(_page(new, photos, checks, table, opened, params), encoding="utf-8")
    return table


def answers(
    opened: Explainer, test: Path, classes: Sequence[str], *, number: int | None, seed: int
) -> list[ExplainedPhoto]:
    """Returns the model's answers to so many photos of a folder a class, or to all, in an order drawn with the seed."""
    paths, labels = samples.list_samples(test, classes)
    drawn = np.random.default_rng(seed).permutation(len(paths))[:number]
    paths, labels = [paths[place] for place in drawn], labels[drawn]
    data = samples.batches(paths, labels, classes=len(classes), image_size=opened.side, batch_size=BATCH)
    told = np.concatenate([opened.probabilities(pixels.numpy()) for pixels, _ in data])
    return [
        ExplainedPhoto(path, int(label), p, opened.side) for path, label, p in zip(paths, labels, told, strict=True)
    ]


def choose(told: Sequence[ExplainedPhoto], number: int) -> list[ExplainedPhoto]:
    """Returns so many of the answers, half of them wrong where there are so many, the right ones first."""
    right, wrong = ([answer for answer in told if answer.right is kind] for kind in (True, False))
    half = max(number - len(right), min(number // 2, len(wrong)))
    return right[: number - half] + wrong[:half]


def compare(
    opened: Explainer, compared: Sequence[ExplainedPhoto], classes: Sequence[str], params: ExplainParams, *, seed: int
) -> tuple[Image.Image, pd.DataFrame]:
    """Explains photos by all methods, as the model is and with its weights shuffled (Adebayo and others, 1810.03292).

    Returns:
        A sheet of the maps, and a row a photo: its `incompleteness`, and by method the rank correlation of the maps
        of the two models.
    """
    methods = attribution.methods(params, seed=seed)
    found: dict[tuple[str, int, bool], np.ndarray] = {}
    for name, method in methods.items():
        with _timed(f"{name} of {len(compared)} photos"):
            for number, answer in enumerate(compared):
                found[name, number, True] = method(opened, answer.photo.astype(np.float32), answer.target)
    with _timed("the same with shuffled weights"), opened.randomised(seed):
        for name, method in methods.items():
            for number, answer in enumerate(compared):
                found[name, number, False] = method(opened, answer.photo.astype(np.float32), answer.target)
    cells, rows = [], []
    for number, answer in enumerate(compared):
        name = classes[answer.target]
        caption = name if answer.right else f"{classes[answer.actual]}, taken for {name}"
        for trained in (True, False):
            cells.append((Image.fromarray(answer.photo), caption if trained else "the same, weights shuffled"))
            cells += [(overlays.overlay(answer.photo, found[method, number, trained]), method) for method in methods]
        incompleteness = attribution.completeness_error(
            opened, answer.photo.astype(np.float32), answer.target, found["integrated gradients", number, True],
            baseline=params.baseline, seed=seed,
        )  # fmt: skip
        correlations = {
            method: attribution.rank_correlation(found[method, number, True], found[method, number, False])
            for method in methods
        }
        rows.append({"photo": answer.path.name, "gem": name, "completeness_error": incompleteness} | correlations)
    return tiles.contact_sheet(cells, side=200, columns=1 + len(methods)), pd.DataFrame(rows).round(4)


def _gallery(opened: Explainer, answer: ExplainedPhoto, params: ExplainParams, *, seed: int) -> Image.Image:
    """Returns a photo and its maps by the quick methods, side by side."""
    methods, pixels = attribution.methods(params, seed=seed), answer.photo.astype(np.float32)
    maps = [overlays.overlay(answer.photo, methods[name](opened, pixels, answer.target)) for name in GALLERY]
    return Image.fromarray(np.concatenate([answer.photo, *map(np.asarray, maps)], axis=1))


def _listed(chosen: Sequence[ExplainedPhoto], test: Path, classes: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "file": [answer.path.relative_to(test).as_posix() for answer in chosen],
            "actual": [classes[answer.actual] for answer in chosen],
            "predicted": [classes[answer.target] for answer in chosen],
            "right": [answer.right for answer in chosen],
            "probability": [float(answer.probabilities[answer.target]) for answer in chosen],
            "probability_of_actual": [float(answer.probabilities[answer.actual]) for answer in chosen],
        }
    ).round(4)


def _page(
    folder: Path,
    photos: pd.DataFrame,
    checks: pd.DataFrame,
    table: pd.DataFrame,
    opened: Explainer,
    params: ExplainParams,
) -> str:
    kinds = {".jpg": "jpeg", ".png": "png"}
    pictures = {
        path.relative_to(folder).with_suffix("").as_posix(): f"data:image/{kinds[path.suffix]};base64,"
        + base64.b64encode(path.read_bytes()).decode()
        for path in sorted(folder.rglob("*"))
        if path.suffix in kinds
    }
    rows = photos.to_dict("records")
    for number, row in enumerate(rows):
        row["picture"] = pictures[f"photos/{number:02d}"]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        pictures=pictures,
        groups=[("right", [row for row in rows if row["right"]]), ("wrong", [row for row in rows if not row["right"]])],
        checks=checks.to_dict("records"),
        methods=list(checks.columns[3:]),
        means=checks[checks.columns[3:]].mean().to_dict(),
        changes=table.to_dict("records"),
        has_colours=bool(opened.colours),
        params=params,
    )


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=90, metadata={"Software": None})


@contextmanager
def _timed(what: str) -> Iterator[None]:
    """Says how long a part took; a log is the place for it, an output is not."""
    start = time.perf_counter()
    yield
    print(f"explain: {what}: {time.perf_counter() - start:.1f} s", flush=True)
