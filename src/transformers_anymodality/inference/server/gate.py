"""Checks requests before the application sees them: key, size of the body, number of requests; closes silent connections."""

import asyncio
import hmac
import threading
from contextlib import suppress
from typing import Any

from fastapi.responses import JSONResponse
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from .batching import GONE
from .metrics import PATH as METRICS


BODY_SECONDS = 60.0  # limit for a request's body to arrive
SILENT_SECONDS = 15.0  # then a connection without a request is closed
_THROWN_AWAY = 8  # bytes read of a refused request, in units of the largest request
_HELD = 8  # bytes of all incomplete bodies, in the same unit
OPEN = ("/health",)  # without a key
UNCOUNTED = (*OPEN, METRICS)  # answered at any number of requests


def error_response(status: int, message: str) -> JSONResponse:
    """An error in the format of OpenAI's clients."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(status)
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": None}}, status, headers)


class _Refused(Exception):
    def __init__(self, status: int, message: str):
        self.response = error_response(status, message)


class Gate:
    """Wraps an ASGI application.

    Args:
        max_bytes: size limit of a body.
        max_requests: requests at once, counted after their body has arrived; further ones get status 503.
        api_key: key that requests must have, as `Authorization: Bearer KEY`; none if left out.
    """

    def __init__(self, app: Any, max_bytes: int, max_requests: int, api_key: str | None = None):
        self.app, self.max_bytes, self.max_requests, self.api_key = app, max_bytes, max_requests, api_key
        self.running = self.held = 0

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self.app(scope, receive, send)
        held = [0]
        try:
            self._check_key(scope)
            if scope["path"] in UNCOUNTED:
                return await self.app(scope, receive, send)
            body = await self._body(receive, held)
            if body is None:
                return
            if self.running >= self.max_requests:
                raise _Refused(503, f"{self.running} requests are being answered: try again in a moment.")
            self.running += 1
            try:
                await self._run(body, scope, receive, send)
            finally:
                self.running -= 1
        except _Refused as refused:
            await refused.response(scope, receive, send)
        finally:
            self.held -= held[0]

    def _check_key(self, scope: dict) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if self.api_key is not None and not hmac.compare_digest(given, f"Bearer {self.api_key}".encode()):
            raise _Refused(401, "The API key is missing or wrong: send `Authorization: Bearer KEY`.")

    async def _body(self, receive: Any, held: list[int]) -> bytes | None:
        """The full body; None if the client left. `held`: this request's share of `self.held`."""
        pieces, seen, more = [], 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    seen += len(piece)
                    if self.held + len(piece) > _HELD * self.max_bytes:
                        raise _Refused(503, "Many large requests are coming in: try again in a moment.")
                    if seen <= self.max_bytes:
                        held[0] += len(piece)
                        self.held += len(piece)
                        pieces.append(piece)
                    # Clients do not read an answer while they send: the rest is read and dropped, up to a limit.
                    elif seen > _THROWN_AWAY * self.max_bytes:
                        break
        except TimeoutError:
            raise _Refused(408, f"The request's body did not arrive within {BODY_SECONDS:g} s: send less.") from None
        if seen > self.max_bytes:
            raise _Refused(413, f"The request is larger than the limit of {self.max_bytes} bytes.")
        return b"".join(pieces)

    async def _run(self, body: bytes, scope: dict, receive: Any, send: Any) -> None:
        """Runs the application while the client waits."""
        gone, left = threading.Event(), asyncio.ensure_future(receive())  # the next message says that the client left
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def given() -> dict:
            return messages.pop() if messages else await asyncio.shield(left)

        GONE.set(gone)
        task = asyncio.ensure_future(self.app(scope, given, send))
        try:
            await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished = task.done()
            gone.set()
            task.cancel()
            left.cancel()
            with suppress(asyncio.CancelledError):
                await task if finished else await asyncio.wait({task})


class TimedProtocol(AutoHTTPProtocol):  # ty: ignore[unsupported-base]
    """Closes connections that are silent or send their request slowly; stock limits begin with the first answer."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(SILENT_SECONDS, self._look, None)

    def _look(self, seen: Any) -> None:
        if self.transport.is_closing():
            return
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self.cycle is seen:
            self.transport.close()
        else:
            self.loop.call_later(SILENT_SECONDS, self._look, self.cycle)
