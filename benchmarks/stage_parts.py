"""Runs one stage and prints, as a last line of JSON, the seconds of cores by part; `stages.py` calls it.

python benchmarks/stage_parts.py stages.split --clean data/clean ...

It puts timers around functions from outside. What is nested counts once, for the innermost part. What other threads do
counts for what the main one does then: the gradients of explain are `work`.
"""

import builtins
import functools
import inspect
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

PARTS = {  # of modules: functions, and classes for their public methods
    "graphs": {
        "gemmodel.embed.extractor": ["extractor"],
        "gemmodel.explain.explainer": ["Explainer"],
        "gemmodel.models.fusion": ["attach"],
        "gemmodel.models.saving": ["load", "with_embedding"],
        "gemmodel.train.fusion_head": ["to_keras"],
    },
    "export": {"gemmodel.embed.litert": ["export", "export_head"]},
    "MLflow": {
        "mlflow": [
            "create_experiment", "end_run", "get_experiment_by_name", "log_artifact", "log_artifacts", "log_figure",
            "log_params", "log_text", "register_model", "search_runs", "set_experiment", "set_tag", "start_run",
        ],
        "mlflow.artifacts": ["list_artifacts"],
        "mlflow.pyfunc": ["load_model", "save_model"],
        "mlflow.tracking.client": ["MlflowClient"],
    },
}  # fmt: skip
seconds, open_parts, since = Counter[str](), ["work"], time.process_time()


def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with a timer."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return function(*args, **kwargs)
        turn()
        open_parts.append(part)
        try:
            return function(*args, **kwargs)
        finally:
            turn()
            open_parts.pop()

    return call


def turn() -> None:
    """Adds the time since the last call to the innermost part."""
    global since
    now = time.process_time()
    seconds[open_parts[-1]] += now - since
    since = now


def put_timers() -> None:
    """Puts timers around the functions of PARTS in the modules that are loaded."""
    for part, modules in PARTS.items():
        for module, names in modules.items():
            for name in names:
                function = getattr(sys.modules.get(module), name, None)
                if function is None:  # not loaded, or not in the other checkout
                    continue
                if inspect.isclass(function):
                    for method, value in list(vars(function).items()):
                        if inspect.isfunction(value) and (method == "__init__" or not method.startswith("_")):
                            setattr(function, method, timed(part, value))
                    continue
                call = timed(part, function)
                for other in list(sys.modules.values()):  # also where it was imported by its name
                    for key, value in list(getattr(other, "__dict__", {}).items()):
                        if value is function:
                            setattr(other, key, call)


def main() -> None:
    builtins.__import__ = timed("imports", builtins.__import__)
    stage, *arguments = sys.argv[1:]
    sys.argv[0], sys.path[0] = "-m", ""  # as `python -m` has them; in this script's folder `stages` is another module
    __import__(stage)
    sys.argv = [stage, *arguments]
    put_timers()
    try:
        sys.modules["stages"].command(sys.modules[stage].main)
    finally:
        turn()
        print(json.dumps({part: round(seconds[part], 2) for part in ("imports", *PARTS)}))


if __name__ == "__main__":
    main()
