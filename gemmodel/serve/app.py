"""A web page that names the gem of a photo. Uploads stay in memory; only feedback, with consent, is written to disk."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from gemmodel.core import files
from gemmodel.core.errors import DataError
from gemmodel.figures import tiles
from gemmodel.images import crop, decode
from gemmodel.serve import about, feedback, predictions, stones, uploads
from gemmodel.serve.predictions import Prediction
from gemmodel.serve.predictor import CurrentPredictor, Predictor
from gemmodel.serve.recent import ModelPhoto, RecentPhotos
from gemmodel.serve.uploads import RefusedError, Uploads

PAGE = Path(__file__).parent / "page"
MAX_STONE_PHOTOS = 20
THUMBNAIL_SIDE = 160  # pixels
EXAMPLE_SIDE = 800  # pixels
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; form-action 'none'; "
    "base-uri 'none'; object-src 'none'",
    "Permissions-Policy": "camera=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
T = TypeVar("T")


class GemApp:
    """The page and the requests that it makes, each of them by one model: the one that is in its folder then."""

    def __init__(
        self, model: Path, *, photos: Path, manifest: Path, examples: Path, feedback: Path | None, per_minute: int
    ) -> None:
        """Loads the model; the arguments are those of `create_app`."""
        self.model = CurrentPredictor(model)
        self.explain_limiter = anyio.CapacityLimiter(1)
        self.predict_limiter = anyio.CapacityLimiter(os.cpu_count() or 1)  # more decoders would take more memory
        self.recent = RecentPhotos()
        self.photos = photos
        self.reference: dict[str, str] = {}  # the files of all models so far, by digest
        for file in self.model.get().metadata.reference.files.tolist():
            self._reference(file)
        self.properties = read_properties(manifest)
        self.examples = {_digest(photo): (gem, photo) for gem, photo in about.find_examples(examples)}
        self.feedback_folder = feedback
        self.feedback_limiter = anyio.CapacityLimiter(1)
        self.uploads = Uploads(
            max_bytes=uploads.MAX_BYTES,
            address_bytes=2 * uploads.MAX_BYTES,
            total_bytes=16 * uploads.MAX_BYTES,
            per_minute=per_minute,
        )

    async def page(self, request: Request) -> Response:
        """Returns the page."""
        return FileResponse(PAGE / "index.html")

    async def about(self, request: Request) -> Response:
        """Returns what the page says of the model, as JSON: see `about.describe`."""
        model = await anyio.to_thread.run_sync(self.model.get)
        files = model.metadata.reference.files.tolist()
        return JSONResponse(
            about.describe(model.metadata, [self._reference(file) for file in files] if self.photos.is_dir() else [])
            | {
                "model": model.digest,
                "examples": [{"gem": gem, "photo": f"example/{key}"} for key, (gem, _) in self.examples.items()],
                "feedback": self.feedback_folder is not None,
            }
        )

    async def predict(self, request: Request) -> Response:
        """Returns the prediction for the photo in the request's body, as JSON.

        The object has the attributes of `Prediction`, `text`, `certainty` and `details` (of `predictions`), the
        digest of the `model`, the gem's `properties`, for each of the nearest photos its address as `photo`, `token`,
        by which `explain` and `stone` name the photo, and `box`: the part of the photo that Otsu's method proposes as
        the stone (left, top, right, bottom in [0, 1]), or null.
        """
        photo, box = await self._process_upload(request, self._predict)
        prediction = predictions.to_predictions(photo.probabilities, photo.embedding, photo.model.metadata)[0]
        return JSONResponse(self._answer(prediction, photo.model) | {"token": self.recent.add(photo), "box": box})

    async def stone(self, request: Request) -> Response:
        """Returns one prediction for several photos of one stone, which the parameters `token` name, as JSON."""
        await self.uploads.count(request)
        tokens = request.query_params.getlist("token")
        if not 1 <= len(tokens) <= MAX_STONE_PHOTOS:
            raise HTTPException(400, f"name 1 to {MAX_STONE_PHOTOS} photos of a stone by token=")
        photos = [self._recent_photo(token) for token in tokens]
        if len({photo.model for photo in photos}) > 1:
            raise HTTPException(410, "the model was replaced between these photos; send them again")
        probabilities, embedding = (np.concatenate([photo[i] for photo in photos]) for i in (1, 2))
        model = photos[0].model
        return JSONResponse(self._answer(stones.join(probabilities, embedding, model.metadata), model))

    async def explain(self, request: Request) -> Response:
        """Returns why the model answers as it does for the photo of a token, as `Predictor.explain` does.

        The body is its picture, as a JPEG. The header `Explanation` has its sentences, as URL-encoded JSON: of each the
        `text` in English, and the `key` and `values` of the page's sentences (`explain.cues.Sentence`).
        """
        await self.uploads.count(request)
        photo = self._recent_photo(request.path_params["token"])
        picture, reasons = await anyio.to_thread.run_sync(_explain, photo, limiter=self.explain_limiter)
        return Response(picture, media_type="image/jpeg", headers={"Explanation": quote(json.dumps(reasons))})

    async def feedback(self, request: Request) -> Response:
        """Saves the photo in the request's body under the name of its gem, which the parameter `gem` gives."""
        if self.feedback_folder is None:
            raise HTTPException(404, "this page takes no feedback")
        if request.query_params.get("consent") != "yes":
            raise HTTPException(400, "a photo is stored only with consent=yes")
        gem = request.query_params.get("gem", "")
        await self._process_upload(request, lambda photo: self._save(photo, gem), self.feedback_limiter)
        return Response(status_code=204)

    async def reference_photo(self, request: Request) -> Response:
        """Returns a thumbnail of the reference photo with a digest, as a JPEG."""
        file = self.reference.get(request.path_params["digest"])
        return await _picture(self.photos / file if file else None, THUMBNAIL_SIDE)

    async def example(self, request: Request) -> Response:
        """Returns an example to try, as a JPEG."""
        _, path = self.examples.get(request.path_params["digest"], (None, None))
        return await _picture(path, EXAMPLE_SIDE)

    def _predict(self, photo: bytes) -> tuple[ModelPhoto, list[float] | None]:
        image, model = decode.read(uploads.check(photo)), self.model.get()
        pixels = model.to_input(image)
        box = crop.otsu_box(image)
        fractions = box and [edge / side for edge, side in zip(box, 2 * image.size, strict=True)]
        return ModelPhoto(pixels, *model.outputs(pixels), model), fractions

    def _answer(self, prediction: Prediction, model: Predictor) -> dict[str, Any]:
        nearest = [asdict(neighbour) | {"photo": self._reference(neighbour.file)} for neighbour in prediction.nearest]
        return asdict(prediction) | {
            "model": model.digest,
            "text": predictions.to_text(prediction),
            "certainty": predictions.certainty(prediction),
            "details": predictions.to_details(prediction),
            "nearest": nearest if self.photos.is_dir() else [],
            "properties": self.properties.get(prediction.gem, {}),
        }

    def _reference(self, file: str) -> str:
        """Returns a reference photo's address, which later models and servers have for no other photo."""
        digest = _digest(file)
        self.reference[digest] = file
        return f"reference/{digest}"

    def _save(self, photo: bytes, gem: str) -> None:
        assert self.feedback_folder
        uploads.check(photo)
        feedback.save(photo, gem, self.feedback_folder, classes=self.model.get().metadata.classes)

    def _recent_photo(self, token: str) -> ModelPhoto:
        if photo := self.recent.get(token):
            return photo
        raise HTTPException(410, "the photo is no longer in memory; send it again")

    async def _process_upload(
        self, request: Request, process: Callable[[bytes], T], limiter: anyio.CapacityLimiter | None = None
    ) -> T:
        """Returns what a function makes of the request's body; the function runs in a thread."""
        try:
            async with self.uploads.read(request) as photo:
                return await anyio.to_thread.run_sync(process, photo, limiter=limiter or self.predict_limiter)
        except feedback.FolderFullError as error:
            raise _refused(507, error) from None
        except RefusedError as error:
            raise _refused(400, error) from None
        except DataError as error:
            key = "too_much_memory" if isinstance(error, decode.TooMuchMemoryError) else "damaged"
            raise _refused(400, RefusedError(str(error), key)) from None
        except Exception as error:
            if decode.is_shortage(error):
                headers = {"Retry-After": str(uploads.RETRY_AFTER_S)}
                raise HTTPException(503, "too little memory or too many open files; try again", headers) from None
            if isinstance(error, OSError):
                raise _refused(507, RefusedError(f"not stored: {error.strerror or error}", "not_stored")) from None
            raise


def create_app(
    model: Path, *, photos: Path, manifest: Path, examples: Path, feedback: Path | None, per_minute: int
) -> Starlette:
    """Returns the page and the requests that it makes, as a web application.

    Args:
        model: folder of the model.
        photos: the clean folder, from which reference photos are shown; may be missing.
        manifest: of the crawl, with the properties of each gem; may be missing.
        examples: class folders of photos to try; may be missing.
        feedback: folder for photos that people name and agree to give away; None takes none.
        per_minute: requests that one address may send per minute, without those for the page and its pictures.

    Raises:
        DataError: there is no model in the folder.
    """
    app = GemApp(
        model, photos=photos, manifest=manifest, examples=examples, feedback=feedback, per_minute=per_minute
    )  # fmt: skip
    return Starlette(
        routes=[
            Route("/", app.page),
            Route("/about", app.about),
            Route("/predict", app.predict, methods=["POST"]),
            Route("/stone", app.stone),
            Route("/explain/{token}", app.explain),
            Route("/feedback", app.feedback, methods=["POST"]),
            Route("/reference/{digest}", app.reference_photo),
            Route("/example/{digest}", app.example),
            Mount("/", StaticFiles(directory=PAGE)),
        ],
        exception_handlers={HTTPException: _error_response},
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=_add_headers)],
    )


def read_properties(manifest: Path) -> dict[str, Mapping[str, str]]:
    """Returns each gem's properties from the crawl's manifest, by gem; none where there is no manifest."""
    rows = files.read_jsonl(manifest) if manifest.is_file() else []
    return {row["gem"]: row["properties"] for row in rows if row.get("properties")}


def _digest(file: str | Path) -> str:
    return hashlib.sha256(os.fsencode(file)).hexdigest()[:16]


async def _picture(path: Path | None, side: int) -> Response:
    if path is None or not path.is_file():
        raise HTTPException(404, "no such photo")
    try:
        return Response(await anyio.to_thread.run_sync(_thumbnail, path, side), media_type="image/jpeg")
    except DataError as error:
        raise HTTPException(404, str(error)) from None


async def _add_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


async def _error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail if isinstance(error.detail, dict) else {"error": error.detail}
    return JSONResponse(message, error.status_code, error.headers)


def _refused(status: int, error: RefusedError) -> HTTPException:
    detail: Any = {"error": str(error), "key": error.key, "values": error.values}
    return HTTPException(status, detail)


def _explain(photo: ModelPhoto) -> tuple[bytes, list[dict[str, Any]]]:
    picture, sentences = photo.model.explainer.explain_pixels(photo.pixels)
    return _jpeg(picture), [sentence.to_json() for sentence in sentences]


def _thumbnail(path: Path, side: int) -> bytes:
    return _jpeg(tiles.thumbnail(path, side))


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
