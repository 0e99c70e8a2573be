"""A trained model on disk: the same bytes for the same weights."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from gemmodel.core import files, hashing
from gemmodel.core.errors import MAX_LINE, DataError, ModelError, first_line
from gemmodel.embed import extractor as extractor  # registers its layers, which a saved model may have
from gemmodel.embed import litert
from gemmodel.models import joint_probability as joint_probability  # likewise
from gemmodel.models.metadata import EXPORT, ModelMetadata, write

NETWORK = "fine_tuned_network"  # the layer of a `fusion.ensemble` that predicts beside the head
READ = ("blocks", f"{NETWORK}_probabilities")  # the layers that a head reads: of the extractor, and of the network


def save(
    model: keras.Model,
    classes: Sequence[str],
    folder: Path,
    *,
    crop: str = "none",
    metadata: ModelMetadata | None = None,
    extractors: Sequence[Path] = (),
) -> None:
    """Writes a model as a folder, with the same bytes for the same weights.

    The folder has `model.keras` (as `with_embedding` returns it), `classes.json` (the names in the order of the
    probabilities) and `input.json` (the crop). Metadata adds `hierarchy.json`, `thresholds.json`, `held_out.json`,
    `training.json`, `reference.npz` and `model.tflite`, the model's LiteRT export: all that a prediction without
    TensorFlow needs. `sha256.json` has the hash of each file.

    Args:
        model: from pixels in [0, 255] to probabilities, or to [probabilities, embedding].
        classes: the names in the order of the probabilities.
        folder: is replaced.
        crop: how photos are cropped before they are resized, as `clean.crop` names it.
        metadata: is written beside the network.
        extractors: of a result of `fusion.attach` or `fusion.ensemble`, those of its backbones for LiteRT, as the embed
            stage wrote them: then only the rest is exported.
    """
    with files.atomic_write(folder) as new:
        new.mkdir()
        with_embedding(model).save(new / "stamped.keras")
        with zipfile.ZipFile(new / "stamped.keras") as stamped, zipfile.ZipFile(new / "model.keras", "w") as plain:
            for name in sorted(stamped.namelist()):  # Keras writes the time and memory addresses into its archive
                content = stamped.read(name)
                if name.endswith(".json"):
                    content = json.dumps(_unstamped(json.loads(content), {})).encode()
                plain.writestr(zipfile.ZipInfo(name), content)
        (new / "stamped.keras").unlink()
        files.write_json(new / "classes.json", list(classes))
        files.write_json(new / "input.json", {"crop": crop})
        if metadata:
            write(metadata, new)
            export(model, new / EXPORT, extractors=extractors)
        hashing.write_hashes(new)


def _unstamped(value: Any, seen: dict[int, int]) -> Any:
    """Removes the date, and numbers shared objects by their first appearance instead of their address."""
    if isinstance(value, list):
        return [_unstamped(item, seen) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: seen.setdefault(item, len(seen)) if key == "shared_object_id" else _unstamped(item, seen)
        for key, item in value.items()
        if key != "date_saved"
    }


def load(folder: Path, *, embedding: bool = False) -> tuple[keras.Model, list[str]]:
    """Reads what `save` wrote.

    Args:
        folder: of the model.
        embedding: keeps the model's second output.

    Returns:
        The model from pixels in [0, 255] to probabilities, or to [probabilities, embedding], and the class names in
        their order.

    Raises:
        DataError: the folder has no model.
        ModelError: a file of the model is damaged, or the model does not fit the class names.
    """
    if not (folder / "model.keras").is_file():
        raise DataError(f"{folder}: no model here; `dvc repro` trains one, `dvc pull` fetches one")
    if not (folder / "classes.json").is_file():
        raise DataError(f"{folder}: the model's classes.json is missing; `dvc repro` or `dvc pull` brings it back")
    hashing.check(folder)
    try:
        classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        model = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile) as error:
        line = first_line(error, MAX_LINE)
        raise ModelError(f"{folder}: its model is damaged or of another version: {line}; train it again") from error
    probs = model.outputs[0]
    if probs.shape[-1] != len(classes):
        raise ModelError(f"{folder}: the model has {probs.shape[-1]} classes, but classes.json names {len(classes)}")
    return model if embedding else keras.Model(model.inputs[0], probs, name=model.name), classes


def export(model: keras.Model, path: Path, *, extractors: Sequence[Path] = ()) -> None:
    """Writes a model as a graph: `pixels` (1, side, side, 3) in [0, 255] to `probabilities` and `embedding`.

    The arguments are those of `save`.
    """
    names = ("probabilities", "embedding")
    if not extractors:
        pixels = keras.Input(batch_shape=(1, *model.input_shape[1:]), name="pixels")
        litert.export(dict(zip(names, with_embedding(model)(pixels), strict=True)), pixels, path)
        return
    read = [layer.output for layer in model.layers if layer.name in READ]
    head = keras.Model(read, dict(zip(names, with_embedding(model).outputs, strict=True)))
    network = model.get_layer(NETWORK) if len(read) > 1 else None
    litert.export_head(head, path, extractors=extractors, network=network)


def with_embedding(model: keras.Model) -> keras.Model:
    """Returns the model with a second output, the embedding by which photos are compared, of length at most 1.

    Args:
        model: from pixels or features to probabilities, its last dense layer being the one that gives them. Its
            embedding is the input of this layer, scaled to length 1. A model that has two outputs is returned as it is.

    Returns:
        A model from the same input to [probabilities, embedding], of shape (batch, classes) and (batch, D).
    """
    if len(model.outputs) > 1:
        return model
    last_dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)][-1]
    embedding = keras.layers.UnitNormalization(name="embedding")(last_dense.input)
    return keras.Model(model.inputs[0], [model.outputs[0], embedding], name=model.name)
