"""Report: the index page, which links all other reports, and the model card."""

from dataclasses import asdict
from pathlib import Path

from gemmodel.core import files, hashing, params
from gemmodel.register import registration
from gemmodel.report import index_page, model_card
from gemmodel.tracking import runs
from stages import command


def main(
    model: Path, raw: Path, clean: Path, split: Path, crawl_report: Path, clean_report: Path, split_report: Path,
    data_report: Path, data_pictures: Path, training: Path, curves: Path, metrics: Path, evaluation: Path,
    explanation: Path, exploration_metrics: Path, exploration: Path, registration_report: Path, page: Path, card: Path,
    params_file: Path = Path("params.yaml"),
) -> None:  # fmt: skip
    """Write the index page and the model card, log both, and describe the registered model by its card."""
    settings = params.load(params_file)
    reports = index_page.Reports(
        crawl=crawl_report, clean=clean_report, split=split_report, data=data_report, data_pictures=data_pictures,
        training=training, curves=curves, metrics=metrics, evaluation=evaluation, explanation=explanation,
        exploration_metrics=exploration_metrics, exploration=exploration, registration=registration_report, card=card,
    )  # fmt: skip
    hashing.check(model)
    identity = registration.identity(model)
    sha256 = identity[runs.MODEL_TAG]
    data = (raw, clean, split / "train", split / "val", split / "test")
    hashes = {path.as_posix(): runs.dvc_hash(path) for path in data}
    model_card.write(reports, model, settings, hashes)
    tags = runs.provenance()
    code = {"commit": tags.get("mlflow.source.git.commit"), "not committed": tags.get("git_uncommitted", "nothing")}
    sections = asdict(settings)
    sections["model"] = {"name": settings.model.name, settings.model.name: sections["model"][settings.model.name]}
    index_page.write(
        page, reports, panels=settings.evaluate.panels, provenance={"model_sha256": sha256} | hashes | code,
        parameters=sections,
    )  # fmt: skip
    with runs.model_run(sha256):
        scores = dict(index_page.flatten(files.read_json(exploration_metrics)))
        runs.log_metrics({f"explore/{name.replace('.', '_')}": value for name, value in scores.items()})
        linked = (data_report, crawl_report, clean_report, split_report, curves)  # by the page
        runs.log_files(page, card, *(path for path in linked if path.is_file()))
        for folder, name in ((exploration, "exploration"), (data_pictures, "data")):
            runs.log_files(*sorted(folder.iterdir()), folder=name)
        text = card.read_text(encoding="utf-8")
        registration.describe_version(settings.register.name, identity, text)
    print(f"report: {page}, {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    command(main)
