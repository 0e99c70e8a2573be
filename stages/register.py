"""Register: the model in MLflow's registry, as challenger and, where a paired test finds it better, as champion."""

import base64
from pathlib import Path

import pandas as pd

from gemmodel.core import files, hashing, image_folder, params
from gemmodel.register import fingerprints, registration, versions
from gemmodel.register.registry_lock import registry_lock
from gemmodel.tracking import runs
from stages import command


def main(
    model: Path, predictions: Path, train: Path, val: Path, test: Path, out: Path,
    params_file: Path = Path("params.yaml"),
) -> None:  # fmt: skip
    """Register the model once, with all its files, and report whether it is champion and why."""
    rule = params.load(params_file).register
    hashing.check(model)
    tags = registration.identity(model)
    test_predictions = fingerprints.with_predictions(test, predictions)
    training_set = fingerprints.table(train, val)
    photo = next(iter(image_folder.list_images(val).values()))[0]
    with runs.model_run(tags[runs.MODEL_TAG]), registry_lock(rule.name, runs.active_run_id()) as check_held:
        example = pd.DataFrame({"photo": [base64.b64encode(photo.read_bytes()).decode()]})
        version = versions.ensure(rule.name, model, example, tags)
        decision = versions.decide_and_promote(version, test_predictions, training_set, test, rule, check_held)
    files.write_json(out, decision)
    print(f"register: {rule.name} version {version.version}: {decision['reason']}")


if __name__ == "__main__":
    command(main)
