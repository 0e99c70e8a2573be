"""What of the environment counts.

docs/team.md lists the variables that count. Others that MLflow, Keras or Matplotlib read, and that would change a
result in silence, are set or ignored here.
"""

import ctypes
import os
import platform
import sys

from gemmodel.core.errors import without_secrets

FIXED = {  # by variable: the only value with which the project works
    "KERAS_BACKEND": "tensorflow",
    "TF_USE_LEGACY_KERAS": "0",
}
DEFAULTS = {"MLFLOW_DISABLE_TELEMETRY": "true"}  # as `.dvc/config` has it of DVC's
if platform.machine() in ("x86_64", "AMD64"):
    # oneDNN also computes on x86 processors for which TensorFlow would not choose it: a gradient of the default model
    # takes 0.6 of the time there (decision 52).
    DEFAULTS["TF_ENABLE_ONEDNN_OPTS"] = "1"
IGNORED = {  # by variable: what holds instead
    "KERAS_MAX_EPOCHS": "train.epochs holds",
    "KERAS_MAX_STEPS_PER_EPOCH": "an epoch is all photos",
    "MLFLOW_ACTIVE_MODEL_ID": "metrics belong to a run",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "each stage ends after its metrics are logged",
    "MLFLOW_EXPERIMENT_ID": "MLFLOW_EXPERIMENT_NAME names the experiment",
    "MLFLOW_LOCK_MODEL_DEPENDENCIES": "a registered model has fixed requirements",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI": "MLFLOW_TRACKING_URI names the only store",
    "MLFLOW_RUN_ID": "each training opens a run of its own",
}
# By variable of glibc: the number that mallopt(3) has for it, and the bytes. By default it gives back what large arrays
# free, most of it soon, and the kernel clears the pages again for the next ones.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": (-1, 256 * 2**20), "MALLOC_MMAP_THRESHOLD_": (-3, 32 * 2**20)}


def apply_environment() -> list[str]:
    """Sets and removes variables of this process, and so of those that it starts; makes its output printable.

    Must run before Keras or MLflow is imported. Only commands call it: a program that imports the package keeps its
    environment.

    Returns:
        One line for each variable that is not as it was.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test or a notebook replaces it
            stream.reconfigure(errors="backslashreplace")  # for names that the terminal's encoding lacks
    os.environ["MPLBACKEND"] = "agg"  # diagrams go to files; a notebook's backend may not be installed here
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    lines = []
    for name, value in FIXED.items():
        if os.environ.get(name, value).lower() not in (value, ""):
            lines.append(f"{name}={os.environ[name]} is ignored: {value} holds")
        os.environ[name] = value
    for name, reason in IGNORED.items():
        if value := os.environ.pop(name, ""):
            lines.append(f"{name}={without_secrets(value)} is ignored: {reason}")
    return lines


def keep_freed_memory() -> None:
    """Lets this process and those that it starts reuse memory, which with arrays of some MB saves a tenth of the time.

    Only glibc has these settings; variables that are set hold.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    for name, (option, size) in MALLOC.items():
        if name not in os.environ:
            os.environ[name] = str(size)
            libc.mallopt(option, size)
