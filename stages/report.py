"""Report: one page that leads to all others, and the model card."""

from dataclasses import asdict
from pathlib import Path

from gemmodel.core import files, hashing, params
from gemmodel.register import registration
from gemmodel.report import index_page, model_card
from gemmodel.tracking import runs
from stages import command


def main(
    model: Path, raw: Path, clean: Path, split: Path, page: Path, card: Path, params_file: Path = Path("params.yaml")
) -> None:
    """Write the page and the model card, log both, and describe the registered model by its card."""
    settings = params.load(params_file)
    sha256 = hashing.sha256(model / "model.keras")
    data = (raw, clean, split / "train", split / "val", split / "test")
    hashes = {path.as_posix(): runs.dvc_hash(path) for path in data}
    model_card.write(card, model, settings, hashes)
    found = runs.provenance()
    code = {"commit": found.get("mlflow.source.git.commit"), "not committed": found.get("git_uncommitted", "nothing")}
    sections = asdict(settings)
    sections["model"] = {"name": settings.model.name, settings.model.name: sections["model"][settings.model.name]}
    index_page.write(page, origin={"model_sha256": sha256} | hashes | code, parameters=sections)
    explored = page.parent / "exploration"
    with runs.model_run(sha256):
        figures = dict(index_page.flat(files.read_json(page.parent / "exploration.json")))
        runs.log_metrics({f"explore_{name.replace('.', '_')}": value for name, value in figures.items()})
        runs.log_files(page, card)
        runs.log_files(*sorted(explored.iterdir()), folder="exploration")
        registration.describe_version(settings.register.name, sha256, card.read_text(encoding="utf-8"))
    print(f"report: {page}, {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    command(main)
