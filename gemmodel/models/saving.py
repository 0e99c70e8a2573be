"""A trained model on disk: the same bytes for the same weights."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from gemmodel.core import files
from gemmodel.core.errors import DataError, ModelError
from gemmodel.embed import extractor as extractor  # registers the layers that a model is read with
from gemmodel.embed import litert
from gemmodel.models import joint_probability as joint_probability  # likewise
from gemmodel.models.metadata import EXPORT, ModelMetadata, write


def save(
    model: keras.Model,
    classes: Sequence[str],
    folder: Path,
    *,
    crop: str = "none",
    metadata: ModelMetadata | None = None,
) -> None:
    """Writes `model.keras`, `classes.json` (the names in the order of the probabilities) and `input.json` (the crop).

    Knowledge adds what answers are made with: `hierarchy.json`, `confidence.json`, `reference.npz` and `model.tflite`,
    the model's LiteRT export, for which TensorFlow is not needed.

    Keras stamps its archive with the time and with memory addresses; both are taken out, so that the same weights
    are the same bytes.
    """
    with files.atomic_write(folder) as new:
        new.mkdir()
        model.save(new / "stamped.keras")
        with zipfile.ZipFile(new / "stamped.keras") as stamped, zipfile.ZipFile(new / "model.keras", "w") as plain:
            for name in sorted(stamped.namelist()):
                content = stamped.read(name)
                if name.endswith(".json"):
                    content = json.dumps(_unstamped(json.loads(content), {})).encode()
                plain.writestr(zipfile.ZipInfo(name), content)
        (new / "stamped.keras").unlink()
        files.write_json(new / "classes.json", list(classes))
        files.write_json(new / "input.json", {"crop": crop})
        if metadata:
            write(metadata, new)
            export(model, new / EXPORT)


def _unstamped(value: Any, seen: dict[int, int]) -> Any:
    """Drops the date and numbers shared objects by their first appearance instead of by their address."""
    if isinstance(value, list):
        return [_unstamped(item, seen) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: seen.setdefault(item, len(seen)) if key == "shared_object_id" else _unstamped(item, seen)
        for key, item in value.items()
        if key != "date_saved"
    }


def load(folder: Path) -> tuple[keras.Model, list[str]]:
    """Reads what `save` wrote.

    Returns:
        The model from pixels in [0, 255] to probabilities, and the class names in their order.

    Raises:
        DataError: there is no model in the folder.
        ModelError: the model is damaged, or it and the class names do not belong together.
    """
    if not (folder / "model.keras").is_file():
        raise DataError(f"{folder}: no model here; `dvc repro` trains one, `dvc pull` fetches one")
    if not (folder / "classes.json").is_file():
        raise DataError(f"{folder}: the model's classes.json is missing; `dvc repro` or `dvc pull` brings it back")
    try:
        classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        model = keras.saving.load_model(folder / "model.keras", compile=False)
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{folder}: its model is damaged or of another version: {line}; train it anew") from error
    if model.output_shape[-1] != len(classes):
        raise ModelError(
            f"{folder}: the model tells {model.output_shape[-1]} classes, classes.json names {len(classes)}"
        )
    return model, classes


def export(model: keras.Model, path: Path) -> None:
    """Writes a model as a LiteRT graph: `pixels` (1, side, side, 3) in [0, 255] to `probabilities` and `embedding`."""
    pixels = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="pixels")
    litert.export(dict(zip(("probabilities", "embedding"), with_embedding(model)(pixels), strict=True)), pixels, path)


def with_embedding(model: keras.Model) -> keras.Model:
    """Returns the model with a second output, the embedding that photos are compared in.

    The embedding is the kernel head's principal components, whose inner products are those of the standardised
    features, else the input of the last dense layer, scaled to length 1. So it is of length 1 at most.

    Args:
        model: from pixels to probabilities, as fitted or as `load` read it; or a head alone, from features.

    Returns:
        A model from the same input to [probabilities, embedding], of shape (batch, classes) and (batch, D).
    """
    head = next((layer for layer in model.layers if layer.name == "head"), model)
    dense = [layer for layer in head.layers if isinstance(layer, keras.layers.Dense)]
    components = [layer.output for layer in dense if layer.name == "components"]
    embedding = components[0] if components else keras.layers.UnitNormalization(name="embedding")(dense[-1].input)
    if head is model:
        return keras.Model(head.inputs[0], [head.outputs[0], embedding])
    known = model.get_layer("blocks").output
    if model.layers[-1] is head:
        return keras.Model(model.inputs[0], keras.Model(head.inputs[0], [head.outputs[0], embedding])(known))
    return keras.Model(model.inputs[0], [model.outputs[0], keras.Model(head.inputs[0], embedding)(known)])
