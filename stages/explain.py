"""Explain: the parts of a photo that support a prediction, and the cues that the model uses."""

from pathlib import Path
from typing import Any

from gemmodel.core import hashing, params
from gemmodel.embed.litert import Graph
from gemmodel.explain import report
from gemmodel.models import metadata
from gemmodel.tracking import runs
from stages import command


def main(model: Path, test: Path, out: Path, params_file: Path = Path("params.yaml")) -> None:
    """Explain a model's predictions of test photos and log the page to the run that trained it."""
    settings = params.load(params_file)

    def load() -> Any:
        from gemmodel import devices  # Keras starts beside the first predictions
        from gemmodel.models import saving

        devices.prepare(settings.base)
        return saving.load(model)[0]

    hashing.check(model)  # also what is loaded beside the predictions, which take minutes
    described = metadata.read(model)
    graph = Graph(model / metadata.EXPORT)
    ablation = report.write(load, graph, test, described.classes, settings.explain, out=out, seed=settings.base.seed)
    with runs.model_run(hashing.sha256(model / "model.keras")):
        runs.log_table(ablation, "ablation.json")
        scores = zip(ablation["perturbation"], ablation["accuracy"], strict=True)
        runs.log_metrics({runs.metric_name(f"explain/{name}"): value for name, value in scores})
        runs.log_files(*sorted(out.iterdir()), folder="explanation")
    print(f"explain: {out / 'index.html'}, {(out / 'index.html').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    command(main)
