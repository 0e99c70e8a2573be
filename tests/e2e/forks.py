"""Commands of the project, each in a fork of a process that has imported all of them.

Imports take longer than most stages of a small project, and a kill during imports finds nothing.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

STAGES = list(yaml.safe_load((Path(__file__).parents[2] / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


class Ended(NamedTuple):
    """What a command printed, its exit status, negative for a signal, and the seconds of a core that it took."""

    stdout: str
    stderr: str
    returncode: int
    seconds: float


class Forks:
    """A process whose forks run commands.

    Args:
        process: of this module.
        output: a folder for what the commands print.
    """

    def __init__(self, process: "subprocess.Popen[str]", output: Path) -> None:
        self._process, self._output = process, output

    def run(self, *commands: Sequence[str], cwd: Path, seconds: float = 0, **variables: str) -> list[Ended]:
        """Run commands at once, and return how each ended.

        Args:
            commands: stages, `gemmodel` or `dvc`, each with its arguments.
            cwd: the working directory.
            seconds: unless 0, those after which a command and the processes that it has started are killed.
            variables: of the environment.
        """
        logs = [(self._output / f"{i}.stdout", self._output / f"{i}.stderr") for i in range(len(commands))]
        jobs = [[list(command), *map(str, paths)] for command, paths in zip(commands, logs, strict=True)]
        assert self._process.stdin and self._process.stdout
        print(json.dumps([jobs, str(cwd), seconds, variables]), file=self._process.stdin, flush=True)
        answers = json.loads(self._process.stdout.readline())
        texts = [[path.read_text(encoding="utf-8") for path in paths] for paths in logs]
        return [Ended(*text, *answer) for text, answer in zip(texts, answers, strict=True)]


@contextmanager
def forks(environment: dict[str, str]) -> Iterator[Forks]:
    """Start the process, with the project importable in its environment, and end it after the context."""
    with (
        tempfile.TemporaryDirectory() as output,
        subprocess.Popen(
            [sys.executable, __file__], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        yield Forks(process, Path(output))
        assert process.stdin
        process.stdin.close()


def _call(program: str, *arguments: str) -> Any:
    sys.argv = [program, *arguments]
    if program == "dvc":
        return importlib.import_module("dvc.cli").main()
    if program == "gemmodel":
        return importlib.import_module("gemmodel.cli").main()
    return importlib.import_module("stages").command(importlib.import_module(f"stages.{program}").main)


def _serve(command: list[str], stdout: str, stderr: str, cwd: str, seconds: float, variables: dict[str, str]) -> Any:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for target, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), target)
    os.chdir(cwd)
    os.environ |= variables
    tempfile.tempdir = None  # as TMPDIR says
    signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process as SIGKILL does
    return _call(*command)


def main() -> None:
    """Serve until the input ends."""
    for name in [*(f"stages.{stage}" for stage in STAGES), "umap", "gemmodel.cli", "dvc.cli", "dvc.commands.repro"]:
        importlib.import_module(name)
    for line in sys.stdin:
        jobs, *rest = json.loads(line)
        answers: dict[int, list[float]] = {}
        for job in jobs:
            if not (pid := os.fork()):
                sys.exit(_serve(*job, *rest))
            answers[pid] = []
        while not all(answers.values()):
            pid, status, used = os.wait3(0)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # the processes that it has started
            answers[pid] = [os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]
        print(json.dumps(list(answers.values())), flush=True)


if __name__ == "__main__":
    main()
