"""The device that TensorFlow computes on, its precision and its determinism."""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from gemmodel.core.errors import DeviceError, suppress_stderr
from gemmodel.core.params import BaseParams

QUIET = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3"  # 0 shows TensorFlow's own messages
# Path.expanduser fails for a user without a name, as in a container.
KERAS_JSON = Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras"), "keras.json")  # noqa: PTH111

with suppress_stderr() if QUIET else nullcontext():
    try:
        import keras
    except (ValueError, AttributeError, OSError) as error:  # of keras.json; too early for `cli_errors`
        sys.exit(f"Keras cannot be imported: {error}; correct or remove {KERAS_JSON}")
    import tensorflow as tf

# CUDA compute capabilities from which tensor cores make convolutions of these types faster.
GPU_BFLOAT16 = (8, 0)
GPU_FLOAT16 = (7, 0)
# CPUs on which bfloat16 convolutions are faster: Intel's with AMX, and AMD's with AVX512-bf16 (decision 6).
CPU_BFLOAT16 = ({"GenuineIntel", "amx_bf16"}, {"AuthenticAMD", "avx512_bf16"})
CPU_INFO = Path("/proc/cpuinfo")  # on Linux
KERAS = {"backend": "tensorflow", "floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}


def prepare(base: BaseParams, *, device: str = "auto") -> str:
    """Sets up TensorFlow for a process: device, threads, seeds and determinism.

    Must run before the first tensor is made.

    Args:
        base: seed, number of threads, and whether equal inputs must give equal bits.
        device: `auto` uses the GPUs if there are any, `cpu` hides them, `gpu` requires one.

    Returns:
        A description of the device.

    Raises:
        DeviceError: `gpu` was requested and TensorFlow sees none.
    """
    _apply_keras_defaults()
    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise DeviceError(
            "train.device is gpu, but TensorFlow sees no GPU; set it to auto or cpu, or install NVIDIA's driver and "
            "`pip install -e '.[gpu]'` (TF_CPP_MIN_LOG_LEVEL=0 shows what is missing)"
        )
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
        gpus = []
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.threading.set_intra_op_parallelism_threads(base.threads)
    tf.config.threading.set_inter_op_parallelism_threads(base.threads)
    keras.utils.set_random_seed(base.seed)
    if base.deterministic:
        tf.config.experimental.enable_op_determinism()
    if not gpus:
        return f"CPU, {base.threads or os.cpu_count()} threads"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    return f"GPU: {', '.join(names)}"


def _apply_keras_defaults() -> None:
    """Sets Keras' own defaults, and names the values of the user's keras.json that differ: they are of other projects.

    The backend cannot be set any more: `core.environment` does so before Keras is imported.
    """
    try:
        present = json.loads(KERAS_JSON.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        present = {}
    for name, value in KERAS.items():
        if present.get(name, value) != value:
            print(f"{KERAS_JSON}: {name} {present[name]} is ignored: {value} holds", file=sys.stderr)
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def precision(requested: str, *, cpu_info: Path = CPU_INFO) -> str:
    """Returns the Keras dtype policy for dense convolutions, those of 1x1 included.

    Args:
        requested: a policy, or `auto` for the fastest one on this device: bfloat16 or float16 on GPUs with
            tensor cores, bfloat16 on Intel's CPUs with AMX and AMD's with AVX512-bf16, float32 elsewhere.
        cpu_info: Linux's description of the processors; it does not exist on other systems.

    Returns:
        `float32`, `mixed_bfloat16` or `mixed_float16`.
    """
    if requested != "auto":
        return requested
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
        capability = min(detail.get("compute_capability", (0, 0)) for detail in details)
        if capability >= GPU_BFLOAT16:
            return "mixed_bfloat16"
        return "mixed_float16" if capability >= GPU_FLOAT16 else "float32"
    return "mixed_bfloat16" if any(features <= _words(cpu_info) for features in CPU_BFLOAT16) else "float32"


def _words(cpu_info: Path) -> set[str]:
    """Returns the words of the description of the first processor, an empty set where there is none."""
    try:
        return set(cpu_info.read_text("ascii", errors="ignore").split("\n\n")[0].split())
    except OSError:
        return set()


def describe() -> list[str]:
    """Returns one line per device that TensorFlow sees; for a GPU with its name, compute capability and memory."""
    lines = []
    for device in tf.config.list_physical_devices():
        index = device.name.rsplit(":", 1)[-1]
        line = f"{device.device_type} {index}"
        if device.device_type == "GPU":
            details = tf.config.experimental.get_device_details(device)
            capability = ".".join(map(str, details.get("compute_capability", ()))) or "unknown"
            line += (
                f"  {details.get('device_name', 'unknown')}, compute capability {capability}, {_gpu_memory(int(index))}"
            )
        lines.append(line)
    return lines


def _gpu_memory(index: int) -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        total = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).total
    except Exception:  # not installed, or not NVIDIA's
        return "memory unknown"
    return f"{total / 2**30:.0f} GiB"
