"""Evaluate: the scores on the test part, which nothing learns from, and labels that cross-validation disputes."""

from pathlib import Path

from gemmodel import devices, params
from gemmodel.data import folders
from gemmodel.delivery import tracking
from gemmodel.insight import certainty, disputes, evaluation, evaluation_report
from gemmodel.models import archive, knowledge
from stages import command


def main(
    model: Path, split: Path, features: Path, clean: Path, data: Path, out: Path, metrics: Path,
    params_file: Path = Path("params.yaml"),
) -> None:  # fmt: skip
    """Score a model on the test photos and log pictures and tables to the run that trained it."""
    settings = params.load(params_file)
    base, shown = settings.base, settings.evaluate
    devices.prepare(base)
    network, classes = archive.load(model)
    predictions = evaluation.predict(network, split / "test", classes)
    labels_and_sets = certainty.of_photos(predictions.actual, predictions.probabilities, knowledge.read(model))
    scores = evaluation.scores(
        predictions, top=shown.top, resamples=shown.resamples, seed=base.seed, also=labels_and_sets
    )
    examples = folders.photos(split / "train")
    with folders.replacing(out) as new:
        new.mkdir()
        tables = evaluation_report.write(new, predictions, split / "test", examples, shown, seed=base.seed)
        disputed = disputes.write(
            new / "disputes.html", features=features, folds=split / "folds.csv", clean=clean,
            params=settings.model.fusion, most=shown.disputes,
        )  # fmt: skip
        disputed.to_csv(new / "disputes.csv", index=False)
    folders.write_json(metrics, scores)
    with tracking.run_of(folders.sha256(model / "model.keras")):
        tracking.log_datasets({"test": split / "test"})
        tracking.log_metrics({f"test_{name}": value for name, value in scores.items() if name != "intervals"})
        tracking.log_table(tables["confusion"], "confusion_matrix.json")
        tracking.log_table(tables["classes"], "classes.json")
        tracking.log_files(metrics)
        tracking.log_files(*sorted(out.iterdir()), folder="evaluation")
        tracking.log_files(*sorted(data.iterdir()), folder="data")
    print(
        f"evaluate: accuracy {scores['accuracy']:.4f} on {scores['photos']} test photos; "
        f"{len(disputed)} names of other photos disputed, see {out / 'disputes.html'}"
    )


if __name__ == "__main__":
    command(main)
