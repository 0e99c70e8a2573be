"""Python programs of the project, each in a fork of a process that has imported all that they import.

Imports take longer than most stages of a small project, and a kill during imports finds nothing.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import yaml

STAGES = list(yaml.safe_load((Path(__file__).parents[1] / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


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
        process: of this module.
        output: a folder for what the programs print.
    """

    def __init__(self, process: "subprocess.Popen[str]", output: Path) -> None:
        self._process, self._output = process, output

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
        jobs = [[list(program), *map(str, paths)] for program, paths in zip(programs, logs, strict=True)]
        assert self._process.stdin and self._process.stdout
        print(json.dumps([jobs, str(cwd), seconds, dict(environment)]), file=self._process.stdin, flush=True)
        answers = json.loads(self._process.stdout.readline())
        texts = [[path.read_text(encoding="utf-8") for path in paths] for paths in logs]
        return [Ended(*text, *answer) for text, answer in zip(texts, answers, strict=True)]


@contextmanager
def forks(environment: Mapping[str, str]) -> Iterator[Forks]:
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


def _serve(program: list[str], stdout: str, stderr: str, cwd: str, seconds: float, variables: dict[str, str]) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for target, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), target)
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


def main() -> None:
    """Serve until the input ends."""
    atexit.register(_exit)  # first, so that it is called last
    gc.disable()
    before = set(os.environ)
    for name in [*(f"stages.{stage}" for stage in STAGES), "umap", "gemmodel.cli", "dvc.cli", "dvc.commands.repro"]:
        importlib.import_module(name)
    IMPORTED.update({name: os.environ[name] for name in set(os.environ) - before})
    gc.freeze()  # so that forks share it
    gc.enable()
    for line in sys.stdin:
        jobs, *rest = json.loads(line)
        answers: dict[int, list[float]] = {}
        for job in jobs:
            if not (pid := os.fork()):
                _serve(*job, *rest)
                sys.exit()
            answers[pid] = []
        while not all(answers.values()):
            pid, status, used = os.wait3(0)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # the processes that it has started
            answers[pid] = [os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]
        print(json.dumps(list(answers.values())), flush=True)


if __name__ == "__main__":
    main()
