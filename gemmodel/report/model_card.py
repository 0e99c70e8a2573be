"""The model card: what the model is, how good, and what it must not be used for, in Hugging Face's order of headings.

After Mitchell and others, "Model Cards for Model Reporting", arXiv 1810.03993.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from gemmodel.core import files, hashing
from gemmodel.core.params import Params
from gemmodel.report import index_page

TEMPLATE = Path(__file__).with_suffix(".md")
WORST = 10  # gems


def write(card: Path, model: Path, settings: Params, hashes: Mapping[str, str | None]) -> None:
    """Writes the card from what the reports beside it tell.

    Args:
        card: becomes a file of Markdown, in the folder of reports.
        model: the model's folder.
        settings: all parameters.
        hashes: DVC's, by what they are of.

    Raises:
        DataError: a report is missing.
    """
    reports = card.parent
    clean, split, metrics = (files.read_json(reports / f"{name}.json") for name in ("clean", "split", "metrics"))
    by_class = pd.read_csv(reports / "evaluation" / "classes.csv", keep_default_na=False)
    wrong = by_class[by_class["accuracy"] < 1].sort_values(["accuracy", "gem"]).head(WORST)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=settings.register.name,
        architecture=settings.model.name,
        backbone=_backbone(settings),
        side=settings.base.image_size,
        sources=settings.crawl.source,
        crop=settings.clean.crop,
        classes=files.read_json(model / "classes.json"),
        sha256=hashing.sha256(model / "model.keras"),
        flags=(model / "confidence.json").is_file(),
        clean=clean,
        split=split,
        split_seed=settings.split.seed,
        scores=index_page.rows(metrics),
        hashes={name: value for name, value in hashes.items() if value},
        worst=wrong.to_dict("records"),
        fewest=int(by_class["photos"].min()),
    )
    files.write_text(card, text)


def _backbone(settings: Params) -> Any:
    """Returns the section that names the pretrained backbone, or None where all was learnt from scratch."""
    return {"fusion": settings.embed, "transfer": settings.model.transfer}.get(settings.model.name)
