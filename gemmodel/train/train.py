"""The architectures by name: what the train stage and each trial of a search train in the same way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from gemmodel.core.params import AugmentParams, BaseParams, EmbedParams, ModelParams, TrainParams
from gemmodel.train import fine_tuning, fit, fusion_head


def train_model(
    model: ModelParams,
    params: TrainParams,
    augment: AugmentParams,
    embed: EmbedParams,
    *,
    base: BaseParams,
    split: Path,
    augmented: Path,
    features: Path,
    hierarchy: Mapping[str, str],
    backup: Path,
    logs: Path,
    on_epoch: fit.OnEpoch,
    spread: tf.distribute.Strategy | None = None,
) -> fit.TrainingResult:
    """Fits the classifier that `model.name` names.

    Args:
        model: the name, and each architecture's own section.
        params: how it is fitted.
        augment: the augmentation on the fly.
        embed: the extractor of `fusion`.
        base: seed and image size.
        split: holds `train` and `val`, a folder a class each.
        augmented: holds the copies on disk, a folder a class.
        features: holds `train.npz` and `val.npz`, which `fusion` learns from.
        hierarchy: the mineral class of each gem.
        backup: a folder for the state of unfinished trainings.
        logs: a folder for what TensorBoard shows.
        on_epoch: called after each epoch.
        spread: over which devices networks are fitted; None: one.

    Returns:
        The model from pixels to probabilities, and what there is to tell of it.
    """
    shared: dict[str, Any] = {"base": base, "on_epoch": on_epoch}
    if model.name == "fusion" and model.fusion.fine_tune_epochs:
        shared |= {"folder": features, "split": split, "backup": backup}
        return fine_tuning.fine_tune(model.fusion, params, augment, embed, **shared)
    if model.name == "fusion":
        shared |= {"folder": features, "hierarchy": hierarchy}
        return fusion_head.train_fusion(model.fusion, params, embed, **shared)
    shared |= {"split": split, "augmented": augmented, "backup": backup, "logs": logs, "spread": spread}
    return fit.train_network(getattr(model, model.name), params, augment, **shared)
