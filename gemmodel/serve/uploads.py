"""Uploads: their number, size, time and kind are limited, and they stay in memory."""

import asyncio
import io
import math
import time

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from gemmodel.core.errors import DataError
from gemmodel.images import decode

MAX_BYTES = 20_000_000  # of an upload; a phone's photo has 2 to 8 million
UPLOAD_TIMEOUT_S = 30
MAX_PIXELS = 50_000_000  # more than most phones' photos have; decoded it takes 200 to 500 MB (docs/security.md)


class Uploads:
    """Reads the bodies of requests, and counts requests by address."""

    def __init__(self, per_minute: int) -> None:
        self.quota = RateLimitItemPerMinute(per_minute)
        self.rate_limiter = MovingWindowRateLimiter(MemoryStorage())

    async def count(self, request: Request) -> None:
        """Counts a request of an address, and refuses one too many."""
        address = request.client.host if request.client else ""
        if not await self.rate_limiter.hit(self.quota, address):
            message = f"more than {self.quota.amount} requests per minute; wait a minute"
            oldest = (await self.rate_limiter.get_window_stats(self.quota, address)).reset_time
            raise HTTPException(429, message, {"Retry-After": str(max(1, math.ceil(oldest - time.time())))})

    async def read(self, request: Request) -> bytes:
        """Returns the body of a request, which counts.

        Raises:
            HTTPException: it is too large, too slow, incomplete, or one too many.
        """
        await self.count(request)
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


def check(photo: bytes) -> io.BytesIO:
    """Returns an uploaded file, open, if its header is that of a photo with at most MAX_PIXELS.

    Raises:
        DataError: it is not.
    """
    try:
        decode.header(io.BytesIO(photo), max_pixels=MAX_PIXELS)
    except DataError as error:
        kinds = f"JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF of at most {MAX_PIXELS // 1_000_000} megapixels"
        raise DataError(f"{error}; send a {kinds}") from None
    return io.BytesIO(photo)
