"""Register: the model in MLflow's registry, as challenger and, where it wins, as champion."""

import base64
from pathlib import Path

import pandas as pd

from gemmodel import params
from gemmodel.data import folders
from gemmodel.delivery import registry, tracking
from stages import command


def main(
    model: Path, metrics: Path, test: Path, example: Path, out: Path, params_file: Path = Path("params.yaml")
) -> None:
    """Register the model once, and write down why it is champion or not."""
    name = params.load(params_file).register.name
    sha256 = folders.sha256(model / "model.keras")
    scores = folders.read_json(metrics)
    new = {"accuracy": scores["accuracy"], "test_md5": tracking.dvc_hash(test)}
    photo = next(iter(folders.photos(example).values()))[0]
    with tracking.run_of(sha256), tracking.alone():
        known = tracking.model_version(name, sha256)
        if known is None:
            frame = pd.DataFrame({"photo": [base64.b64encode(photo.read_bytes()).decode()]})
            known = {"version": tracking.register(name, model, frame, sha256)}
        if "reason" not in known:  # new, or interrupted before its title
            wins, reason = registry.decide(new, tracking.champion(name))
            tags = {"reason": reason, "champion": str(wins)} | {key: str(value) for key, value in new.items()}
            tracking.entitle(name, known["version"], tags, is_champion=wins)
            known |= tags
    decision = {
        "name": name,
        "model_sha256": sha256,
        "champion": known["champion"] == "True",
        "reason": known["reason"],
    }
    folders.write_json(out, decision | new)
    print(f"register: {name} version {known['version']}: {known['reason']}")


if __name__ == "__main__":
    command(main)
