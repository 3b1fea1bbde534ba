"""The web server of the explorer: an API over `ditf.explore.library`, and the page that uses it."""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from ditf.errors import NotFoundError, UserError
from ditf.explore.jobs import BusyError
from ditf.explore.library import Explorer, StaleError, View
from ditf.explore.limits import BODY, RequestLimits
from ditf.explore.pairs import PairSelection
from ditf.explore.uploads import TooLargeError
from ditf.explore.videos import video_routes
from ditf.explore.work import work_routes
from ditf.types import Descriptor
from ditf.workers import cores

PAGE = Path(__file__).with_name("page")
COOKIE = "ditf_token"
LEAST_THREADS = 4  # so that slow requests do not delay all others
MOST_POINTS = 1000  # in one request
LARGEST_SIDE = 4096  # of a picture in pixels

STATUS: dict[type[UserError], int] = {NotFoundError: 404, StaleError: 409, TooLargeError: 413, BusyError: 503}

# The page may load nothing from other servers.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

Entry = Annotated[str, Query(description="An entry of features or fusions.")]
Image = Annotated[str, Query(description="Id of an image.")]
Block = Annotated[int, Query(ge=0, le=10_000, description="A captured block.")]
Coordinate = Annotated[int, Query(ge=0, le=1_000_000, description="Coordinate in pixels.")]
DescriptorName = Annotated[Descriptor, Query(description="Descriptor of the tokens.")]
Pixel = Annotated[int, Field(ge=0, le=1_000_000)]
Point = tuple[Pixel, Pixel]


class MatchRequest(BaseModel):
    """Points to match.

    Attributes:
        entry: An entry of features or fusions.
        block: A captured block.
        descriptor: Descriptor to match.
        source: Id of the image with the points.
        target: Id of the image to search.
        points: Points (x, y) of the source in pixels.
    """

    model_config = ConfigDict(extra="forbid")

    entry: str
    block: int = Field(ge=0, le=10_000)
    descriptor: Descriptor
    source: str
    target: str
    points: list[Point] = Field(min_length=1, max_length=MOST_POINTS)


class SearchRequest(BaseModel):
    """A query of an index: a point, a region or an entire image.

    Attributes:
        task: A task of type retrieval.
        image: Id of the query image.
        point: Point (x, y) in pixels.
        box: Corners (x0, y0, x1, y1) of a region in pixels.
        k: Number of hits.
        all_hits: Whether to include hits in the query image, and several hits per image.
        category: Category of the hits. An empty text stands for all.
    """

    model_config = ConfigDict(extra="forbid")

    task: str
    image: str
    point: Point | None = None
    box: tuple[Pixel, Pixel, Pixel, Pixel] | None = None
    k: int = Field(default=12, ge=1, le=200)
    all_hits: bool = False
    category: str = ""


def make_app(explorer: Explorer, version: str, hosts: list[str], token: str | None = None) -> FastAPI:
    """Make the web application.

    Args:
        explorer: What the server shows.
        version: Version of the package.
        hosts: Names and addresses of the server. Without a token, requests under other names are refused.
        token: Secret that each request must carry; None if only this machine can connect.

    Returns:
        The application. Its API is below `/api`, and the page at `/`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # More threads than cores answer no faster, but each may hold the descriptors of an image.
        current_default_thread_limiter().total_tokens = max(LEAST_THREADS, cores())
        yield
        explorer.close()

    app = FastAPI(
        title="ditf explorer",
        version=version,
        docs_url=None,  # their pages load scripts from other servers
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    _add_errors(app)
    _add_routes(app, explorer, version)
    app.include_router(video_routes(explorer))
    app.include_router(work_routes(explorer))
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    _add_checks(app, hosts, token)
    return app


def _add_routes(app: FastAPI, explorer: Explorer, version: str) -> None:
    """Add the routes of the API."""

    @app.get("/api/project")
    def project() -> dict[str, Any]:
        """Describe the features and tasks of the project."""
        return {**explorer.project(), "version": version}

    @app.get("/api/images")
    def images(entry: Entry, text: str = "", category: str = "") -> dict[str, Any]:
        """List images by a part of their id and by category."""
        return explorer.images(entry, text, category)

    @app.get("/api/images/{image:path}", response_class=Response)
    def picture(entry: Entry, image: str, side: Annotated[int, Query(ge=16, le=LARGEST_SIDE)] = 1024) -> Response:
        """Return an image as JPEG, at most `side` pixels long."""
        return Response(explorer.picture(entry, image, side), media_type="image/jpeg")

    @app.get("/api/tokens", response_class=Response)
    def tokens(entry: Entry, image: Image, block: Block, descriptor: DescriptorName, revision: str = "") -> Response:
        """Return unit descriptors as float16 and their lengths as float32, both little-endian.

        The headers X-Grid (rows,columns) and X-Size (width,height) describe them.
        """
        data, grid, size = explorer.tokens(View(entry, block, descriptor), image, revision)
        headers = {"X-Grid": f"{grid[0]},{grid[1]}", "X-Size": f"{size[0]},{size[1]}"}
        return Response(data, media_type="application/octet-stream", headers=headers)

    @app.get("/api/similarity")
    def similarity(
        entry: Entry,
        source: Image,
        target: Image,
        block: Block,
        descriptor: DescriptorName,
        x: Coordinate,
        y: Coordinate,
    ) -> dict[str, Any]:
        """Return the cosine similarity of every token of an image to a point of another."""
        return explorer.similarity(View(entry, block, descriptor), source, target, (x, y))

    @app.post("/api/match", max_body_size=BODY)
    def match(request: MatchRequest) -> dict[str, Any]:
        """Find the pixels that correspond to points of another image."""
        view = View(request.entry, request.block, request.descriptor)
        return {"matches": explorer.match(view, request.source, request.target, request.points)}

    @app.get("/api/pairs")
    def pairs(selection: Annotated[PairSelection, Query()]) -> dict[str, Any]:
        """List the pairs of a task with their matches, sorted and filtered."""
        return explorer.select_pairs(selection)

    @app.post("/api/search", max_body_size=BODY)
    def search(request: SearchRequest) -> dict[str, Any]:
        """Find places that are similar to a point or a region, or images that are similar to an image."""
        if request.point and request.box:
            raise UserError("point, box: give one of them, or neither to search with the entire image.")
        place = request.point or request.box or ()
        arguments = (request.task, request.image, place, request.k, request.all_hits, request.category)
        return {"hits": explorer.search(*arguments)}

    @app.get("/api/channels")
    def channels(entry: Entry, image: Image, block: Block) -> dict[str, Any]:
        """List the largest channels of an image."""
        return {"largest": explorer.channels(View(entry, block, "original"), image)}

    @app.get("/api/channels/{channel}")
    def channel(channel: int, entry: Entry, image: Image, block: Block, descriptor: DescriptorName) -> dict[str, Any]:
        """Return one channel of an image as a map."""
        return explorer.channel(View(entry, block, descriptor), image, channel)

    @app.get("/api/colours", response_class=Response)
    def colours(entry: Entry, image: Image, block: Block, descriptor: DescriptorName) -> Response:
        """Return the first three principal components of an image's descriptors as a PNG with a pixel per token."""
        return Response(explorer.colours(View(entry, block, descriptor), image), media_type="image/png")


def _add_errors(app: FastAPI) -> None:
    """Answer every error with JSON of one line."""

    def answer(message: str, status: int) -> JSONResponse:
        line = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
        return JSONResponse({"error": line}, status, {"Retry-After": "5"} if status == 503 else None)

    @app.exception_handler(UserError)
    def user_error(request: Request, error: UserError) -> JSONResponse:
        return answer(str(error), STATUS.get(type(error), 400))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return answer(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}.", 422)

    @app.exception_handler(Exception)
    def internal(request: Request, error: Exception) -> JSONResponse:
        return answer(f"{request.url.path}: {type(error).__name__}. The server printed the details; report them.", 500)

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return answer(f"{request.url.path}: {error.detail}.", error.status_code)


def _add_checks(app: FastAPI, hosts: list[str], token: str | None) -> None:
    """Refuse requests of other hosts' pages and, if there is a token, requests without it."""

    @app.middleware("http")
    async def check(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if token is None and _name(f"//{host}") not in hosts:
            return JSONResponse({"error": f"{host}: not a name of this server. Use {', '.join(hosts)}."}, 403)
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return JSONResponse({"error": f"{origin}: pages of other servers may not call the explorer."}, 403)
        given = request.query_params.get("token")
        if token is not None:
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            candidates = (given, bearer, request.cookies.get(COOKIE))
            if not any(hmac.compare_digest((each or "").encode(), token.encode()) for each in candidates):
                return JSONResponse({"error": "A token is needed. Open the address that `ditf serve` printed."}, 401)
        response = await proceed(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if request.url.path.startswith("/api"):
            response.headers.setdefault("Cache-Control", "no-store")
        if token is not None and given is not None:  # the page's further requests carry the cookie
            response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        return response

    app.add_middleware(RequestLimits)


def _name(address: str) -> str:
    """Return the name of the host in an address, or an empty text if it has none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
