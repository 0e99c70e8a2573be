"""Train: a classifier, logged to MLflow epoch by epoch."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from gemmodel import devices
from gemmodel.core import files, hashing, params
from gemmodel.core.dask_client import dask_client
from gemmodel.models import conformal, saving
from gemmodel.models.metadata import ModelMetadata
from gemmodel.tracking import runs, store
from gemmodel.train import curves as learning_curves
from gemmodel.train import distribution, fit
from gemmodel.train.context import TrainingContext
from gemmodel.train.train import train_model
from stages import command


def main(
    split: Path, augmented: Path, features: Path, hierarchy: Path, out: Path, curves: Path, report: Path,
    backup: Path = Path(".train-backup"), params_file: Path = Path("params.yaml"),
) -> None:  # fmt: skip
    """Train the classifier that model.name names, keep its best epoch, and log the run."""
    settings = params.load(params_file)
    train, name = settings.train, settings.model.name
    device = devices.prepare(settings.base, device=train.device)
    strategy = distribution.make_strategy(train.strategy, model=name)
    device += distribution.describe(strategy)
    print(f"train: {name} on {device}", flush=True)
    logged = {section: asdict(getattr(settings, section)) for section in ("base", "split", "augment", "embed", "train")}
    logged |= {"clean": {"crop": settings.clean.crop}, "model": asdict(getattr(settings.model, name))}
    datasets = {part: split / part for part in ("train", "val")}
    run = runs.training_run(name, logged | {"model_name": name}, datasets, device=device)
    mineral_classes = files.read_json(hierarchy)
    # Only fusion shares its work with Dask's workers; networks have their own means (docs/gpus.md).
    with dask_client() if name == "fusion" else nullcontext() as client, distribution.chief_run(strategy, run) as log:
        result = train_model(
            TrainingContext(
                settings, split, augmented, features, mineral_classes,
                checkpoints=backup, logs=store.project_root() / "logs",
                on_epoch=log.log_epoch if log else None, strategy=strategy, client=client,
            )
        )  # fmt: skip
        if log is None:  # this worker is not the chief
            return
        held_out = result.held_out
        metadata = ModelMetadata(
            result.classes, mineral_classes, conformal.fit_thresholds(held_out, train), held_out.reference
        )
        saving.save(result.model, result.classes, out, crop=settings.clean.crop, metadata=metadata)
        best = fit.summary(result.history, result.selection_metric)
        files.write_json(report, best)
        figure = learning_curves.write(curves, result.history, int(best["best_epoch"]))
        log.finish(hashing.sha256(out / "model.keras"), runs.MODEL_TAG, best, figure)
    print(f"train: validation accuracy {best['best_val_accuracy']:.4f} at epoch {best['best_epoch']}")


if __name__ == "__main__":
    command(main)
