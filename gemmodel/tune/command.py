"""The command `gemmodel tune`: search, tell, and change params.yaml where that is asked for."""

import argparse
import difflib
import hashlib
import importlib.util
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gemmodel
from gemmodel.core import files, hashing, params
from gemmodel.core.errors import DataError, ParameterError

ABOUT = """\
Try settings on the data that `dvc repro` made, ranked by the validation part; the test part is not read.
SPACE is a YAML file of params.yaml's keys: a value is fixed, a list is a choice, {low: 1, high: 9} a range, which
may have log: true or step: N.
Call it several times at once for more workers; call it again to go on after anything that ended it."""


def add(commands: Any) -> None:
    """Adds the command to the command line's."""
    tune = commands.add_parser(
        "tune",
        help="search better settings, by grid or by proposals",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tune.add_argument("space", type=Path, metavar="SPACE", help="like tune/fusion.yaml")
    tune.add_argument(
        "--sampler", choices=["grid", "tpe", "random"], help="(default: grid where all are choices, else tpe)"
    )
    tune.add_argument(
        "--trials", type=int, default=30, help="of the study in all; a grid has its own number (default: 30)"
    )
    tune.add_argument(
        "--repeats",
        type=int,
        default=1,
        help="trainings of a setting, with the seeds from base.seed on, whose mean counts (default: 1)",
    )
    tune.add_argument(
        "--metric",
        choices=["val_accuracy", "val_loss"],
        default="val_accuracy",
        help="what ranks, of the validation part (default: %(default)s)",
    )
    tune.add_argument(
        "--pruner",
        choices=["median", "none"],
        help="median: give up what is worse than half so far (default: none for a grid, else median)",
    )
    tune.add_argument("--study", metavar="NAME", help="to go on with or begin (default: SPACE's name)")
    tune.add_argument(
        "--storage",
        metavar="URI",
        default=os.environ.get("OPTUNA_STORAGE") or "sqlite:///tune.db",
        help="of studies; postgresql://USER@HOST/NAME for a team (default: OPTUNA_STORAGE, or sqlite:///tune.db)",
    )
    tune.add_argument("--timeout", type=float, default=float("inf"), metavar="SECONDS", help="begin no trial after it")
    tune.add_argument(
        "--heartbeat",
        type=int,
        default=20,
        metavar="SECONDS",
        help="between signs of life; a trial without three is done again (default: 20)",
    )
    tune.add_argument("--show", action="store_true", help="train nothing, tell how the study stands")
    tune.add_argument("--apply", action="store_true", help="write the best setting into params.yaml")
    places = {"split": "data/split", "augmented": "data/augmented/train", "features": "data/features"}
    places |= {"hierarchy": "data/split/hierarchy.json", "backup": ".train-backup"}
    for name, path in places.items():
        tune.add_argument(f"--{name}", type=Path, default=Path(path), metavar="PATH", help="(default: %(default)s)")
    tune.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Searches, prints all trials by rank and the best one's change of params.yaml, and makes it if that is wanted.

    Raises:
        ParameterError: an option, the space or params.yaml is wrong.
        DataError: what is learnt from is missing, or older than params.yaml; or no trial succeeded.
        TrackingError: a database does not answer.
    """
    for name in ("trials", "repeats", "heartbeat"):
        if getattr(arguments, name) < 1:
            raise ParameterError(f"--{name}: {getattr(arguments, name)} is less than 1")
    file = Path("params.yaml")
    values = params.read(file)
    params.checked(values, file.name)
    if importlib.util.find_spec("optuna") is None:
        raise ParameterError("tune: Optuna is not installed; `pip install -e '.[tune]'` brings it")
    from gemmodel.tune import spaces, studies

    uri = studies.resolve_uri(arguments.storage)
    space = spaces.read(arguments.space, values)
    sampler = arguments.sampler or ("grid" if space.listed else "tpe")
    if sampler == "grid":
        space.points()
    settings = params.checked(spaces.changed(values, space.fixed), file.name)
    parts = learnt_from(settings, arguments)
    check_made(parts, values)

    from gemmodel import devices
    from gemmodel.tracking import runs
    from gemmodel.tune import search

    device = devices.prepare(settings.base, device=settings.train.device)
    searching = search.Search(
        name=arguments.study or arguments.space.stem,
        uri=uri,
        space=space,
        values=values,
        sampler=sampler,
        pruner=arguments.pruner or ("none" if sampler == "grid" else "median"),
        metric=arguments.metric,
        repeats=arguments.repeats,
        heartbeat=arguments.heartbeat,
        photos=digest(parts),
        code=digest([Path(gemmodel.__file__).parent / name for name in ("data", "models")], "*.py"),
        places={
            "split": arguments.split,
            "augmented": arguments.augmented,
            "features": arguments.features,
            "hierarchy": files.read_json(arguments.hierarchy),
            "checkpoints": arguments.backup,
            "logs": runs.project_root() / "logs",
        },
        say=lambda line: print(line, flush=True),
    )
    study = searching.load(create=not arguments.show)
    if not arguments.show:
        print(f"tune: {settings.model.name} on {device}, study {searching.name}", flush=True)
        searching.run(study, wanted=arguments.trials, timeout=arguments.timeout)
    table = studies.trials_table(study)
    begun = table[table.state != "waiting"]
    print(begun.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}"))
    if len(begun) < len(table):
        print(f"{len(table) - len(begun)} trials are still to be done: run this again")
    best = studies.best(study)
    if best is None:
        raise DataError(
            f"{searching.name}: no trial is complete yet; the table's last column tells of those that failed"
        )
    changes = spaces.differing(values, space.fixed | best.user_attrs[studies.CHANGES])
    if not changes:
        print("\nparams.yaml has the best setting")
        return
    text = file.read_text(encoding="utf-8")
    new = spaces.apply_changes(text, changes)
    options = [shlex.quote(f"{key}={spaces.to_cli(value)}") for key, value in changes.items()]
    print("\nbest:", "dvc exp run", *(f"-S {option}" for option in options))
    print("".join(difflib.unified_diff(text.splitlines(True), new.splitlines(True), "params.yaml", "params.yaml", n=0)))
    if arguments.apply:
        files.write_text(file, new)
        print("params.yaml is changed; `dvc repro` trains with it")


def learnt_from(settings: params.Params, arguments: argparse.Namespace) -> dict[Path, str]:
    """Returns each folder and file that trials learn from, with the stage that makes it.

    Raises:
        DataError: one is missing.
    """
    if settings.model.name == "fusion":
        made = {arguments.features / name: "embed" for name in ("train.npz", "val.npz")}
    else:
        made = {arguments.split / part: "split" for part in ("train", "val")}
        if getattr(settings.model, settings.model.name).augmentation == "disk":
            made[arguments.augmented] = "augment"
    if settings.model.name == "fusion" and settings.model.fusion.fine_tune_epochs:
        made |= {arguments.split / part: "split" for part in ("train", "val")}
    made[arguments.hierarchy] = "split"
    for path, stage in made.items():
        if not path.exists():
            raise DataError(f"{path}: not there; `dvc repro {stage}` makes it, `dvc pull` fetches it")
    return made


def check_made(made: Mapping[Path, str], values: Mapping[str, Any]) -> None:
    """Compares params.yaml with what dvc.lock tells of the stages that made the data.

    Raises:
        DataError: data was made with another value, so the trials would not be what `dvc repro` trains.
    """
    lock = Path("dvc.lock")
    locked = params.read(lock)["stages"] if lock.is_file() else {}
    for stage in {"crawl": 0, "clean": 0, "split": 0} | dict.fromkeys(made.values(), 0):
        for name, value in locked.get(stage, {}).get("params", {}).get("params.yaml", {}).items():
            now: Any = values
            for key in name.split("."):
                now = now.get(key)
            if now != value:
                raise DataError(f"{name}: not the value that the data was made with; run `dvc repro {stage}` first")


def digest(places: Iterable[Path], pattern: str = "*") -> str:
    """Returns a hash of all files in some folders whose names fit, their names included."""
    told = hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob(pattern)) if place.is_dir() else [place]:
            if path.is_file():
                told.update(f"{path.relative_to(place.parent)} {hashing.sha256(path)}\n".encode())
    return told.hexdigest()[:16]
