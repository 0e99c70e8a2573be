"""The data as one page: how much there is, what it looks like, and what was set aside and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from PIL import Image

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError
from gemmodel.core.params import Params
from gemmodel.describe import plots
from gemmodel.figures import html, tiles
from gemmodel.images import augment, decode

THUMBNAIL = 112  # pixels
TEMPLATE = Path(__file__).with_suffix(".html")


def write(raw: Path, clean: Path, parts: Mapping[str, Path], settings: Params, *, page: Path, pictures: Path) -> None:
    """Writes the report and its pictures.

    Args:
        raw: the raw folder.
        clean: the clean folder, with its manifest of every raw file's fate.
        parts: folders of train, val and test, by name.
        settings: those of augmentation are shown at work.
        page: becomes a page of HTML that needs no other file and no network.
        pictures: becomes a folder of the page's pictures, `.png` and `.jpg`.

    Raises:
        DataError: something of the data is missing.
    """
    rows = files.read_jsonl(clean / "manifest.jsonl")
    aside = [row for row in rows if "reason" in row]
    found = {name: image_folder.list_images(folder) for name, folder in parts.items()}
    counts: dict[str, Mapping[str, int]] = {
        name: {gem: len(paths) for gem, paths in gems.items()} for name, gems in found.items()
    }
    counts["rejected"] = Counter(row["gem"] for row in aside)
    looked = _look([path for gem in image_folder.list_images(clean).values() for path in gem])
    train = found["train"]
    example = tiles.thumbnail(next(iter(train.values()))[0], 800)
    figures: dict[str, Figure | Image.Image] = {
        "counts": plots.counts_by_gem(counts),
        "samples": tiles.contact_sheet([(tiles.thumbnail(paths[0]), gem) for gem, paths in train.items()], columns=8),
        "augmentation": _augmentation(train, settings),
        "crop_canny": plots.crop_panels(example, "canny"),
        "crop_otsu": plots.crop_panels(example, "otsu"),
        "sizes": plots.sizes([shape for shape, _, _ in looked]),
        "mean_colours": plots.mean_colours(_mean_by_gem(looked)),
    }
    with files.atomic_write(pictures) as new:
        new.mkdir()
        for name, figure in figures.items():
            if isinstance(figure, Figure):
                figure.savefig(new / f"{name}.png", dpi=110, metadata={"Software": None})
            else:
                figure.save(new / f"{name}.jpg", quality=88)
    saved = {path.stem: html.data_url(path) for path in sorted(pictures.iterdir())}
    conflicts = [row for row in aside if row["reason"].startswith("stands under")]
    html.write(
        page,
        TEMPLATE,
        pictures=saved,
        totals={part: sum(of_gem.values()) for part, of_gem in counts.items()},
        files=len(rows),
        gems=len({row["gem"] for row in rows if "path" in row}),
        treated=Counter(what for row in rows if "path" in row for what in row.get("conversions", ())).most_common(),
        reasons=Counter(row["reason"].split(":")[0] for row in aside).most_common(),
        conflicts=_groups(raw, conflicts),
        groups=_groups(raw, [row for row in aside if row not in conflicts]),
        tree=image_folder.tree(next(iter(parts.values())).parent),
    )


def _groups(raw: Path, rows: Sequence[Mapping[str, Any]]) -> list[list[tuple[str, str, str | None]]]:
    """Returns each set-aside file, and in the same group its twins: name, fate and thumbnail of each."""
    reasons = {row["source"]: row["reason"] for row in rows}
    groups = dict.fromkeys(tuple(sorted([row["source"], *row.get("duplicates", ())])) for row in rows)
    return [[(name, reasons.get(name, "kept"), _thumbnail(raw / name)) for name in group] for group in groups]


def _thumbnail(path: Path) -> str | None:
    try:
        picture = decode.read(path)
    except DataError:
        return None
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return html.data_url(picture)


def _look(paths: Sequence[Path]) -> list[tuple[tuple[int, int], str, np.ndarray]]:
    """Returns each photo's size, gem, and the mean colour of its middle in [0, 1], grey parts counting little."""

    def look(path: Path) -> tuple[tuple[int, int], str, np.ndarray]:
        with Image.open(path) as picture:
            size = picture.size
        small = np.asarray(tiles.thumbnail(path, 64), np.float32) / 255
        height, width = small.shape[:2]
        middle = small[height // 4 : height - height // 4, width // 4 : width - width // 4].reshape(-1, 3)
        chroma = np.ptp(middle, axis=1) + 0.02  # what is grey in the middle of a coloured stone is a reflection
        return size, path.parent.name, np.average(middle, axis=0, weights=chroma)

    return list(Parallel(n_jobs=-1, prefer="threads")(delayed(look)(path) for path in paths))


def _mean_by_gem(
    looked: Sequence[tuple[tuple[int, int], str, np.ndarray]],
) -> dict[str, tuple[float, float, float]]:
    gems = sorted({gem for _, gem, _ in looked})
    means = {gem: np.mean([colour for _, of, colour in looked if of == gem], axis=0) for gem in gems}
    return {gem: (float(mean[0]), float(mean[1]), float(mean[2])) for gem, mean in means.items()}


def _augmentation(train: Mapping[str, Sequence[Path]], settings: Params) -> Image.Image:
    """Returns a photo of each of a few gems, in a row with augmented copies as training sees them."""
    base, gems = settings.base, list(train)[:: max(1, len(train) // 5)][:5]
    photos = [train[gem][0] for gem in gems]
    rows = augment.examples(photos, 7, settings.augment, image_size=base.image_size, seed=base.seed)
    cells = [
        (picture, "augmented" if place else gem)
        for gem, row in zip(gems, rows, strict=True)
        for place, picture in enumerate(row)
    ]
    return tiles.contact_sheet(cells, columns=8)
