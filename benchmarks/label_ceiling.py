"""How many errors are photos whose label is wrong or ambiguous, and what accuracy the labels allow.

python benchmarks/label_ceiling.py [--data data] [--sheets FOLDER] [--page docs/experiments/label-ceiling.md]

Run it after `dvc repro embed` on real photos. Predictions are out-of-fold, on the training and validation parts; the
test part is not read. It prints estimates that need nobody to look: label issues of confident learning, pairs of names
that overlap by definition, nearest photos.

`--sheets` draws 100 errors and as a control 40 right predictions, and writes contact sheets for a person. Each photo is
beside the three nearest photos of two gems, A and B in random order: the label, and the prediction or for a control the
second most probable gem. So the person does not know which is which, nor which photo is an error. key.csv has the
answers. A photo may also be on another sheet as a near one.

`--page` reads the verdicts from the page's table of errors and prints what accuracy they leave, with intervals.

On the 2,426 photos of the training and validation parts of 87 real gems it takes two minutes of a core.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
from cleanlab.count import num_label_issues
from cleanlab.dataset import find_overlapping_classes
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import binomtest
from sklearn.preprocessing import StandardScaler, normalize

from gemmodel.core import files, params
from gemmodel.embed import feature_set
from gemmodel.embed.feature_set import FeatureSet
from gemmodel.evaluate import label_issues
from gemmodel.figures import tiles

SEED, ERRORS, CONTROLS = 22, 100, 40
NEAREST, COLUMNS, ROWS = 3, 2, 3  # photos of each gem beside a photo; cases on a sheet
LARGE, SMALL, LINE = 320, 148, 18  # pixels
VERDICTS = ("label wrong", "ambiguous", "unfit", "indistinguishable", "model's error")
OVERLAPS: dict[str, tuple[str, ...]] = {  # one name includes the other, both are one material, or one series of colours
    "Almandine": ("Pyrope", "Rhodolite"),
    "Ametrine": ("Amethyst", "Citrine"),
    "Carnelian": ("Jasper", "Onyx Red"),
    "Chalcedony": ("Blue Lace Agate", "Carnelian", "Chalcedony Blue", "Chrysoprase", "Onyx Green", "Onyx Red"),
    "Chalcedony Blue": ("Blue Lace Agate", "Chrysocolla"),
    "Chrysoberyl": ("Alexandrite", "Cats Eye"),
    "Chrysoprase": ("Onyx Green",),
    "Citrine": ("Quartz Beer", "Quartz Lemon"),
    "Garnet Red": ("Almandine", "Pyrope", "Rhodolite"),
    "Goshenite": ("Aquamarine", "Beryl Golden", "Morganite"),
    "Grossular": ("Hessonite", "Tsavorite"),
    "Jasper": ("Bloodstone",),
    "Moonstone": ("Labradorite",),
    "Pyrope": ("Rhodolite",),
    "Quartz Beer": ("Quartz Lemon", "Quartz Smoky"),
    "Sapphire Pink": ("Ruby", "Sapphire Purple"),
    "Sapphire Purple": ("Sapphire Blue",),
    "Spodumene": ("Hiddenite", "Kunzite"),
    "Zoisite": ("Tanzanite",),
}


def nearest_photos(photos: FeatureSet) -> np.ndarray:
    """Returns the similarity of each two photos, float32 (photos, photos): the mean cosine of their blocks."""
    blocks = [
        normalize(StandardScaler().fit_transform(photos.block(name)).clip(-5, 5)).astype(np.float32)
        for name in photos.blocks
    ]
    similarity = np.mean([block @ block.T for block in blocks], axis=0)
    np.fill_diagonal(similarity, -1)
    return similarity


def draw_sheets(table: pd.DataFrame, similarity: np.ndarray, clean: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    font = ImageFont.load_default(14)
    width, height = LARGE + NEAREST * SMALL + 16, 2 * (SMALL + LINE) + 10
    gems = table["gem"].to_numpy()
    rng = np.random.default_rng(SEED)
    wrong = np.flatnonzero(table["predicted"] != gems)
    right = np.flatnonzero(table["predicted"] == gems)
    drawn = np.concatenate([rng.choice(wrong, ERRORS, replace=False), rng.choice(right, CONTROLS, replace=False)])
    key = table.iloc[rng.permutation(drawn)].copy()
    key["other"] = key["predicted"].where(key["predicted"] != key["gem"], key["second"])
    key["swapped"] = rng.random(len(key)) < 0.5
    key["A"], key["B"] = key["other"].where(key["swapped"], key["gem"]), key["gem"].where(key["swapped"], key["other"])
    key.insert(0, "number", range(1, len(key) + 1))
    key.to_csv(out / "key.csv", index_label="row")
    for first in range(0, len(key), COLUMNS * ROWS):
        sheet = Image.new("RGB", (COLUMNS * width, ROWS * height), "white")
        canvas = ImageDraw.Draw(sheet)
        for i, (row, case) in enumerate(key.iloc[first : first + COLUMNS * ROWS].iterrows()):
            x, y = i % COLUMNS * width, i // COLUMNS * height
            sheet.paste(tiles.thumbnail(clean / case["file"], LARGE - 4), (x, y + LINE))
            canvas.text((x + 2, y), f"{case['number']}", "black", font)
            for side, letter in enumerate("AB"):
                top = y + side * (SMALL + LINE)
                canvas.text((x + LARGE, top), f"{letter}: {case[letter]}", "black", font)
                same = np.flatnonzero(gems == case[letter])
                for j, near in enumerate(same[np.argsort(-similarity[row, same])][:NEAREST]):
                    photo = tiles.thumbnail(clean / table["file"].iloc[near], SMALL - 4)
                    sheet.paste(photo, (x + LARGE + j * SMALL, top + LINE))
        sheet.save(out / f"sheet_{first // (COLUMNS * ROWS) + 1:02}.jpg", quality=92)


def report(table: pd.DataFrame, probs: np.ndarray, labels: np.ndarray, similarity: np.ndarray, gems: list[str]) -> None:
    wrong = (table["predicted"] != table["gem"]).to_numpy()
    print(f"{len(table)} photos, {wrong.sum()} errors, out-of-fold accuracy {1 - wrong.mean():.4f}")
    issues = label_issues.find_issues(labels, probs)
    calibrated = num_label_issues(labels, probs, estimation_method="off_diagonal_calibrated")
    print(f"confident learning: {len(issues)} label issues, {wrong[issues].sum()} errors; calibrated {calibrated}")
    pairs = find_overlapping_classes(labels, probs, class_names=gems).head(15)
    for a, b, photos in pairs[["Class Name A", "Class Name B", "Num Overlapping Examples"]].itertuples(index=False):
        confused = (table["gem"].isin([a, b]) & table["predicted"].isin([a, b]) & wrong).sum()
        issued = table.iloc[issues]
        disputed = (issued["gem"].isin([a, b]) & issued["predicted"].isin([a, b])).sum()
        print(f"    {a} / {b}: {photos} estimated, {disputed} label issues, {confused} errors")
    overlap = np.array([b in OVERLAPS.get(a, ()) or a in OVERLAPS.get(b, ())
                        for a, b in zip(table["gem"], table["predicted"], strict=True)])  # fmt: skip
    print(f"overlapping names: {overlap.sum()} errors; accuracy without them {1 - (wrong & ~overlap).mean():.4f}")
    votes = labels[np.argsort(-similarity, axis=1)[:, :NEAREST]]
    against = (votes == votes[:, :1]).all(axis=1) & (votes[:, 0] != labels)
    agree = against & (votes[:, 0] == probs.argmax(axis=1))
    print(f"{NEAREST} nearest photos of one other gem: {against.sum()} photos, {agree.sum()} predicted as it")


def estimate(page: Path, errors: int, photos: int) -> None:
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in page.read_text().splitlines()
            if re.match(r"\| \d+ \|", line)]  # fmt: skip
    verdicts = pd.Series([row[6] for row in rows if len(row) == 8])
    unknown = set(verdicts) - set(VERDICTS)
    if unknown:
        raise SystemExit(f"{page}: no such verdict: {', '.join(sorted(unknown))}")
    rng = np.random.default_rng(SEED)
    print(f"{len(verdicts)} verdicts")
    for name, lost in (
        *((verdict, (verdict,)) for verdict in VERDICTS),
        ("label wrong or unfit", ("label wrong", "unfit")),
        ("all but model's error", VERDICTS[:-1]),
    ):
        count = int(verdicts.isin(lost).sum())
        low, high = binomtest(count, len(verdicts)).proportion_ci(method="wilson")
        # Parametric bootstrap of both samples: the photos of the set, and the errors that were drawn from it.
        rates = rng.binomial(photos, errors / photos, 10_000) / photos
        ceilings = 1 - rates * rng.binomial(len(verdicts), count / len(verdicts), 10_000) / len(verdicts)
        print(f"    {name}: {count}, Wilson {low:.2f} to {high:.2f}; accuracy if only these are errors "
              f"{1 - errors / photos * count / len(verdicts):.3f}, bootstrap {np.quantile(ceilings, 0.025):.3f} to "
              f"{np.quantile(ceilings, 0.975):.3f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="outputs of clean, split and embed")
    parser.add_argument("--sheets", type=Path, help="folder of the contact sheets")
    parser.add_argument("--page", type=Path, help="page with the verdicts")
    arguments = parser.parse_args()
    features = arguments.data / "features"
    photos = feature_set.read(features / "train").concat(feature_set.read(features / "val"))
    table = files.read_table(arguments.data / "split" / "folds.csv", numbers={"fold": int})
    head = params.load(Path("params.yaml")).model.fusion
    probs = label_issues.out_of_fold(head, photos, table["fold"].to_numpy())
    gems, order = np.array(photos.classes), np.argsort(-probs, axis=1)
    table["predicted"], table["second"] = gems[order[:, 0]], gems[order[:, 1]]
    table["label_prob"] = probs[np.arange(len(probs)), photos.labels].round(3)
    table["predicted_prob"] = probs.max(axis=1).round(3)
    similarity = nearest_photos(photos)
    report(table, probs, photos.labels, similarity, photos.classes)
    if arguments.sheets:
        draw_sheets(table, similarity, arguments.data / "clean", arguments.sheets)
    if arguments.page:
        estimate(arguments.page, int((table["predicted"] != table["gem"]).sum()), len(table))


if __name__ == "__main__":
    main()
