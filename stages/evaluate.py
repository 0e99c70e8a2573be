"""Evaluate: the scores on the test part, which nothing else reads."""

from pathlib import Path

import pandas as pd

from gemmodel import devices, params
from gemmodel.data import folders
from gemmodel.delivery import tracking
from gemmodel.insight import certainty, evaluation, plots
from gemmodel.models import archive, knowledge
from stages import command


def main(
    model: Path, test: Path, data: Path, out: Path, metrics: Path, params_file: Path = Path("params.yaml")
) -> None:
    """Score a model on the test photos and log pictures and tables to the run that trained it."""
    settings = params.load(params_file)
    devices.prepare(settings.base)
    network, classes = archive.load(model)
    predictions = evaluation.predict(network, test, classes)
    scores = evaluation.scores(predictions, top=settings.evaluate.top)
    scores |= certainty.scores(predictions.actual, predictions.probabilities, knowledge.read(model))
    matrix = evaluation.confusion(predictions)
    heatmap = plots.confusion_heatmap(matrix, classes)
    by_class = pd.DataFrame(evaluation.by_class(predictions))
    with folders.replacing(out) as new:
        new.mkdir()
        heatmap.savefig(new / "confusion.png", dpi=120, metadata={"Software": None})
        by_class.to_csv(new / "classes.csv", index=False)
        evaluation.table(predictions).to_csv(new / "predictions.csv", index=False)
    folders.write_json(metrics, scores)
    with tracking.run_of(folders.sha256(model / "model.keras")):
        tracking.log_datasets({"test": test})
        tracking.log_metrics({f"test_{name}": value for name, value in scores.items()})
        tracking.log_table(
            pd.DataFrame(matrix, columns=classes, index=pd.Index(classes, name="actual")).reset_index(),
            "confusion_matrix.json",
        )
        tracking.log_table(by_class, "classes.json")
        tracking.log_files(*sorted(out.iterdir()))
        tracking.log_files(*sorted(data.iterdir()), folder="data")
    print(f"evaluate: accuracy {scores['accuracy']:.4f} on {scores['photos']} test photos")


if __name__ == "__main__":
    command(main)
