"""A model over HTTP in the format of MLflow's scoring server, with bounded bodies.

The code is that of this project, as for the web page: code that a registered model brings does not run.
"""

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel, scoring_server
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gemmodel.register.pyfunc import Classifier
from gemmodel.register.registration import SIGNATURE
from gemmodel.serve.predictor import CurrentPredictor
from gemmodel.serve.uploads import Uploads

MAX_BYTES = 32_000_000  # of a body; MLflow and pandas take some eight times as much memory for it
# Of a body, two for each of 1,000 photos: a table of as many rows as columns takes the square of their number.
MAX_VALUES = 2_100
SEPARATORS = b",[{"  # what JSON has between values, and base64 has not


class BoundedBody:
    """A middleware that reads the body of a request before the application does, and refuses one that takes too much.

    Parquet is refused too, since it is compressed, and CSV, to whose errors MLflow appends a stack trace.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its whole body, or refuses it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            async with self.uploads.read(Request(scope, receive)) as body:
                if sum(map(body.count, SEPARATORS)) > MAX_VALUES:
                    raise HTTPException(413, f"the body has more than {MAX_VALUES} values")
                content_type = Headers(scope=scope).get("content-type", "").lower()
                if "parquet" in content_type or "csv" in content_type:
                    raise HTTPException(415, "CSV and Parquet are not read; send JSON")
                messages = iter([{"type": "http.request", "body": body, "more_body": False}])

                async def replay() -> Message:
                    return next(messages, None) or await receive()

                await self.app(scope, replay, send)
        except HTTPException as error:
            await _error(error.status_code, error.detail, error.headers)(scope, receive, send)


def create_app(model: Path) -> ASGIApp:
    """Returns the application of MLflow's scoring server for a model folder.

    Raises:
        DataError: there is no model in the folder.
        ModelError: a file of the model is damaged.
    """
    classifier = Classifier()
    classifier.model = CurrentPredictor(model)
    implementation = SimpleNamespace(predict=partial(classifier.predict, None))
    app = scoring_server.init(PyFuncModel(Model(signature=SIGNATURE), implementation))
    for error in (RecursionError, ValueError):  # of JSON with many brackets or digits, which MLflow does not expect
        app.add_exception_handler(error, _unreadable)
    return BoundedBody(app, Uploads(max_bytes=MAX_BYTES, address_bytes=MAX_BYTES, total_bytes=2 * MAX_BYTES))


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error_code": HTTPStatus(status).name, "message": message}, status, headers)


async def _unreadable(request: Request, error: Exception) -> Response:
    return _error(400, f"the body cannot be read: {type(error).__name__}")
