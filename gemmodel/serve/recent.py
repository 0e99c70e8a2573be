"""The latest photos of the web page as the model saw them, in memory only, so that a browser sends each photo once."""

import asyncio
import secrets
import time
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from gemmodel.serve.predictor import Predictor

MAX_PHOTOS = 256  # of 150 kB each at 224 pixels
MAX_AGE_S = 600


class ModelPhoto(NamedTuple):
    """A photo as a model's input, uint8 (side, side, 3), and the model's outputs, (1, classes) and (1, D)."""

    pixels: np.ndarray
    probabilities: np.ndarray
    embedding: np.ndarray
    model: Predictor


class RecentPhotos:
    """Photos by a random token, which only the browser that sent a photo has. Used in the thread of an event loop."""

    def __init__(self, *, max_photos: int = MAX_PHOTOS, max_age_s: float = MAX_AGE_S) -> None:
        self._photos: OrderedDict[str, tuple[float, ModelPhoto]] = OrderedDict()  # oldest first
        self._max_photos, self._max_age_s = max_photos, max_age_s

    def add(self, photo: ModelPhoto) -> str:
        """Keeps a photo, removes what is too old or too many, and returns the photo's token."""
        self.expire()
        while len(self._photos) >= self._max_photos:
            self._photos.popitem(last=False)
        token = secrets.token_urlsafe(16)
        self._photos[token] = time.monotonic(), photo
        asyncio.get_running_loop().call_later(self._max_age_s + 1, self.expire)
        return token

    def get(self, token: str) -> ModelPhoto | None:
        """Returns the photo of a token; None where it has been removed."""
        self.expire()
        entry = self._photos.get(token)
        return entry and entry[1]

    def expire(self) -> None:
        """Removes photos that are too old."""
        oldest = time.monotonic() - self._max_age_s
        while self._photos and next(iter(self._photos.values()))[0] < oldest:
            self._photos.popitem(last=False)
