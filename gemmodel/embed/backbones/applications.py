"""Networks of keras.applications."""

import math
from typing import Any

import keras
from keras import layers

from gemmodel.core.errors import MAX_LINE, ModelError, first_line

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


def application(name: str, *, weights: str, image_size: int) -> keras.Model:
    """Returns a network of keras.applications; the arguments are those of `backbone`."""
    function = getattr(keras.applications, APPLICATIONS[name])
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    scaled = InputScaling(family=function.__module__.rpartition(".")[2], name="scaling")(pixels)
    try:
        model = function(include_top=False, weights=None if weights == "none" else weights, input_tensor=scaled)
    except Exception as error:  # Keras raises nothing narrower without a network
        line = first_line(error, MAX_LINE)
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
