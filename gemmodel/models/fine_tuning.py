"""Fine-tuning of fusion: the backbone learns the gems too, and the head is fitted anew on what it then sees."""

import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from gemmodel.errors import ParameterError
from gemmodel.models import backup as backups
from gemmodel.models import embeddings, features, fusion, fusion_training, pixels, training, transfer
from gemmodel.params import AugmentParams, BaseParams, EmbedParams, FusionParams, TrainParams


def fine_tune(
    model: FusionParams,
    params: TrainParams,
    augment: AugmentParams,
    embed: EmbedParams,
    *,
    base: BaseParams,
    folder: Path,
    split: Path,
    backup: Path,
    on_epoch: training.OnEpoch,
) -> training.Fitted:
    """Fits `fusion`, then fits it anew with a backbone that has learnt from the photos, and keeps the better one.

    A softmax head, trained on the cached features, and the backbone's last layers learn together from augmented
    photos, one view of each; batch norm keeps its statistics. The kernel head would teach a backbone little, since it
    knows each training photo by heart; it is fitted anew, in closed form, on the features of the tuned backbone.

    Args:
        model: the head, the epochs and learning rate of the tuning, and the layer from which on the backbone learns.
        params: how networks are fitted.
        augment: the augmentation of the photos that the backbone learns from.
        embed: the extractor.
        base: seed and image size.
        folder: holds `train.npz` and `val.npz`, features of the photos in `split`.
        split: holds `train` and `val`, a folder a class each.
        backup: a folder for the state of an unfinished tuning, which the next one goes on with (`train.resume`).
        on_epoch: called after each epoch of both heads; those of the tuning itself are told by Keras alone.

    Returns:
        The model of lower validation loss, and what there is to tell of it; figures of both heads by epoch.

    Raises:
        ParameterError: no layer of the backbone is named as `unfreeze` says, or the labels are separate.
    """
    if model.labels == "separate":
        raise ParameterError("model.fusion.fine_tune_epochs: labels: separate has no fine-tuning; set labels to all")
    before = fusion_training.train_fusion(model, params, embed, base=base, folder=folder, on_epoch=on_epoch)
    classes, history = before.classes, before.history
    single, *_ = fusion_training.train_fusion(
        replace(model, head="softmax"), params, replace(embed, views=("photo",)),
        base=base, folder=folder, on_epoch=lambda *_: None,
    )  # fmt: skip
    transfer.freeze(single.get_layer(embed.backbone), below=model.unfreeze)
    photos = pixels.batches(params, augment, base=base, split=split, augmentation_from="fly")
    state = backup / backups.key([base, model, params, augment, embed], photos.paths)
    training.fit(
        single, photos.train, photos.val,
        replace(params, epochs=model.fine_tune_epochs, learning_rate=model.learning_rate),
        labels=photos.labels,
        on_epoch=lambda *_: None,
        callbacks=[photos.reseed],
        backup=state / "fine_tuning.pickle" if params.resume else None,
    )  # fmt: skip

    extractor = features.extractor(embed, image_size=base.image_size)
    extractor.get_layer(embed.backbone).set_weights(single.get_layer(embed.backbone).get_weights())
    features.embed({split / part: state / f"{part}.npz" for part in ("train", "val")}, extractor, classes=classes)
    known, val = embeddings.read(state / "train.npz"), embeddings.read(state / "val.npz")
    done = len(history["loss"])
    if model.head == "kernel":
        head, found, _ = fusion_training.fit_kernel(
            model, known, val,
            train=params, on_epoch=lambda epoch, values: on_epoch(done + epoch, values), tuned=True,
        )  # fmt: skip
    else:
        head = single.get_layer("head")
        smoothed = keras.losses.CategoricalCrossentropy(label_smoothing=params.label_smoothing)
        head.compile(loss=smoothed, metrics=["accuracy"])
        found = training.History()
        for name, photos_of in {"": known, "val_": val}.items():
            one_hot = np.eye(len(classes), dtype=np.float32)[photos_of.labels]
            told = head.evaluate(photos_of.features, one_hot, verbose=0, return_dict=True)
            found |= {name + figure: [value] for figure, value in told.items()}
        on_epoch(done, {name: values[0] for name, values in found.items()})
    both = {name: history[name] + values for name, values in found.items()}
    kept = before._replace(history=both, chosen_by="val_loss")
    if min(found["val_loss"]) < min(history["val_loss"]):
        told_by = training.evidence(head, known[:3], val[:2])
        kept = kept._replace(model=fusion.attach(extractor, head), evidence=told_by)
    shutil.rmtree(state)
    return kept
