"""Train: a classifier, logged to MLflow as it learns."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemmodel import devices
from gemmodel.core import files, hashing, params
from gemmodel.models import conformal, saving
from gemmodel.models.metadata import ModelMetadata
from gemmodel.tracking import runs
from gemmodel.train import distribution, fit
from gemmodel.train.curves import learning_curves
from gemmodel.train.train import train_model
from stages import command


def main(
    split: Path, augmented: Path, features: Path, hierarchy: Path, out: Path, curves: Path, report: Path,
    backup: Path = Path(".train-backup"), params_file: Path = Path("params.yaml"),
) -> None:  # fmt: skip
    """Fit the classifier that model.name names, keep its best epoch, and log the run."""
    settings = params.load(params_file)
    base, model, train, embed, augment = settings.base, settings.model, settings.train, settings.embed, settings.augment
    device = devices.prepare(base, device=train.device)
    spread = distribution.make_strategy(train.strategy, of=model.name)
    device += distribution.describe(spread)
    print(f"train: {model.name} on {device}", flush=True)
    logged: dict[str, Any] = {
        name: asdict(getattr(settings, name)) for name in ("base", "train", "embed", "split", "augment")
    }
    logged |= {"model": asdict(getattr(model, model.name)), "model_name": model.name}
    datasets, of_gems = {"train": split / "train", "val": split / "val"}, files.read_json(hierarchy)
    with distribution.chief_run(spread, runs.training_run(model.name, logged, datasets, device=device)) as log:
        fitted = train_model(
            model, train, augment, embed,
            base=base, split=split, augmented=augmented, features=features, hierarchy=of_gems,
            backup=backup, logs=runs.project_root() / "logs", spread=spread,
            on_epoch=log.log_epoch if log else lambda *_: None,
        )  # fmt: skip
        if log is None:  # not the chief
            return
        network, classes, history, evidence, chosen_by = fitted
        known = ModelMetadata(classes, of_gems, conformal.fit_thresholds(evidence, train), evidence.reference)
        saving.save(network, classes, out, crop=settings.clean.crop, knowledge=known)
        best = fit.summary(history, chosen_by)
        files.write_json(report, best)
        with files.atomic_write(curves) as new, new.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *history])
            writer.writerows([epoch, *values] for epoch, values in enumerate(zip(*history.values(), strict=True)))
        figure = learning_curves(history, int(best["best_epoch"]))
        figure.savefig(curves.with_suffix(".png"), dpi=110, metadata={"Software": None})
        log.finish(hashing.sha256(out / "model.keras"), runs.MODEL_TAG, best, figure)
    print(f"train: validation accuracy {best['best_val_accuracy']:.4f} at epoch {best['best_epoch']}")


if __name__ == "__main__":
    command(main)
