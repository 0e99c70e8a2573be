"""Train: a classifier, logged to MLflow epoch by epoch."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from gemmodel import devices
from gemmodel.core import files, hashing, image_folder, params
from gemmodel.core.dask_client import dask_client
from gemmodel.embed import feature_set
from gemmodel.models import conformal, held_out, saving
from gemmodel.models.metadata import ModelMetadata, TrainingPhotos
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
    logged |= {"crawl": {"source": settings.crawl.source}, "clean": {"crop": settings.clean.crop}}
    logged |= {"model": asdict(getattr(settings.model, name))}
    datasets = {part: split / part for part in ("train", "val")}
    mineral_classes = files.read_json(hierarchy)
    extractors = feature_set.extractors(features, len(settings.embed.backbone)) if name == "fusion" else []
    train_photos, val_photos = (image_folder.list_images(folder) for folder in datasets.values())
    title = f"{name}, {len(train_photos)} gems, {sum(map(len, train_photos.values()))} photos"
    run = runs.training_run(title, logged | {"model_name": name}, datasets, device=device)
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
        thresholds = conformal.fit_thresholds(result.held_out, train)
        photos = {gem: len(train_photos.get(gem, [])) + len(val_photos.get(gem, [])) for gem in result.classes}
        metadata = ModelMetadata(
            result.classes, mineral_classes, thresholds, result.held_out.reference,
            held_out.summarise(result.held_out, result.classes, thresholds),
            TrainingPhotos(list(settings.crawl.source), photos),
        )  # fmt: skip
        with ThreadPoolExecutor(1) as pool:  # these fits take as long as the export
            by_penalty = pool.submit(result.penalty_curves) if result.penalty_curves else None
            saving.save(
                result.model, result.classes, out, crop=settings.clean.crop, metadata=metadata, extractors=extractors
            )
        best = fit.summary(result.history, result.selection_metric, result.kept)
        files.write_json(report, {name: best[name] for name in fit.HEADLINE})
        picture = learning_curves.write(
            curves, result.history, int(best["best_epoch"]), by_penalty.result() if by_penalty else None
        )
        log.finish(hashing.sha256(out / "model.keras"), runs.MODEL_TAG, best, picture)
    print(f"train: validation accuracy {best['best_val_accuracy']:.4f} at epoch {best['best_epoch']}")


if __name__ == "__main__":
    command(main)
