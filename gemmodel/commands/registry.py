"""Commands that register and change the champion, and how other commands find it."""

import argparse
from pathlib import Path
from typing import Any

from gemmodel.commands.arguments import add_command
from gemmodel.commands.project import run_stage
from gemmodel.core import params


def add(commands: Any) -> None:
    """Adds the commands to the subcommands of `gemmodel`."""
    register = add_command(
        commands,
        "register",
        "Run the register stage: a registered model whose files are gone or damaged gets them again from models/",
        "gemmodel register",
    )
    register.set_defaults(run=lambda arguments: run_stage("register"))
    promote = add_command(commands, "promote", "Make a version of the registered model champion", "gemmodel promote 3")
    promote.add_argument("version", help="its number in MLflow's registry")
    promote.set_defaults(run=lambda arguments: set_champion(arguments.version))
    rollback = add_command(commands, "rollback", "Make the previous champion champion again", "gemmodel rollback")
    rollback.set_defaults(run=lambda arguments: set_champion(None))


def model_folder(arguments: argparse.Namespace) -> Path:
    """Returns the folder of --model, by default that of the registry's champion."""
    if arguments.model:
        return Path(arguments.model)
    from gemmodel.register import locate

    return locate.champion_path(registered_name())


def registered_name() -> str:
    """Returns `register.name` of the project's parameters; outside of a project that of the shipped ones."""
    path = Path("params.yaml")
    return params.load(path).register.name if path.is_file() else "gemstones"


def set_champion(version: str | None) -> None:
    """Makes a version of the registered model champion; None is the previous champion. Prints what has changed.

    Raises:
        DataError: there is no registry.
        TrackingError: there is no such version, or no previous champion.
    """
    from gemmodel.register import versions
    from gemmodel.tracking import runs

    name = registered_name()
    with runs.mlflow_store(create=False):
        print(versions.rollback(name) if version is None else versions.promote(name, version))
