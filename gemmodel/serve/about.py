"""What the web page says of its model before any photo: what it was trained on, and photos to try."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemmodel.core import image_folder
from gemmodel.models.metadata import ModelMetadata

PICTURES_PER_GEM = 3
MAX_EXAMPLES = 6


def describe(metadata: ModelMetadata, reference: Sequence[str]) -> dict[str, Any]:
    """Returns what a model was trained on, as JSON values.

    Args:
        metadata: of the model.
        reference: the addresses of its reference photos; empty where they cannot be shown.

    Returns:
        `sources`, as `crawl.source` names them, `rendered` (whether the model was trained on rendered pictures) and
        `photos`, their number; null where the model's folder does not record them. `gems`: each gem's name,
        mineral class, number of photos and the addresses of some of its training photos.
    """
    training = metadata.training
    pictures: dict[str, list[str]] = {gem: [] for gem in metadata.classes}
    for address, label in zip(reference, metadata.reference.labels, strict=False):
        if len(shown := pictures[metadata.classes[label]]) < PICTURES_PER_GEM:
            shown.append(address)
    return {
        "sources": training and training.sources,
        "rendered": training and training.rendered,
        "photos": training and sum(training.photos.values()),
        "gems": [
            {
                "gem": gem,
                "mineral_class": metadata.hierarchy[gem],
                "photos": training and training.photos.get(gem),
                "pictures": pictures[gem],
            }
            for gem in metadata.classes
        ],
    }


def find_examples(folder: Path) -> list[tuple[str, Path]]:
    """Returns the first photo of at most MAX_EXAMPLES evenly spaced classes of a folder; none where it is missing."""
    classes = list(image_folder.list_images(folder).items()) if folder.is_dir() else []
    count = min(MAX_EXAMPLES, len(classes))
    return [(gem, photos[0]) for gem, photos in (classes[i * len(classes) // count] for i in range(count))]
