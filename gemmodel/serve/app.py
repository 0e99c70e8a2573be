"""A web page that names the gem of a photo. Photos stay in memory: none is written to disk or logged."""

import asyncio
import io
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

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
from gemmodel.images import decode
from gemmodel.serve import predictions
from gemmodel.serve.predictor import Predictor

PAGE = Path(__file__).parent / "page"
MOST_BYTES = 20_000_000  # of an upload; a phone's photo has 2 to 8 million
CLIENTS = 64  # at once; more are answered 503, so uploads never take more than 1.3 GB
SECONDS = 30  # that an upload may take
MOST_PIXELS = 50_000_000  # above what phones make; decoded it takes 150 MB
THUMBNAIL = 160  # pixels
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; form-action 'none'",
    "Permissions-Policy": "camera=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def app(folder: Path, *, photos: Path, manifest: Path, per_minute: int) -> Starlette:
    """Returns the page and what it asks, as a web application.

    Args:
        folder: of the model.
        photos: where the photos lie that the model has learnt from, to show those that are alike; may be missing.
        manifest: of the crawl, with the properties of each gem; may be missing.
        per_minute: photos that one address may send.

    Raises:
        DataError: there is no model in the folder.
    """
    predictor, explainer = Predictor(folder), Predictor(folder, workers=1)  # why takes long, and holds no answer up
    known = predictor.knowledge.reference.files.tolist()
    properties = facts(manifest)
    limiter, quota = MovingWindowRateLimiter(MemoryStorage()), RateLimitItemPerMinute(per_minute)
    explaining = anyio.CapacityLimiter(1)

    async def upload(request: Request) -> bytes:
        address = request.client.host if request.client else ""
        if not await limiter.hit(quota, address):
            raise HTTPException(429, f"more than {per_minute} photos a minute; wait a little", {"Retry-After": "60"})
        body = bytearray()
        try:
            async with asyncio.timeout(SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > MOST_BYTES:
                        raise HTTPException(413, f"the file is larger than {MOST_BYTES // 1_000_000} MB")
        except TimeoutError:
            raise HTTPException(408, f"the upload took more than {SECONDS} seconds") from None
        except ClientDisconnect:
            raise HTTPException(400, "the upload was broken off") from None
        return bytes(body)

    def told(data: bytes) -> dict[str, Any]:
        answer = next(predictor.predict([_checked(data)]))
        if isinstance(answer, DataError):
            raise answer
        nearest = [asdict(near) | {"photo": f"known/{known.index(near.file)}"} for near in answer.nearest]
        return asdict(answer) | {
            "text": predictions.to_text(answer),
            "nearest": nearest if photos.is_dir() else [],
            "properties": properties.get(answer.gem, {}),
        }

    def why(data: bytes) -> bytes:
        return _jpeg(explainer.why(_checked(data)))

    async def asked(request: Request, ask: Callable[[bytes], Any], **limit: Any) -> Any:
        try:
            return await anyio.to_thread.run_sync(partial(ask, await upload(request)), **limit)
        except DataError as error:
            raise HTTPException(400, str(error)) from None

    async def answer(request: Request) -> Response:
        return JSONResponse(await asked(request, told))

    async def map_of_why(request: Request) -> Response:
        return Response(await asked(request, why, limiter=explaining), media_type="image/jpeg")

    async def known_photo(request: Request) -> Response:
        place = request.path_params["place"]
        path = photos / known[place] if place < len(known) else None
        if path is None or not path.is_file():
            raise HTTPException(404, "no such photo")
        return Response(await anyio.to_thread.run_sync(_thumbnail, path), media_type="image/jpeg")

    async def page(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/answer", answer, methods=["POST"]),
            Route("/why", map_of_why, methods=["POST"]),
            Route("/known/{place:int}", known_photo),
            Mount("/", StaticFiles(directory=PAGE)),
        ],
        exception_handlers={HTTPException: _refused},
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=_with_headers)],
    )


def serve(application: Starlette, *, host: str, port: int) -> None:
    """Runs the application until it is interrupted. Who asks what is not logged."""
    print(f"http://{host}:{port}", flush=True)
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    uvicorn.run(application, host=host, port=port, limit_concurrency=CLIENTS, **quiet)


def facts(manifest: Path) -> dict[str, Mapping[str, str]]:
    """Returns each gem's properties, as its page told them; none where there is no manifest."""
    lines = files.read_jsonl(manifest) if manifest.is_file() else []
    return {line["gem"]: line["properties"] for line in lines if line.get("properties")}


async def _with_headers(request: Request, ask: RequestResponseEndpoint) -> Response:
    response = await ask(request)
    response.headers.update(HEADERS)
    return response


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _checked(data: bytes) -> io.BytesIO:
    """Returns the file if it is a picture of no more pixels than a phone makes."""
    try:
        with Image.open(io.BytesIO(data), formats=decode.FORMATS) as image:
            pixels = image.width * image.height
    except Exception:  # of many kinds, as the headers of pictures
        raise DataError("this is not a photo that can be read: send JPEG, PNG, WebP, GIF, BMP or TIFF") from None
    if pixels > MOST_PIXELS:
        raise DataError(f"{pixels / 1e6:.0f} megapixels are more than {MOST_PIXELS / 1e6:.0f}; make the photo smaller")
    return io.BytesIO(data)


def _thumbnail(path: Path) -> bytes:
    with Image.open(path) as photo:
        photo.thumbnail((THUMBNAIL, THUMBNAIL))
        return _jpeg(photo.convert("RGB"))


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
