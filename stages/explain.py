"""Explain: which parts of a photo an answer rests on, and whether colour decides."""

from pathlib import Path

from gemmodel import devices, params
from gemmodel.data import folders
from gemmodel.delivery import tracking
from gemmodel.insight import explanation
from gemmodel.models import archive
from stages import command


def main(model: Path, test: Path, out: Path, params_file: Path = Path("params.yaml")) -> None:
    """Explain a model's answers on test photos and log the page to the run that trained it."""
    settings = params.load(params_file)
    devices.prepare(settings.base)
    network, classes = archive.load(model)
    table = explanation.write(network, test, classes, settings.explain, out=out, seed=settings.base.seed)
    with tracking.run_of(folders.sha256(model / "model.keras")):
        tracking.log_table(table, "colour_dependence.json")
        tracking.log_files(*sorted(out.iterdir()), folder="explanation")
    print(f"explain: {out / 'index.html'}, {(out / 'index.html').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    command(main)
