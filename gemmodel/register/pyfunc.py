"""The registered model, from photos to predictions. MLflow runs this file to create it ("models from code")."""

import base64
import io
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from gemmodel.core.errors import DataError
from gemmodel.serve.predictor import CurrentPredictor, Photo

MAX_BYTES = 50_000_000  # of a file; larger than any camera's JPEG


class Classifier(PythonModel):
    """A trained model whose input is a photo's file."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads what `saving.save` wrote."""
        self.model = CurrentPredictor(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Predicts the gem of each photo, cropped as the training photos were.

        Args:
            context: not used.
            model_input: a column `photo`: a file's bytes, as they are or as base64 text, in any of decode.FORMATS; or
                a local file as a `pathlib.Path`, which a request to a server cannot contain.
            params: `top_k`, the number of most probable gems to return, at least 1.

        Returns:
            One row per photo, with the input's index: `gem`, its `mineral_class` and `probability`, the names and
            probabilities of the most probable gems, the prediction set, and whether the photo is unlike all reference
            photos (`unknown`).

        Raises:
            MlflowException: a photo cannot be read; the message says which. A server responds with status 400.
        """
        top = (params or {}).get("top_k")
        top = 5 if top is None else int(top)
        try:
            if top < 1:
                raise DataError(f"top_k: {top} is less than 1")
            photos = [_photo(row, photo) for row, photo in enumerate(model_input["photo"])]
            predictions = []
            for row, prediction in enumerate(self.model.get().predict(photos, top=top)):
                if isinstance(prediction, DataError):
                    raise DataError(f"photo {row}: {prediction}")
                predictions.append(prediction)
        except DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return pd.DataFrame(
            {
                "gem": [prediction.gem for prediction in predictions],
                "mineral_class": [prediction.mineral_class for prediction in predictions],
                "probability": [prediction.probability for prediction in predictions],
                "top": [[gem for gem, _ in prediction.top] for prediction in predictions],
                "top_probabilities": [[probability for _, probability in prediction.top] for prediction in predictions],
                "prediction_set": [prediction.prediction_set for prediction in predictions],
                "unknown": [prediction.unknown for prediction in predictions],
            },
            index=model_input.index,
        )


def _photo(row: int, photo: Any) -> Photo:
    if isinstance(photo, Path):
        return photo
    if isinstance(photo, str):
        if "://" in photo[:16]:
            raise DataError(f"photo {row}: a URL is not fetched; send the file's bytes as base64")
        _check_size(row, len(photo) * 3 // 4)
        try:
            photo = base64.b64decode(photo, validate=True)
        except ValueError:
            raise DataError(
                f"photo {row}: not base64; send the file's bytes as base64 or, in Python, as bytes or a pathlib.Path"
            ) from None
    if not isinstance(photo, bytes):
        raise DataError(f"photo {row}: a {type(photo).__name__} is not a photo; send the file's bytes as base64")
    _check_size(row, len(photo))
    return io.BytesIO(photo)


def _check_size(row: int, size: int) -> None:
    if size > MAX_BYTES:
        raise DataError(f"photo {row}: {size / 1e6:.0f} MB are more than the maximum, {MAX_BYTES / 1e6:.0f} MB")


set_model(Classifier())
