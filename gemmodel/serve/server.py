"""The HTTP server of the page and of the registered model: uvicorn, with limits that it leaves to a proxy.

What each limit is for: docs/security.md.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import h11
import uvicorn
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from gemmodel.core.errors import ParameterError

MAX_CONNECTIONS = 400  # at once; a process may have 1024 open files
PER_ADDRESS = 32  # connections of one address at once; a browser opens six
HEADER_TIMEOUT_S = 10
BODY_TIMEOUT_S = 40  # `Uploads` waits less long, and says so
WRITE_TIMEOUT_S = 30  # in which a client reads something of a response
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
REFUSAL_TIMEOUT_S = 1
SHUTDOWN_TIMEOUT_S = 5  # for requests that are in progress at Ctrl+C


class LimitedProtocol(H11Protocol):
    """A connection that ends if its client is too slow, and is refused if there are too many."""

    def __init__(self, *, addresses: Counter[str], per_address: int, **options: Any) -> None:
        """Sets the limits of a connection.

        Args:
            addresses: the number of open connections by address, which all connections of a server share.
            per_address: the maximum of these numbers.
            options: of uvicorn.
        """
        super().__init__(**options)
        self.addresses, self.per_address = addresses, per_address
        self.refused = False
        self.awaited: object = h11.IDLE  # the part of a request that the client has to send, as h11 names its state
        self.read_timer: asyncio.TimerHandle | None = None
        self.write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Counts the connection."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` for each response that waits for the client
        self.address = network(self.client[0] if self.client else "")
        self.addresses[self.address] += 1
        self.refused = self.addresses[self.address] > self.per_address or len(self.connections) > MAX_CONNECTIONS
        if self.refused:
            self.connections.discard(self)
        if self.addresses.total() - len(self.connections) > MAX_CONNECTIONS:  # too many to tell them
            transport.abort()
        else:
            self._limit_reading(REFUSAL_TIMEOUT_S if self.refused else HEADER_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        super().connection_lost(exc)
        self._limit_reading(None)
        self.resume_writing()
        self.addresses[self.address] -= 1
        if not self.addresses[self.address]:
            del self.addresses[self.address]

    def data_received(self, data: bytes) -> None:
        """Handles data, and limits the time for what is missing of a request."""
        if self.refused:
            self.transport.write(REFUSAL)
            self.transport.close()
            return
        super().data_received(data)
        awaited = self.conn.their_state
        if awaited is not self.awaited:
            self._limit_reading({h11.IDLE: HEADER_TIMEOUT_S, h11.SEND_BODY: BODY_TIMEOUT_S}.get(awaited))
            self.awaited = awaited

    def pause_writing(self) -> None:
        """Limits the time in which the client must read."""
        super().pause_writing()
        self.write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Ends that limit."""
        super().resume_writing()
        if self.write_timer:
            self.write_timer.cancel()

    def _limit_reading(self, seconds: float | None) -> None:
        if self.read_timer:
            self.read_timer.cancel()
        self.read_timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


class SameOrigin:
    """A middleware that refuses what the page of another site makes a browser send, and bodies of unknown length.

    A name that an attacker lets point at this machine (DNS rebinding) is in the header `Host`; `localhost`, addresses
    and the names that the operator allows are accepted. A request that changes or costs something is a POST, whose
    `Origin` must be the same. A body in chunks costs more time to read than to send, and browsers send none.
    """

    def __init__(self, app: ASGIApp, *, allowed_hosts: Sequence[str]) -> None:
        self.app, self.allowed_hosts = app, {name.lower() for name in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        refusal = self._refusal(scope["method"], Headers(scope=scope)) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_allowed(f"//{host}"):
            remedy = "the operator can allow it by --allowed-hosts"
            return JSONResponse({"error": f"{host[:100]}: not a name of this server; {remedy}"}, 403)
        if method not in ("GET", "HEAD"):
            named = origin is None or _host(origin) in self.allowed_hosts or urlsplit(origin).netloc == host
            if not named or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                return JSONResponse({"error": "sent by the page of another site"}, 403)
        if "transfer-encoding" in headers:
            return JSONResponse({"error": "a body needs its Content-Length"}, 411, {"Connection": "close"})
        return None

    def _is_allowed(self, url: str) -> bool:
        host = _host(url)
        with contextlib.suppress(ValueError):
            return bool(ipaddress.ip_address(host))
        return host == "localhost" or host.endswith(".localhost") or host in self.allowed_hosts


def _host(url: str) -> str:
    """Returns the host of a URL in lower case; empty where it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def network(address: str) -> str:
    """Returns what counts as one client: an address, of IPv6 the /64 network, which one machine may have whole."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens, so that a port in use is refused before an address is printed.

    Raises:
        ParameterError: the port is in use, or the host is none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except UnicodeError:  # an empty label, or one of more than 63 letters
        raise ParameterError(f"--host: {host}: no host's name; name an address of this machine") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ParameterError(f"--port: {port} is in use on {host}; name another one") from None
        if error.errno == errno.EACCES:
            raise ParameterError(f"--port: {port} is not open to this user; name one from 1024 on") from None
        reason = str(error.strerror).split(" (while")[0]  # asyncio and socket append the address
        raise ParameterError(f"--host: {host}: {reason}; name an address of this machine") from None


def serve(app: ASGIApp, listening: socket.socket, *, allowed_hosts: Sequence[str], per_address: int) -> None:
    """Serves an application on a socket of `listen` until it is interrupted. No request is logged.

    Args:
        app: the application.
        listening: the socket.
        allowed_hosts: names by which clients reach the server, besides addresses and `localhost`.
        per_address: the maximum number of connections of one address at once.
    """
    host, port = listening.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    config = uvicorn.Config(
        SameOrigin(app, allowed_hosts=allowed_hosts),
        http=partial(LimitedProtocol, addresses=Counter(), per_address=per_address),  # type: ignore[arg-type]
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl+C, which the server raises again once it has ended
        uvicorn.Server(config).run(sockets=[listening])
