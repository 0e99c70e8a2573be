"""Presets of keras-hub: ConvNets at every resolution, and transformers at several depths."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from gemmodel.core.errors import ModelError, first_line
from gemmodel.embed.backbones.backbone_file import layer_name

DEPTHS = 4  # of a transformer, evenly spaced, the last block's included
INSTALL = "pip install -e '.[hub]'"


def is_preset(name: str) -> bool:
    """Returns whether a name is a preset's: one that keras-hub knows, an address of one, or a folder with one.

    Raises:
        ModelError: it is a folder or an address, but keras-hub is not installed.
    """
    named = "://" in name or (Path(name) / "config.json").is_file()
    if find_spec("keras_hub") is None:
        if named:
            raise ModelError(f"{name}: a preset of keras-hub, which is not installed; {INSTALL}")
        return False
    import keras_hub

    return named or name in keras_hub.models.Backbone.presets


def preset(name: str, *, weights: str, side: int | None) -> keras.Model:
    """Returns the maps and tokens of a preset's image backbone, whose weights keras-hub fetches once and caches.

    Args:
        name: of the preset, or a folder with `config.json`, `model.weights.h5` and the preset's image converter.
        weights: `imagenet`: the preset's own; `none` or a file, as for `backbone`.
        side: of the square input in pixels; None: that of the preset.

    Raises:
        ModelError: the preset is unknown, cannot be fetched, or its layers are not those of a known family.
    """
    import keras_hub

    try:
        shape = {} if side is None else {"image_shape": (side, side, 3)}
        model = keras_hub.models.Backbone.from_preset(name, load_weights=weights == "imagenet", **shape)
        scaling = keras_hub.layers.ImageConverter.from_preset(name)
        if weights not in ("imagenet", "none"):
            model.load_weights(weights)
    except Exception as error:  # keras-hub, kagglehub and huggingface_hub raise nothing narrower
        line = first_line(error)
        raise ModelError(
            f"{name}: keras-hub cannot load it: {line}; go online once, or name a folder with the preset's files"
        ) from None
    model = getattr(model, "vision_encoder", model)
    size = model.inputs[0].shape[1]
    if size is None:
        raise ModelError(f"{name}: it takes photos of any size; name one, as in {name}@224")
    pixels = keras.Input((size, size, 3), name="pixels")
    scale = np.broadcast_to(1.0 if scaling.scale is None else scaling.scale, 3)
    offset = np.broadcast_to(0.0 if scaling.offset is None else scaling.offset, 3)
    x = layers.Rescaling(scale.tolist(), offset=offset.tolist(), dtype="float32", name="scaling")(pixels)
    inner = keras.Model(model.inputs, _outputs(name, model), name=model.name)
    real = keras.tree.flatten(inner(ops.zeros((1, size, size, 3))))
    outputs = [
        y if y.shape[1:] == z.shape[1:] else Tokens(count=z.shape[1])(y)
        for y, z in zip(keras.tree.flatten(inner(x)), real, strict=True)
    ]
    return keras.Model(pixels, outputs, name=layer_name(Path(name).name))


@keras.saving.register_keras_serializable(package="gemmodel")
class Tokens(layers.Layer):
    """Tokens of whose number Keras is wrong: keras-hub says of SigLIP that it has a class token.

    Input and output: (batch, count, channels).
    """

    def __init__(self, *, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = count

    def call(self, x: Any) -> Any:
        """Returns the tokens."""
        return ops.reshape(x, (-1, self.count, x.shape[2]))

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the tokens' true shape."""
        return (shape[0], self.count, shape[2])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "count": self.count}


def _outputs(name: str, model: Any) -> list[Any]:
    """Returns the last map of each resolution of a ConvNet; of a transformer the tokens at some depths, and its end."""
    end = model.outputs[0]
    pyramid = dict(getattr(model, "pyramid_outputs", None) or {})
    pyramid.pop("stem", None)
    if pyramid and all(len(x.shape) == 4 for x in pyramid.values()):
        return list(pyramid.values())
    if pyramid:  # DINOv2, DINOv3
        blocks = list(pyramid.values())
    elif encoders := [layer for layer in model.layers if hasattr(layer, "encoder_layers")]:  # ViT, DeiT
        x, blocks = encoders[0].input, []
        for layer in encoders[0].encoder_layers:
            x = layer(x)
            blocks.append(x)
    else:  # SigLIP: each block is a layer of the model
        kinds = [type(layer) for layer in model.layers]
        repeated = max(kinds, key=kinds.count)
        blocks = [layer.output for layer in model.layers if type(layer) is repeated]
    if len(blocks) < DEPTHS // 2 or any(len(x.shape) != 3 for x in blocks):
        raise ModelError(
            f"{name}: gemmodel does not know the layers of a {type(model).__name__}; save it as a .keras file"
        )
    depths = sorted({(i + 1) * len(blocks) // DEPTHS for i in range(DEPTHS)} - {0})
    return [*(blocks[depth - 1] for depth in depths[:-1]), *([blocks[-1]] if len(end.shape) == 2 else []), end]
