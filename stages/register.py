"""Register: the model in MLflow's registry, as challenger and, where it is better by a paired test, as champion."""

import base64
from pathlib import Path

import pandas as pd

from gemmodel import params
from gemmodel.data import fingerprints, folders
from gemmodel.delivery import tracking, turns, versions
from stages import command


def main(
    model: Path, predictions: Path, train: Path, val: Path, test: Path, out: Path,
    params_file: Path = Path("params.yaml"),
) -> None:  # fmt: skip
    """Register the model once, and write down why it is champion or not."""
    rule = params.load(params_file).register
    sha256 = folders.sha256(model / "model.keras")
    asked = fingerprints.answered(test, predictions)
    learnt_from = fingerprints.table(train, val)
    photo = next(iter(folders.photos(val).values()))[0]
    with tracking.run_of(sha256), turns.turn(rule.name, tracking.active()) as confirm:
        version = versions.find(rule.name, sha256)
        if version is None:
            example = pd.DataFrame({"photo": [base64.b64encode(photo.read_bytes()).decode()]})
            version = versions.get(rule.name, tracking.register(rule.name, model, example, sha256))
        decision = versions.settle(version, asked, learnt_from, test, rule, confirm)
    folders.write_json(out, decision)
    print(f"register: {rule.name} version {version.version}: {decision['reason']}")


if __name__ == "__main__":
    command(main)
