"""A web page that names the gem of a photo. Uploads stay in memory: none is written to disk or logged."""

import asyncio
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import uvicorn
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from gemmodel.core import files
from gemmodel.core.errors import DataError
from gemmodel.figures import tiles
from gemmodel.images import decode
from gemmodel.serve import predictions
from gemmodel.serve.predictor import Predictor

PAGE = Path(__file__).parent / "page"
MAX_BYTES = 20_000_000  # of an upload; a phone's photo has 2 to 8 million
MAX_CLIENTS = 64  # at once; further ones get status 503, so uploads never take more than 1.3 GB
UPLOAD_TIMEOUT_S = 30
MAX_PIXELS = 50_000_000  # more than a phone's photo has; decoded it takes 150 MB
THUMBNAIL_SIDE = 160  # pixels
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; form-action 'none'",
    "Permissions-Policy": "camera=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
T = TypeVar("T")


class GemApp:
    """The page and the requests that it makes, by one model."""

    def __init__(self, model: Path, *, photos: Path, manifest: Path, per_minute: int) -> None:
        """Loads the model; the arguments are those of `create_app`."""
        self.predictor = Predictor(model)
        self.explainer = Predictor(model, workers=1)  # an explanation takes long, and must not delay predictions
        self.explain_limiter = anyio.CapacityLimiter(1)
        self.photos = photos
        self.reference_files: list[str] = self.predictor.metadata.reference.files.tolist()
        self.properties = read_properties(manifest)
        self.quota = RateLimitItemPerMinute(per_minute)
        self.rate_limiter = MovingWindowRateLimiter(MemoryStorage())

    async def page(self, request: Request) -> Response:
        """Returns the page."""
        return FileResponse(PAGE / "index.html")

    async def predict(self, request: Request) -> Response:
        """Returns the prediction for the photo in the request's body, as JSON.

        The object has the attributes of `Prediction`, `text`, `certainty` and `details` (of `predictions`), the gem's
        `properties`, and for each of the nearest photos its address as `photo`.
        """
        return JSONResponse(await self._process_upload(request, self._predict))

    async def explain(self, request: Request) -> Response:
        """Returns why the model answers as it does for the photo in the request's body, as `Predictor.explain` does.

        The body is its picture, as a JPEG. The header `Explanation` has its sentences, as URL-encoded JSON.
        """
        picture, sentences = await self._process_upload(request, self._explain, self.explain_limiter)
        return Response(picture, media_type="image/jpeg", headers={"Explanation": quote(json.dumps(sentences))})

    async def reference_photo(self, request: Request) -> Response:
        """Returns a thumbnail of the reference photo with an index, as a JPEG."""
        index = request.path_params["index"]
        path = self.photos / self.reference_files[index] if index < len(self.reference_files) else None
        if path is None or not path.is_file():
            raise HTTPException(404, "no such photo")
        return Response(await anyio.to_thread.run_sync(_thumbnail, path), media_type="image/jpeg")

    def _predict(self, photo: bytes) -> dict[str, Any]:
        prediction = next(self.predictor.predict([_check(photo)]))
        if isinstance(prediction, DataError):
            raise prediction
        nearest = [
            asdict(neighbour) | {"photo": f"reference/{self.reference_files.index(neighbour.file)}"}
            for neighbour in prediction.nearest
        ]
        return asdict(prediction) | {
            "text": predictions.to_text(prediction),
            "certainty": predictions.certainty(prediction),
            "details": predictions.to_details(prediction),
            "nearest": nearest if self.photos.is_dir() else [],
            "properties": self.properties.get(prediction.gem, {}),
        }

    def _explain(self, photo: bytes) -> tuple[bytes, list[str]]:
        picture, sentences = self.explainer.explain(_check(photo))
        return _jpeg(picture), sentences

    async def _process_upload(
        self, request: Request, process: Callable[[bytes], T], limiter: anyio.CapacityLimiter | None = None
    ) -> T:
        """Returns what a function makes of the request's body; the function runs in a thread."""
        photo = await self._read_upload(request)
        try:
            return await anyio.to_thread.run_sync(process, photo, limiter=limiter)
        except DataError as error:
            raise HTTPException(400, str(error)) from None

    async def _read_upload(self, request: Request) -> bytes:
        address = request.client.host if request.client else ""
        if not await self.rate_limiter.hit(self.quota, address):
            message = f"more than {self.quota.amount} requests per minute; wait a minute"
            raise HTTPException(429, message, {"Retry-After": "60"})
        body = bytearray()
        try:
            async with asyncio.timeout(UPLOAD_TIMEOUT_S):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise HTTPException(413, f"the file is larger than {MAX_BYTES // 1_000_000} MB")
        except TimeoutError:
            raise HTTPException(408, f"the upload took more than {UPLOAD_TIMEOUT_S} seconds") from None
        except ClientDisconnect:
            raise HTTPException(400, "the upload is incomplete") from None
        return bytes(body)


def create_app(model: Path, *, photos: Path, manifest: Path, per_minute: int) -> Starlette:
    """Returns the page and the requests that it makes, as a web application.

    Args:
        model: folder of the model.
        photos: the clean folder, from which the nearest reference photos are shown; may be missing.
        manifest: of the crawl, with the properties of each gem; may be missing.
        per_minute: requests with a photo that one address may send per minute.

    Raises:
        DataError: there is no model in the folder.
    """
    app = GemApp(model, photos=photos, manifest=manifest, per_minute=per_minute)
    return Starlette(
        routes=[
            Route("/", app.page),
            Route("/predict", app.predict, methods=["POST"]),
            Route("/explain", app.explain, methods=["POST"]),
            Route("/reference/{index:int}", app.reference_photo),
            Mount("/", StaticFiles(directory=PAGE)),
        ],
        exception_handlers={HTTPException: _error_response},
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=_add_headers)],
    )


def serve(app: Starlette, *, host: str, port: int) -> None:
    """Serves the application until it is interrupted. No request is logged."""
    print(f"http://{host}:{port}", flush=True)
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    uvicorn.run(app, host=host, port=port, limit_concurrency=MAX_CLIENTS, **quiet)


def read_properties(manifest: Path) -> dict[str, Mapping[str, str]]:
    """Returns each gem's properties from the crawl's manifest, by gem; none where there is no manifest."""
    rows = files.read_jsonl(manifest) if manifest.is_file() else []
    return {row["gem"]: row["properties"] for row in rows if row.get("properties")}


async def _add_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


async def _error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _check(photo: bytes) -> io.BytesIO:
    """Returns an uploaded file, open, if its header is that of a photo with at most MAX_PIXELS."""
    try:
        decode.header(io.BytesIO(photo), max_pixels=MAX_PIXELS)
    except DataError as error:
        kinds = f"JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF of at most {MAX_PIXELS // 1_000_000} megapixels"
        raise DataError(f"{error}; send a {kinds}") from None
    return io.BytesIO(photo)


def _thumbnail(path: Path) -> bytes:
    return _jpeg(tiles.thumbnail(path, THUMBNAIL_SIDE))


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
