"""Uploads: their number, size, time and kind are limited, and they stay in memory."""

import asyncio
import io
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from gemmodel.core.errors import DataError
from gemmodel.images import decode
from gemmodel.serve.server import network

MAX_BYTES = 20_000_000  # of an upload; a phone's photo has 2 to 8 million
UPLOAD_TIMEOUT_S = 30
RETRY_AFTER_S = 5
MAX_PIXELS = 50_000_000  # more than most phones' photos have; decoded it takes 200 to 500 MB (docs/security.md)


class RefusedError(DataError):
    """Something sent is refused.

    Attributes:
        key: of its sentence in the page's languages.
        values: of the sentence's placeholders.
    """

    def __init__(self, message: str, key: str, **values: int) -> None:
        super().__init__(message)
        self.key, self.values = key, values


class Uploads:
    """Reads the bodies of requests, and counts requests by address."""

    def __init__(self, *, max_bytes: int, address_bytes: int, total_bytes: int, per_minute: int | None = None) -> None:
        """Sets the limits.

        Args:
            max_bytes: of one body.
            address_bytes: of the bodies of one address at once.
            total_bytes: of all bodies at once.
            per_minute: the requests of one address per minute; None does not count them.
        """
        self.max_bytes, self.address_bytes, self.total_bytes = max_bytes, address_bytes, total_bytes
        self.quota = per_minute and RateLimitItemPerMinute(per_minute)
        self.rate_limiter = MovingWindowRateLimiter(MemoryStorage())
        self.held: Counter[str] = Counter()  # bytes in memory, by address

    async def count(self, request: Request) -> None:
        """Counts a request of an address, and refuses one too many."""
        address = _address(request)
        if self.quota and not await self.rate_limiter.hit(self.quota, address):
            message = f"more than {self.quota.amount} requests per minute; wait a minute"
            oldest = (await self.rate_limiter.get_window_stats(self.quota, address)).reset_time
            raise HTTPException(429, message, {"Retry-After": str(max(1, math.ceil(oldest - time.time())))})

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Gives the body of a request, which counts; its memory counts until the context ends.

        Raises:
            HTTPException: it is too large or too slow, incomplete, or there are too many at once.
        """
        await self.count(request)
        if int(request.headers.get("content-length", 0)) > self.max_bytes:
            raise HTTPException(413, f"the file is larger than {self.max_bytes // 1_000_000} MB")
        address, body = _address(request), bytearray()
        try:
            try:
                async with asyncio.timeout(UPLOAD_TIMEOUT_S):
                    async for chunk in request.stream():
                        body += chunk
                        self.held[address] += len(chunk)
                        if self.held[address] > self.address_bytes or self.held.total() > self.total_bytes:
                            message = f"too many uploads at once; try again in {RETRY_AFTER_S} seconds"
                            raise HTTPException(503, message, {"Retry-After": str(RETRY_AFTER_S)})
            except TimeoutError:
                raise HTTPException(408, f"the upload took more than {UPLOAD_TIMEOUT_S} seconds") from None
            except ClientDisconnect:
                raise HTTPException(400, "the upload is incomplete") from None
            yield bytes(body)
        finally:
            self.held[address] -= len(body)
            if not self.held[address]:
                del self.held[address]


def _address(request: Request) -> str:
    return network(request.client.host if request.client else "")


def check(photo: bytes) -> io.BytesIO:
    """Returns an uploaded file, open, if its header is that of a photo with at most MAX_PIXELS.

    Raises:
        RefusedError: it is not.
    """
    try:
        decode.header(io.BytesIO(photo), max_pixels=MAX_PIXELS)
    except DataError as error:
        megapixels = MAX_PIXELS // 1_000_000
        key = "too_many_pixels" if isinstance(error, decode.TooManyPixelsError) else "not_a_photo"
        kinds = f"JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF of at most {megapixels} megapixels"
        raise RefusedError(f"{error}; send a {kinds}", key, megapixels=megapixels) from None
    return io.BytesIO(photo)
