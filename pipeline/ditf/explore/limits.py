"""Limits on requests: how many are answered at a time, and how long their bodies may be."""

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ditf.explore.uploads import MOST_BYTES

MOST_REQUESTS = 64  # at a time
BODY = 1 << 20  # bytes of a request without a file
FORM = 64 << 10  # bytes of an upload besides its file
TOO_LARGE = "the request is too large. Send a smaller file."
BUSY = "too many requests at a time. Try again in a moment."


class RequestLimits:
    """Refuse requests that are too many or too large before anything reads them.

    Args:
        app: The application.
        requests: Largest number of requests at a time.
    """

    def __init__(self, app: ASGIApp, requests: int = MOST_REQUESTS) -> None:
        self._app, self._most, self._active = app, requests, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = scope["path"] in ("/api/uploads", "/api/propagations")
        limit = MOST_BYTES + FORM if upload else BODY
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            await JSONResponse({"error": TOO_LARGE}, 413)(scope, receive, send)
            return
        if self._active >= self._most:
            await JSONResponse({"error": BUSY}, 503, {"Retry-After": "1"})(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:  # a body without a length
                raise HTTPException(413, TOO_LARGE.rstrip("."))
            return message

        self._active += 1
        try:
            await self._app(scope, limited, send)
        finally:
            self._active -= 1
