"""The command `gemmodel app`: the web page."""

import argparse
from pathlib import Path
from typing import Any

from gemmodel.commands.arguments import add_command, add_server_arguments, check_server, path_argument
from gemmodel.commands.registry import model_folder
from gemmodel.core.errors import ParameterError


def add(commands: Any) -> None:
    """Adds the command to the subcommands of `gemmodel`."""
    app = add_command(commands, "app", "Serve a web page that predicts the gem in a photo", "gemmodel app --port 8001")
    app.add_argument(
        "--model", type=path_argument, metavar="FOLDER", help="of a model (default: the registry's champion)"
    )
    add_server_arguments(app, port=8000)
    app.add_argument(
        "--photos", type=path_argument, default=Path("data/clean"), help="training photos (default: %(default)s)"
    )
    app.add_argument(
        "--manifest",
        type=path_argument,
        default=Path("data/raw/manifest.jsonl"),
        help="of the crawl, with the gems' properties (default: %(default)s)",
    )
    app.add_argument(
        "--examples", type=path_argument, metavar="FOLDER", help="class folders to try (default: data/split/test)"
    )
    app.add_argument(
        "--feedback", type=path_argument, metavar="FOLDER", help="for photos that people correct and agree to give"
    )
    app.add_argument("--per-minute", type=int, default=60, help="requests of one address (default: %(default)s)")
    app.set_defaults(run=serve_page)


def serve_page(arguments: argparse.Namespace) -> None:
    """Serves the web page until it is interrupted.

    Raises:
        ParameterError: an option is out of range.
        DataError: there is no model.
        OSError: the folder for feedback cannot be written.
    """
    check_server(arguments)
    if arguments.per_minute < 1:
        raise ParameterError(f"--per-minute: {arguments.per_minute} is less than 1")
    if arguments.examples and not arguments.examples.is_dir():
        raise ParameterError(f"--examples: {arguments.examples}: no such folder; it must hold one folder per class")
    from gemmodel.serve import app, server

    model = model_folder(arguments)
    if arguments.feedback and not arguments.feedback.exists():
        arguments.feedback.mkdir(parents=True)
        # People gave their photos to the operator, not to those who clone the project.
        (arguments.feedback / ".gitignore").write_text("*\n")
    with server.listen(arguments.host, arguments.port) as listening:
        page = app.create_app(
            model,
            photos=arguments.photos,
            manifest=arguments.manifest,
            examples=arguments.examples or Path("data/split/test"),
            feedback=arguments.feedback,
            per_minute=arguments.per_minute,
        )
        server.serve(page, listening, allowed_hosts=arguments.allowed_hosts, per_address=arguments.per_address)
