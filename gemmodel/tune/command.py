"""The command `gemmodel tune`: search, print the trials, and with --apply change params.yaml."""

import argparse
import difflib
import hashlib
import importlib.util
import os
import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from gemmodel.core import files, hashing, params
from gemmodel.core.errors import DataError, ParameterError

TRAINING_CODE = ("core", "images", "embed", "models", "train")  # packages whose change ends a study
ABOUT = """\
Search for better settings on the data that `dvc repro` made. Trials are ranked by the validation part; the test
part is not read.
SPACE is a YAML file of params.yaml's keys: a single value is fixed, a list is a choice, and {low: 1, high: 9} is
a range, which may have log: true or step: N.
Start the command several times at once for more workers. Start it again to resume an interrupted study."""


def add(commands: Any) -> None:
    """Adds the command to the subcommands of `gemmodel`."""
    tune = commands.add_parser(
        "tune",
        help="search for better settings, over a grid or with Optuna's samplers",
        description=ABOUT,
        epilog="example:\n  gemmodel tune tune/fusion.yaml --trials 20 --apply",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tune.add_argument("space", type=Path, metavar="SPACE", help="for example tune/fusion.yaml")
    tune.add_argument(
        "--sampler", choices=["grid", "tpe", "random"], help="(default: grid if each axis is a choice, else tpe)"
    )
    tune.add_argument(
        "--trials", type=int, default=30, help="in the whole study; a grid has one per point (default: 30)"
    )
    tune.add_argument(
        "--repeats",
        type=int,
        default=1,
        help="trainings per setting, with seeds base.seed, base.seed + 1, ...; their mean ranks it (default: 1)",
    )
    tune.add_argument(
        "--metric",
        choices=["val_accuracy", "val_loss"],
        default="val_accuracy",
        help="metric of the validation part that ranks the trials (default: %(default)s)",
    )
    tune.add_argument(
        "--pruner",
        choices=["median", "none"],
        help="median: stop a trial that is worse than half of the others (default: none for a grid, else median)",
    )
    tune.add_argument("--study", metavar="NAME", help="to create or resume (default: the name of SPACE)")
    tune.add_argument(
        "--storage",
        metavar="URI",
        default=os.environ.get("OPTUNA_STORAGE") or "sqlite:///tune.db",
        help="database; postgresql://USER@HOST/NAME for a team (default: OPTUNA_STORAGE, or sqlite:///tune.db)",
    )
    tune.add_argument("--timeout", type=float, default=float("inf"), metavar="SECONDS", help="start no trial after it")
    tune.add_argument(
        "--heartbeat",
        type=int,
        default=20,
        metavar="SECONDS",
        help="between heartbeats; a trial that misses three is queued again (default: 20)",
    )
    tune.add_argument("--show", action="store_true", help="print the trials of the study, and train nothing")
    tune.add_argument("--apply", action="store_true", help="write the best setting into params.yaml")
    paths = {"split": "data/split", "augmented": "data/augmented/train", "features": "data/features"}
    paths |= {"hierarchy": "data/split/hierarchy.json", "backup": ".train-backup"}
    for name, path in paths.items():
        tune.add_argument(f"--{name}", type=Path, default=Path(path), metavar="PATH", help="(default: %(default)s)")
    tune.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Searches, prints all trials by rank and the best one's change of params.yaml, and with --apply makes it.

    Raises:
        ParameterError: an option, the space or params.yaml is wrong.
        DataError: training data is missing, or was made with other parameters; or no trial succeeded.
        TrackingError: a database is unreachable.
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
    sampler = arguments.sampler or ("grid" if space.is_grid else "tpe")
    if sampler == "grid":
        space.grid()
    settings = params.checked(spaces.with_changes(values, space.fixed), file.name)
    inputs = training_inputs(settings, arguments)
    check_up_to_date(set(inputs.values()), values)

    from gemmodel import devices
    from gemmodel.tracking import store
    from gemmodel.train.context import TrainingContext
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
        data=data_digest(inputs),
        code=hashing.code_digest(*TRAINING_CODE)[:16],
        context=TrainingContext(
            settings, arguments.split, arguments.augmented, arguments.features, files.read_json(arguments.hierarchy),
            checkpoints=arguments.backup, logs=store.project_root() / "logs",
        ),
        log=lambda line: print(line, flush=True),
    )  # fmt: skip
    study = searching.load(create=not arguments.show)
    if not arguments.show:
        print(f"tune: {settings.model.name} on {device}, study {searching.name}", flush=True)
        searching.run(study, trials=arguments.trials, timeout=arguments.timeout)
    table = studies.trials_table(study)
    started = table[table.state != "waiting"]
    print(started.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}"))
    if len(started) < len(table):
        print(f"{len(table) - len(started)} trials are still queued: run this again")
    best = studies.best_trial(study)
    if best is None:
        raise DataError(f"{searching.name}: no trial is complete yet; the table's last column says why trials failed")
    changes = spaces.effective_changes(values, space.fixed | best.user_attrs[studies.CHANGES])
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


def training_inputs(settings: params.Params, arguments: argparse.Namespace) -> dict[Path, str]:
    """Returns each folder and file that trials read, with the stage that makes it.

    Raises:
        DataError: one is missing.
    """
    if settings.model.name == "fusion":
        inputs = {arguments.features / name: "embed" for name in ("train", "val")}
    else:
        inputs = {arguments.split / part: "split" for part in ("train", "val")}
        if getattr(settings.model, settings.model.name).augmentation == "disk":
            inputs[arguments.augmented] = "augment"
    if settings.model.name == "fusion" and settings.model.fusion.fine_tune_epochs:
        inputs |= {arguments.split / part: "split" for part in ("train", "val")}
    inputs[arguments.hierarchy] = "split"
    for path, stage in inputs.items():
        if not path.exists():
            raise DataError(f"{path}: not there; `dvc repro {stage}` makes it, `dvc pull` fetches it")
    return inputs


def check_up_to_date(stages: Collection[str], values: Mapping[str, Any]) -> None:
    """Compares params.yaml with the parameters in dvc.lock of the stages that made the data, and those before them.

    Raises:
        DataError: a value differs, so `dvc repro` would train on other data than the trials; or dvc.lock is damaged.
    """
    lock = Path("dvc.lock")
    try:
        stages_locked = params.read(lock)["stages"] if lock.is_file() else {}
        locked = {stage: made.get("params", {}).get("params.yaml", {}) for stage, made in stages_locked.items()}
    except (ParameterError, TypeError, KeyError, AttributeError):
        raise DataError(f"{lock}: empty or cut off; `gemmodel check` mends it") from None
    for stage in dict.fromkeys(["crawl", "clean", "split", *sorted(stages)]):
        for name, value in locked.get(stage, {}).items():
            current: Any = values
            for key in name.split("."):
                current = current.get(key)
            if current != value:
                raise DataError(f"{name}: not the value that the data was made with; run `dvc repro {stage}` first")


def data_digest(inputs: Iterable[Path]) -> str:
    """Returns a hash of some files and of all files in some folders, names included: 16 hexadecimal digits."""
    total = hashlib.sha256()
    for path in inputs:
        contents = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        total.update(hashing.digest(contents, path.parent).encode())
    return total.hexdigest()[:16]
