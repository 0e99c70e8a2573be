"""The model card: the model, its scores and its limits, under Hugging Face's headings in their order.

After Mitchell and others, "Model Cards for Model Reporting", arXiv 1810.03993.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from gemmodel.core import files, hashing
from gemmodel.core.params import BACKBONE_FILES, Params, read, split_side
from gemmodel.figures import html
from gemmodel.report import index_page

TEMPLATE = Path(__file__).with_suffix(".md")
NAMES = ("gem", "most_often_taken_for")
WORST = 10  # gems
NUMBERS = {"photos": int, "accuracy": float, "low": float, "high": float}  # columns of classes.csv


def write(reports: index_page.Reports, model: Path, settings: Params, hashes: Mapping[str, str | None]) -> None:
    """Writes the model card from the other reports.

    Args:
        reports: `card` is the Markdown file; `clean`, `split`, `metrics` and `evaluation` are read.
        model: the model folder.
        settings: all parameters.
        hashes: DVC's hashes of the data, by path.

    Raises:
        DataError: a report is missing.
    """
    clean, split, metrics = (files.read_json(path) for path in (reports.clean, reports.split, reports.metrics))
    by_class = files.read_table(reports.evaluation / "classes.csv", numbers=NUMBERS)
    worst = by_class[by_class["accuracy"] < 1].sort_values(["accuracy", "gem"]).head(WORST)
    html.write(
        reports.card,
        TEMPLATE,
        name=settings.register.name,
        architecture=settings.model.name,
        backbones=_backbones(settings),
        side=settings.base.image_size,
        sources=settings.crawl.source,
        crop=settings.clean.crop,
        classes=files.read_json(model / "classes.json"),
        sha256=hashing.sha256(model / "model.keras"),
        flags_unknown=(model / "thresholds.json").is_file(),
        clean=clean,
        split=split,
        split_seed=settings.split.seed,
        scores=index_page.rows(metrics),
        hashes={name: value for name, value in hashes.items() if value},
        worst=[row | {name: _markdown(row[name]) for name in NAMES} for row in worst.to_dict("records")],
        fewest=int(by_class["photos"].min()),
    )


def _markdown(text: str) -> str:
    """Returns a name, escaped so that it cannot act as Markdown, HTML or a formula."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", text)


def _backbones(settings: Params) -> list[dict[str, str]]:
    """Returns the pretrained backbones, of files with hash and licence; none for a model trained from scratch."""
    if settings.model.name == "fusion":
        return [_in_words(name, settings.embed.weights) for name in settings.embed.backbone]
    if settings.model.name == "transfer":
        return [_in_words(settings.model.transfer.backbone, settings.model.transfer.weights)]
    return []


def _in_words(name: str, weights: str) -> dict[str, str]:
    path = Path(split_side(name)[0])
    if path.suffix in BACKBONE_FILES:
        description = read(path.with_suffix(".yaml"))
        return {"name": name, "sha256": hashing.sha256(path), "licence": _markdown(str(description["licence"]))}
    return {"name": name, "weights": "ImageNet" if weights == "imagenet" else "other"}
