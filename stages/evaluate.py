"""Evaluate: scores on the test part, and label issues of the other parts by cross-validation."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from threadpoolctl import threadpool_limits

from gemmodel.core import files, hashing, image_folder, params
from gemmodel.embed.litert import Graph
from gemmodel.evaluate import label_issues, report, set_metrics
from gemmodel.evaluate.metrics import compute_scores, headline, in_words, predict
from gemmodel.models import conformal, metadata
from gemmodel.tracking import runs
from stages import command


def main(
    model: Path, split: Path, features: Path, clean: Path, out: Path, metrics: Path,
    params_file: Path = Path("params.yaml"),
) -> None:  # fmt: skip
    """Score a model on the test photos and log tables and pictures to the run that trained it."""
    settings = params.load(params_file)
    evaluate, seed = settings.evaluate, settings.base.seed
    described = metadata.read(model)
    predictions = predict(Graph(model / metadata.EXPORT), split / "test", described.classes)
    set_values = set_metrics.per_photo(predictions.actual, predictions.probabilities, described)
    sets = conformal.prediction_sets(predictions.probabilities, described.thresholds)
    scores = compute_scores(
        predictions, top=evaluate.top, bootstrap_samples=evaluate.bootstrap_samples, seed=seed, extra=set_values
    )
    examples = image_folder.list_images(split / "train")
    with files.atomic_write(out) as new:
        new.mkdir()
        with threadpool_limits(1), ThreadPoolExecutor(1) as pool:  # threads of BLAS change the rounding
            report_tables = pool.submit(report.write, new, predictions, split / "test", examples, evaluate, seed=seed)
            issues = label_issues.write(  # in this thread, which Ctrl+C interrupts: it takes longer
                new / "label_issues.html", features=features, folds=split / "folds.csv", clean=clean,
                params=settings.model.fusion, max_shown=evaluate.label_issues,
            )  # fmt: skip
        tables = report_tables.result()
        issues.to_csv(new / "label_issues.csv", index=False)
        coverage = set_metrics.stratified(predictions.actual, predictions.probabilities, sets)
        coverage.to_csv(new / "prediction_sets.csv", index=False)
        files.write_json(new / "scores.json", scores)
    files.write_json(metrics, headline(scores))
    with runs.model_run(hashing.sha256(model / "model.keras")):
        runs.log_datasets({"test": split / "test"})
        runs.log_metrics({f"test/{name}": value for name, value in scores.items() if name != "intervals"})
        runs.log_table(tables["confusion_summary"], "confusion_matrix.json")
        runs.log_table(tables["classes"], "classes.json")
        runs.log_table(report.for_review(tables["predictions"]), "predictions.json")
        data = f"{len(described.classes)} gems, {sum(map(len, examples.values()))} photos"
        runs.describe_run(f"{settings.model.name} {scores['accuracy']:.3f}, {data}", in_words(scores, data))
        runs.log_files(metrics)
        runs.log_files(*sorted(out.iterdir()), folder="evaluation")
    print(
        f"evaluate: accuracy {scores['accuracy']:.4f} on {scores['photos']} test photos; "
        f"{len(issues)} label issues in the other parts, see {out / 'label_issues.html'}"
    )


if __name__ == "__main__":
    command(main)
