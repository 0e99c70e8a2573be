"""Python programs of the project, each in a fork of a process that has imported all that they import.

Imports take longer than most stages of a small project, and a kill during imports finds nothing.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import yaml

STAGES = list(yaml.safe_load((Path(__file__).parents[1] / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


# Also what DVC, MLflow and Scrapy import when they are first used.
IMPORTS = [
    *(f"stages.{stage}" for stage in STAGES), "gemmodel.cli", "umap", "git", "plotly.graph_objects", "plotly.io",
    "dvc.cli.parser", "dvc.commands.repro", "dvc.repo.experiments.queue.celery", "dvc.repo.experiments.queue.workspace",
    "dvc.repo.experiments.queue.tempdir", "dvc.repo.open_repo", "dvc.repo.plots", "networkx", "hydra", "pygit2",
    "dulwich.porcelain", "ruamel.yaml", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store", "mlflow.tracing.processor.base_mlflow", "mlflow.pyfunc",
    "sqlalchemy.dialects.sqlite", "scrapy.core.downloader.handlers.http11", "scrapy.downloadermiddlewares.cookies",
    "scrapy.extensions.telnet", "aiohttp",
]  # fmt: skip

COMMAND = """#!{python} -IS
import json, os, socket, sys

name, *program = sys.argv
program = ["-m", "dvc", *program] if os.path.basename(name) == "dvc" else program
if program[:1] not in (["-m"], ["-c"]):
    os.execv({python!r}, [{python!r}, *program])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b" "], [0, 1, 2])
    server.sendall(json.dumps([program, os.getcwd(), dict(os.environ), 0]).encode() + b"\\n")
    status, _ = json.loads(server.makefile().readline())
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""
STATUS = [0]  # of this process's exit
IMPORTED: dict[str, str] = {}  # variables that modules set where there are none, such as one of MLflow's progress bars


class Ended(NamedTuple):
    """What a program printed, its exit status, negative for a signal, and the seconds of a core that it took."""

    stdout: str
    stderr: str
    returncode: int
    seconds: float


class Forks:
    """A process whose forks run programs.

    Args:
        folder: of its socket, and of the folder `commands` with a `python` and a `dvc` that run in forks, too.
        output: a folder for what the programs of `run` print.
    """

    def __init__(self, folder: Path, output: Path) -> None:
        self._address, self._output, self.commands = str(folder / "socket"), output, folder / "commands"

    def run(
        self, *programs: Sequence[str], cwd: Path, environment: Mapping[str, str], seconds: float = 0
    ) -> list[Ended]:
        """Run programs at once, and return how each ended.

        Args:
            programs: what follows `python`: `-m`, a module and its arguments, or `-c`, code and its arguments.
            cwd: the working directory.
            environment: all of its variables.
            seconds: of a core; unless 0, those after which a program and the processes that it has started are killed.
        """
        logs = [(self._output / f"{i}.stdout", self._output / f"{i}.stderr") for i in range(len(programs))]
        with ExitStack() as stack:
            asked = []
            for program, paths in zip(programs, logs, strict=True):
                opened = [stack.enter_context(open(os.devnull))]
                opened += [stack.enter_context(path.open("w")) for path in paths]
                server = stack.enter_context(socket.socket(socket.AF_UNIX))
                server.connect(self._address)
                socket.send_fds(server, [b" "], [file.fileno() for file in opened])
                server.sendall(json.dumps([list(program), str(cwd), dict(environment), seconds]).encode() + b"\n")
                asked.append(server)
            answers = [json.loads(server.makefile().readline()) for server in asked]
        texts = [[path.read_text(encoding="utf-8") for path in paths] for paths in logs]
        return [Ended(*text, *answer) for text, answer in zip(texts, answers, strict=True)]


@contextmanager
def forks(environment: Mapping[str, str]) -> Iterator[Forks]:
    """Start the process, with the project importable in its environment, and end it after the context."""
    with tempfile.TemporaryDirectory() as output, socket.socket(socket.AF_UNIX) as listening:
        commands = Path(output, "commands")
        commands.mkdir()
        address = f"{output}/socket"
        for name in ("python", "dvc"):
            (commands / name).write_text(COMMAND.format(python=sys.executable, address=address), encoding="utf-8")
            (commands / name).chmod(0o755)
        listening.bind(address)
        listening.listen()
        with subprocess.Popen(
            [sys.executable, __file__, str(listening.fileno())], env=environment, stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        ) as process:  # fmt: skip
            yield Forks(Path(output), Path(output))
            assert process.stdin
            process.stdin.close()


def _call(option: str, program: str, *arguments: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "stages"]:
        del sys.modules[name]  # which looks at the environment when it is imported
    sys.argv = [option, *arguments]
    if option == "-m":
        if not hasattr(sys.modules.get(program), "__path__"):  # of a package, its `__main__` runs
            sys.modules.pop(program, None)  # else a warning
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})


def _serve(files: Sequence[int], program: list[str], cwd: str, variables: dict[str, str], seconds: float) -> None:
    os.setsid()
    for target, file in enumerate(files):
        os.dup2(file, target)
    # New ones, since those of this process may be files, and these pipes. colorama puts the former ones back.
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(IMPORTED | variables)
    sys.path[0] = ""  # the working directory, as Python has it
    tempfile.tempdir = None  # as TMPDIR says
    signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process as SIGKILL does
    status = 1
    try:
        _call(*program)
        status = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    STATUS.append(status)


def _exit() -> None:
    """End without taking the interpreter apart, which with all that is imported takes seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STATUS[-1])


def _answer(connection: socket.socket) -> None:
    """Run a program, until it ends or who asked for it is killed, and say how it ended."""
    _, files, *_ = socket.recv_fds(connection, 1, 3)
    asked = json.loads(connection.makefile().readline())
    if not (pid := os.fork()):
        _serve(files, *asked)
        sys.exit()
    threading.Thread(target=lambda: connection.recv(1) or _kill(pid), daemon=True).start()
    _, status, used = os.wait4(pid, 0)
    _kill(pid)
    answer = [os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]
    with suppress(BrokenPipeError):
        connection.sendall(json.dumps(answer).encode() + b"\n")
    os._exit(0)


def _kill(pid: int) -> None:
    """Kill a program and the processes that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """Serve until the input ends."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    if sys.stdin in select.select([sys.stdin, listening], [], [])[0]:
        return  # nobody has asked, so it imports nothing
    atexit.register(_exit)  # first, so that it is called last
    gc.disable()
    before = set(os.environ)
    for name in IMPORTS:
        importlib.import_module(name)
    requirements_utils = importlib.import_module("mlflow.utils.requirements_utils")
    requirements_utils._init_packages_to_modules_map()  # else each registration looks at all packages, for 0.8 s
    IMPORTED.update({name: os.environ[name] for name in set(os.environ) - before})
    gc.freeze()  # so that forks share it
    gc.enable()
    while sys.stdin not in select.select([sys.stdin, listening], [], [])[0]:
        connection, _ = listening.accept()
        if not os.fork():
            _answer(connection)
        connection.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # what has ended
                pass


if __name__ == "__main__":
    main()
