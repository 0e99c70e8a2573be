"""Train: a classifier, logged to MLflow as it learns."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemmodel import devices, params
from gemmodel.data import folders
from gemmodel.delivery import tracking
from gemmodel.insight import plots
from gemmodel.models import architectures, archive, confidence, distribution, training
from gemmodel.models.knowledge import Knowledge
from stages import command


def main(
    split: Path, augmented: Path, features: Path, hierarchy: Path, out: Path, curves: Path, report: Path,
    backup: Path = Path(".train-backup"), params_file: Path = Path("params.yaml"),
) -> None:  # fmt: skip
    """Fit the classifier that model.name names, keep its best epoch, and log the run."""
    settings = params.load(params_file)
    base, model, train, embed, augment = settings.base, settings.model, settings.train, settings.embed, settings.augment
    device = devices.prepare(base, device=train.device)
    spread = distribution.strategy(train.strategy, of=model.name)
    device += distribution.describe(spread)
    print(f"train: {model.name} on {device}", flush=True)
    logged: dict[str, Any] = {
        name: asdict(getattr(settings, name)) for name in ("base", "train", "embed", "split", "augment")
    }
    logged |= {"model": asdict(getattr(model, model.name)), "model_name": model.name}
    datasets, of_gems = {"train": split / "train", "val": split / "val"}, folders.read_json(hierarchy)
    with distribution.together(spread, tracking.training(model.name, logged, datasets, device=device)) as log:
        fitted = architectures.train(
            model, train, augment, embed,
            base=base, split=split, augmented=augmented, features=features, hierarchy=of_gems,
            backup=backup, logs=tracking.root() / "logs", spread=spread,
            on_epoch=log.log_epoch if log else lambda *_: None,
        )  # fmt: skip
        if log is None:  # not the chief
            return
        network, classes, history, evidence, chosen_by = fitted
        known = Knowledge(classes, of_gems, confidence.calibrate(evidence, train), evidence.reference)
        archive.save(network, classes, out, crop=settings.clean.crop, knowledge=known)
        best = training.summary(history, chosen_by)
        folders.write_json(report, best)
        with folders.replacing(curves) as new, new.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *history])
            writer.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values(), strict=True)))
        figure = plots.learning_curves(history, int(best["best_epoch"]))
        figure.savefig(curves.with_suffix(".png"), dpi=110, metadata={"Software": None})
        log.finish(folders.sha256(out / "model.keras"), tracking.MODEL_TAG, best, figure)
    print(f"train: validation accuracy {best['best_val_accuracy']:.4f} at epoch {best['best_epoch']}")


if __name__ == "__main__":
    command(main)
