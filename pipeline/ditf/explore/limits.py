"""Limits on requests: how many are answered at a time, and how long their bodies may be."""

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ditf.explore.uploads import MOST_BYTES

MOST_REQUESTS = 64  # at a time
BODY = 1 << 20  # bytes of a request without a file
UPLOAD = MOST_BYTES + (64 << 10)  # bytes of a form with a file
UPLOADS = ("/api/uploads", "/api/propagations")


class RequestLimits:
    """Refuse requests that are too many or that announce too long a body.

    Bodies that do not announce their length are limited by the routes that read them.

    Args:
        app: The application.
        most: Largest number of requests at a time.
    """

    def __init__(self, app: ASGIApp, most: int = MOST_REQUESTS) -> None:
        self._app, self._most, self._active = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length, limit = Headers(scope=scope).get("content-length", "0"), UPLOAD if scope["path"] in UPLOADS else BODY
        if length.isdecimal() and int(length) > limit:
            error = {"error": f"the request has {int(length):,} bytes. Send at most {limit:,}."}
            await JSONResponse(error, 413)(scope, receive, send)
            return
        if self._active >= self._most:
            error = {"error": f"{self._active} requests at a time are too many. Try again in a moment."}
            await JSONResponse(error, 503, {"Retry-After": "1"})(scope, receive, send)
            return
        self._active += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._active -= 1
