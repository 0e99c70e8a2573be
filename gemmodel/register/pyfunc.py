"""The registered model, from photos to answers. MLflow runs this file to make it ("models from code")."""

import base64
import io
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from gemmodel.core.errors import DataError
from gemmodel.serve.predictor import Photo, Predictor

MOST_BYTES = 50_000_000  # of a photo's file; no camera's JPEG is as large


class Classifier(PythonModel):
    """A trained model that takes photos as they are."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads what `archive.save` wrote."""
        self.predictor = Predictor(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Names the gem of each photo, cropped as the training photos were.

        Args:
            context: not used.
            model_input: a column `photo`: a file's bytes, as they are or as base64 text, in a format that Pillow
                reads; or a local file as a `pathlib.Path`, which no request to a server can hold.
            params: `top_k`, how many gems are named, at least 1.

        Returns:
            A row a photo: `gem`, its `mineral_class` and `probability`, names and probabilities of the most probable
            gems, the prediction set (`prediction_set`), and whether the photo is unlike all known gems (`unknown`).

        Raises:
            MlflowException: a photo cannot be read, and which; a server answers with status 400.
        """
        top = int((params or {}).get("top_k", 5))
        try:
            if top < 1:
                raise DataError(f"top_k: {top} is less than 1")
            photos = [_photo(row, photo) for row, photo in enumerate(model_input["photo"])]
            told = []
            for row, answer in enumerate(self.predictor.predict(photos, top=top)):
                if isinstance(answer, DataError):
                    raise DataError(f"photo {row}: {answer}")
                told.append(answer)
        except DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return pd.DataFrame(
            {
                "gem": [answer.gem for answer in told],
                "mineral_class": [answer.mineral_class for answer in told],
                "probability": [answer.probability for answer in told],
                "top": [[gem for gem, _ in answer.top] for answer in told],
                "top_probabilities": [[probability for _, probability in answer.top] for answer in told],
                "prediction_set": [answer.prediction_set for answer in told],
                "unknown": [answer.unknown for answer in told],
            }
        )


def _photo(row: int, photo: Any) -> Photo:
    if isinstance(photo, Path):
        return photo
    if isinstance(photo, str):
        if "://" in photo[:16]:
            raise DataError(f"photo {row}: a URL is not fetched; send the file's bytes as base64")
        _refuse_large(row, len(photo) * 3 // 4)
        try:
            photo = base64.b64decode(photo, validate=True)
        except ValueError:
            raise DataError(
                f"photo {row}: not base64; send the file's bytes as base64 or, in Python, as bytes or a pathlib.Path"
            ) from None
    if not isinstance(photo, bytes):
        raise DataError(f"photo {row}: a {type(photo).__name__} is no photo; send the file's bytes as base64")
    _refuse_large(row, len(photo))
    return io.BytesIO(photo)


def _refuse_large(row: int, size: int) -> None:
    if size > MOST_BYTES:
        raise DataError(f"photo {row}: {size / 1e6:.0f} MB are more than the {MOST_BYTES / 1e6:.0f} MB of a photo")


set_model(Classifier())
