"""The data report: how much data there is, what it looks like, and which files were rejected and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from matplotlib.figure import Figure

from gemmodel.core import files, image_folder
from gemmodel.core.errors import DataError
from gemmodel.describe import plots
from gemmodel.figures import html, mean_colour, tiles
from gemmodel.figures.plots import save
from gemmodel.figures.tiles import Gallery
from gemmodel.images import decode

CONFLICT = "under several gems"  # a reason begins so
THUMBNAIL = 112  # pixels
CROP_SIDE = 256  # pixels of a panel that shows the crop
MAX_SAMPLES = 160  # gems of which a photo is shown
MAX_GROUPS = 1000  # groups of rejected files that are shown
MAX_FOLDERS = 500  # lines of the tree of folders
TEMPLATE = Path(__file__).with_suffix(".html")


class PhotoSummary(NamedTuple):
    """A photo's width and height in pixels, its gem, and its mean colour, float32 of shape (3,) in [0, 1]."""

    size: tuple[int, int]
    gem: str
    colour: np.ndarray


def write(
    raw: Path,
    clean: Path,
    parts: Mapping[str, Path],
    augmented: Path,
    *,
    page: Path,
    pictures: Path,
) -> None:
    """Writes the report and its pictures.

    Args:
        raw: the raw folder.
        clean: the clean folder, with its manifest of all raw files.
        parts: folders of train, val and test, by name.
        augmented: the examples that `augment.write_examples` wrote.
        page: the output, an HTML page that needs no other file and no network.
        pictures: the output, a folder of the page's pictures, `.png` and `.jpg`, and of the samples one by one,
            `samples.json`.

    Raises:
        DataError: a folder or the manifest is missing.
    """
    rows = files.read_jsonl(clean / "manifest.jsonl")
    kept = [row for row in rows if "path" in row]
    rejected = [row for row in rows if "reason" in row]
    photos = {part: image_folder.list_images(folder) for part, folder in parts.items()}
    counts: dict[str, Mapping[str, int]] = {
        part: {gem: len(paths) for gem, paths in by_gem.items()} for part, by_gem in photos.items()
    }
    counts["rejected"] = Counter(row["gem"] for row in rejected)
    summaries = _summarise([path for paths in image_folder.list_images(clean).values() for path in paths])
    train = photos["train"]
    example = tiles.thumbnail(next(iter(train.values()))[0], 800)
    figures: dict[str, Figure] = {
        "counts": plots.counts_by_gem(counts),
        "sizes": plots.sizes([summary.size for summary in summaries]),
    }
    galleries = {
        "samples": _samples(train),
        "augmentation": _augmentation(augmented),
        "crop_canny": Gallery(plots.crop_panels(example, "canny"), columns=4, side=CROP_SIDE),
        "crop_otsu": Gallery(plots.crop_panels(example, "otsu"), columns=4, side=CROP_SIDE),
    }
    shown = {name: html.tile_values(gallery.tiles) for name, gallery in galleries.items()}
    colours = mean_colour.by_gem([summary.gem for summary in summaries], [summary.colour for summary in summaries])
    with files.atomic_write(pictures) as new:
        new.mkdir()
        for name, figure in figures.items():
            save(figure, new / f"{name}.png", dpi=110)
        for name, gallery in galleries.items():
            gallery.picture().save(new / f"{name}.jpg", quality=88)
        files.write_json(new / "samples.json", {"samples": html.tile_groups(galleries["samples"].tiles, 0)})
    conflicts = [row for row in rejected if row["reason"].startswith(CONFLICT)]
    tree = image_folder.tree(next(iter(parts.values())).parent)
    html.write(
        page,
        TEMPLATE,
        pictures={"sizes": html.data_url(pictures / "sizes.png")},
        galleries=shown,
        note=galleries["samples"].note,
        bars=plots.bars(counts),
        part_colours=plots.PART_COLOURS,
        patches=[(gem, mean_colour.to_hex(colours[gem])) for gem in plots.sorted_by_hue(colours)],
        totals={part: sum(by_gem.values()) for part, by_gem in counts.items()},
        files=len(rows),
        gems=len({row["gem"] for row in kept}),
        conversions=Counter(conversion for row in kept for conversion in row["conversions"]).most_common(),
        reasons=Counter(row["reason"].split(":")[0] for row in rejected).most_common(),
        conflicts=_groups(raw, conflicts),
        rejected=_groups(raw, [row for row in rejected if not row["reason"].startswith(CONFLICT)]),
        tree=tree[:MAX_FOLDERS],
        more_folders=max(0, len(tree) - MAX_FOLDERS),
    )


def _samples(train: Mapping[str, Sequence[Path]]) -> Gallery:
    """Returns one photo of each gem; of many gems, of evenly spaced ones in alphabetical order."""
    gems = list(train)
    shown = [gems[i] for i in np.linspace(0, len(gems) - 1, min(len(gems), MAX_SAMPLES)).astype(int)]
    note = f"{len(shown)} of {len(gems)} gems" if len(shown) < len(gems) else ""
    return Gallery([(tiles.thumbnail(train[gem][0]), gem) for gem in shown], note=note)


def _groups(raw: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[list[list[tuple[str, str, str | None]]], int]:
    """Returns the first groups of rejected files and their duplicates, and the number of all groups.

    Each file has its raw path, status and thumbnail; the thumbnail is None where the file is not an image.
    """
    reasons = {row["source"]: row["reason"] for row in rows}
    groups = list(dict.fromkeys(tuple(sorted([row["source"], *row["duplicates"]])) for row in rows))
    shown = [
        [(source, reasons.get(source, "kept"), _thumbnail(raw / source)) for source in group]
        for group in groups[:MAX_GROUPS]
    ]
    return shown, len(groups)


def _thumbnail(path: Path) -> str | None:
    try:
        image = decode.read(path)
    except DataError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return html.data_url(image)


def _summarise(paths: Sequence[Path]) -> list[PhotoSummary]:
    """Returns the photos' summaries."""

    def summarise(path: Path) -> PhotoSummary:
        header, small = decode.header(path), tiles.thumbnail(path, mean_colour.SIDE)
        return PhotoSummary((header.width, header.height), path.parent.name, mean_colour.of_photo(small))

    return list(Parallel(n_jobs=-1, prefer="threads")(delayed(summarise)(path) for path in paths))


def _augmentation(augmented: Path) -> Gallery:
    """Returns one photo of each of some gems, in a row with augmented copies as used in training."""
    return Gallery(
        [
            (decode.read(path), "augmented" if column else gem)
            for gem, row in image_folder.list_images(augmented).items()
            for column, path in enumerate(row)
        ]
    )
