"""The web application: what may be asked of it, and who may ask."""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from .. import __version__
from ..errors import ActionImgError, InvalidSpecError, MissingExtraError, SourceNotFoundError, install_hint
from ..report.page import asset
from . import document, media
from .cache import BoundedCache
from .catalog import MOST_ROWS, Catalog
from .predictions import Predictions
from .query import Query

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

THUMBNAIL_BYTES: Final = 64 << 20
VIDEO_BYTES: Final = 256 << 20
DOCUMENT_BYTES: Final = 32 << 20

HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
"""Names by which this machine calls itself: a page of elsewhere whose name was made to lead here has another."""

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "media-src 'self'",
        "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        "require-trusted-types-for 'script'", "trusted-types 'none'",
    )
)  # fmt: skip
HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
SHARED: Final = "tiles.css"
"""Of the report, whose grid has the same tiles."""
STATIC: Final = {
    "": ("index.html", "text/html; charset=utf-8"),
    **{
        name: (name, "text/javascript; charset=utf-8")
        for name in (
            "main.js", "dom.js", "grid.js", "filters.js", "sample.js", "player.js", "curves.js", "space.js",
            "predictions.js", "quarantine.js", "three.module.min.js", "three.core.min.js",
        )
    },
    "style.css": ("style.css", "text/css; charset=utf-8"),
    SHARED: (SHARED, "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}  # fmt: skip


def needed() -> None:
    """Say which extra is missing, where it is.

    Raises:
        MissingExtraError: starlette or uvicorn is not installed.
    """
    for module in ("starlette", "uvicorn"):
        try:
            __import__(module)
        except ImportError:
            raise MissingExtraError(f"the page needs {module}", field=module, hint=install_hint("view")) from None


class Guard:
    """Lets through what the page of this token asks of this machine, reads only, and says how it may be shown.

    Args:
        app: What is guarded.
        token: First part of every path.
    """

    def __init__(self, app: Any, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request (ASGI)."""
        if scope["type"] != "http":
            return

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            from starlette.responses import PlainTextResponse

            status, text = refusal
            await PlainTextResponse(text, status)(scope, receive, sending)
            return
        path = scope["path"][len(self.token) + 1 :] or "/"
        await self.app({**scope, "path": path, "raw_path": path.encode(), "root_path": ""}, receive, sending)

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = re.sub(r":\d+$", "", headers.get("host", ""))
        if host not in HOSTS:
            return 421, f"This page is for this machine alone, under {HOSTS[0]}."
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "Nothing can be changed here."
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{headers.get('host')}":
            return 403, "Not from a page of elsewhere."
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and (
            headers.get("sec-fetch-dest") != "document"
        ):
            return 403, "Not from a page of elsewhere."
        first = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        if not secrets.compare_digest(first.encode(), self.token.encode()):
            return 403, "The address that actionimg view printed has a token in it; this one has not."
        return None


class Viewer:
    """Answers what the page asks.

    Args:
        catalog: The data set.
        where: The data set as the user named it, for commands to copy.
        predictions: An evaluation to show beside it.
    """

    def __init__(self, catalog: Catalog, where: str, predictions: Predictions | None = None) -> None:
        self.catalog, self.where, self.predictions = catalog, where, predictions
        self._thumbnails = BoundedCache(THUMBNAIL_BYTES, at_once=4)
        self._videos = BoundedCache(VIDEO_BYTES)
        self._documents = BoundedCache(DOCUMENT_BYTES)

    def app(self, token: str) -> Any:
        """The guarded application (ASGI)."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        routes = [
            Route("/api/dataset", self._json(self._dataset)),
            Route("/api/facets", self._json(self._facets)),
            Route("/api/rows", self._json(self._rows)),
            Route("/api/quarantine", self._json(self._quarantine)),
            Route("/api/sample/{number:int}", self._answer(self._sample)),
            Route("/api/decoded/{number:int}", self._answer(self._decoded)),
            Route("/api/evaluation", self._json(self._evaluation)),
            Route("/api/predictions", self._json(self._ranked)),
            Route("/api/prediction/{line:int}", self._json(self._prediction)),
            Route("/thumb/{number:int}/{view}", self._answer(self._thumbnail)),
            Route("/member/{number:int}/{name}", self._answer(self._member)),
            Route("/video/{number:int}/{kind}/{view}", self._answer(self._video)),
            Route("/video/{number:int}/{kind}/{view}/{gripper}", self._answer(self._video)),
            Route("/prediction/{line:int}/video", self._answer(self._prediction_video)),
            Route("/prediction/{line:int}/picture", self._answer(self._prediction_picture)),
            Route("/{name:path}", self._answer(self._static)),
        ]
        inner: Starlette = Starlette(routes=routes)
        return Guard(inner, token)

    # -- how answers are given ---------------------------------------------------------------------------------------

    def _answer(self, handler: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            from starlette.responses import JSONResponse

            try:
                return handler(request)
            except ActionImgError as error:
                status = 400 if isinstance(error, InvalidSpecError) else 404
                return JSONResponse({"error": str(error), "code": error.code}, status)

        return answer

    def _json(self, handler: Callable[[Request], Any]) -> Callable[[Request], Response]:
        return self._answer(lambda request: _json_response(_dumped(handler(request))))

    # -- the data set ------------------------------------------------------------------------------------------------

    def _dataset(self, request: Request) -> dict[str, Any]:
        manifest = self.catalog.manifest
        counts = manifest.counts
        assert counts is not None
        return {
            "name": self.catalog.root.resolve().name,
            "where": self.where,
            "version": __version__,
            "samples": len(self.catalog),
            "counts": counts.model_dump(mode="json"),
            "views": list(manifest.views),
            "grippers": list(manifest.grippers),
            "height": manifest.options.height,
            "width": manifest.options.width,
            "converter": manifest.converter.name,
            "calibrated": not manifest.options.poses_only,
            "calibration": manifest.options.checks_calibration,
            "findings": list(manifest.options.allow),
            "evaluation": self.predictions is not None,
        }

    def _facets(self, request: Request) -> dict[str, Any]:
        found = self.catalog.facets()
        # What a search looks at, so that the first one does not wait. The first screen is there by now.
        threading.Thread(target=self.catalog.warm, daemon=True).start()
        return found

    def _rows(self, request: Request) -> dict[str, Any]:
        start, count = _span(request)
        left = [(n, v) for n, v in request.query_params.multi_items() if n not in ("start", "count")]
        query = Query.parse(left, self.catalog.manifest)
        chosen = self.catalog.select(query)
        total = len(self.catalog) if chosen is None else len(chosen)
        span = range(total)[start : start + count]
        numbers = list(span) if chosen is None else chosen[span.start : span.stop].tolist()
        return {
            "total": total,
            "of": len(self.catalog),
            "rows": self.catalog.rows(numbers),
            "expression": query.text(self.catalog.manifest),
        }

    def _quarantine(self, request: Request) -> dict[str, Any]:
        parameters = request.query_params
        words = parameters.get("q", "").split()
        return self.catalog.quarantine(parameters.get("code", ""), words, *_span(request))

    # -- a sample ----------------------------------------------------------------------------------------------------

    def _sample(self, request: Request) -> Response:
        number = request.path_params["number"]

        def make() -> bytes:
            return _dumped(document.document(number, self.catalog.sample(number), self.where))

        return _json_response(self._documents.get(("sample", number), make))

    def _decoded(self, request: Request) -> Response:
        number = request.path_params["number"]

        def make() -> bytes:
            return _dumped(document.decoded(self.catalog.sample(number)))

        return _json_response(self._documents.get(("decoded", number), make))

    def _thumbnail(self, request: Request) -> Response:
        number, view = request.path_params["number"], request.path_params["view"]

        def make() -> bytes:
            # Not held against its checksum, like the videos that are read by range: a sidecar for each would be read.
            sample = self.catalog.sample(number, verify=False)
            # Where samples differ in their views, one that has another is shown by its first.
            differ = self.catalog.manifest.options.views_per_sample and view in self.catalog.manifest.views
            return media.thumbnail(sample, sample.views[0] if differ and view not in sample.views else view)

        return _ranged(request, self._thumbnails.get((number, view), make), "image/webp")

    def _member(self, request: Request) -> Response:
        from starlette.responses import Response, StreamingResponse

        name = request.path_params["name"]
        if not name.endswith(".mp4"):
            raise SourceNotFoundError("is no video that a browser plays", where=name, expected="*.mp4")
        tar, offset, size = self.catalog.member(request.path_params["number"], name)
        span = _byte_range(request, size)
        if span is None:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        start, stop, partial = span
        headers = _range_headers(start, stop, size, partial)
        if request.method == "HEAD":
            return Response(status_code=200, headers=headers, media_type="video/mp4")
        body = media.member_bytes(tar, offset, size, start, stop)
        return StreamingResponse(body, 206 if partial else 200, headers, "video/mp4")

    def _video(self, request: Request) -> Response:
        given = request.path_params
        number, kind, view = given["number"], given["kind"], given["view"]
        gripper = given.get("gripper", "")

        def make() -> bytes:
            return media.transcoded(self.catalog.sample(number), kind, view, gripper)

        return _ranged(request, self._videos.get((number, kind, view, gripper), make), "video/mp4")

    # -- predictions -------------------------------------------------------------------------------------------------

    def _predicted(self) -> Predictions:
        if self.predictions is None:
            raise SourceNotFoundError(
                "no evaluation is shown", hint="actionimg view OUT --evaluation RUN.evaluation shows one."
            )
        return self.predictions

    def _evaluation(self, request: Request) -> dict[str, Any]:
        return self._predicted().summary()

    def _ranked(self, request: Request) -> dict[str, Any]:
        return self._predicted().rows(request.query_params.get("q", "").split(), *_span(request))

    def _prediction(self, request: Request) -> dict[str, Any]:
        return self._predicted().prediction(request.path_params["line"])

    def _prediction_video(self, request: Request) -> Response:
        line, predictions = request.path_params["line"], self._predicted()
        return _ranged(request, self._videos.get(("prediction", line), lambda: predictions.video(line)), "video/mp4")

    def _prediction_picture(self, request: Request) -> Response:
        line, predictions = request.path_params["line"], self._predicted()
        data = self._thumbnails.get(("prediction", line), lambda: predictions.picture(line))
        return _ranged(request, data, "image/webp")

    # -- the page ----------------------------------------------------------------------------------------------------

    def _static(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse, Response

        found = STATIC.get(request.path_params["name"])
        if found is None:
            return PlainTextResponse("There is no such page.", 404)
        name, kind = found
        shared = name == SHARED
        data = asset(SHARED).encode() if shared else (resources.files(__package__) / "static" / name).read_bytes()
        return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})


def _span(request: Request) -> tuple[int, int]:
    """Which rows are wanted: the first, and how many."""
    try:
        start, count = int(request.query_params.get("start", 0)), int(request.query_params.get("count", 60))
    except ValueError:
        start = count = -1
    if not (0 <= start <= 1 << 40 and 1 <= count <= MOST_ROWS):
        raise InvalidSpecError("out of range", field="start, count", expected=f"0 …, 1 … {MOST_ROWS}")
    return start, count


def _byte_range(request: Request, size: int) -> tuple[int, int, bool] | None:
    """First byte, the one after the last, and whether only a part is asked for (RFC 9110, 14.2); None: not satisfiable.

    Several ranges are answered with the whole, as the RFC allows.
    """
    header = request.headers.get("range", "")
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.replace(" ", ""))
    if match is None or match[1] == match[2] == "" or len(header) > 60:
        return 0, size, False
    if match[1] == "":
        start, stop = max(0, size - int(match[2])), size
    else:
        start, stop = int(match[1]), min(size, int(match[2]) + 1 if match[2] else size)
    return (start, stop, True) if start < stop else None


def _range_headers(start: int, stop: int, size: int, partial: bool) -> dict[str, str]:
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(stop - start), "Cache-Control": "private, max-age=3600"}
    return {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"} if partial else headers


def _ranged(request: Request, data: bytes, kind: str) -> Response:
    """Bytes in memory, or the part of them that is asked for."""
    from starlette.responses import Response

    span = _byte_range(request, len(data))
    if span is None:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    start, stop, partial = span
    headers = _range_headers(start, stop, len(data), partial)
    return Response(data[start:stop], 206 if partial else 200, headers, kind)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _json_response(data: bytes) -> Response:
    from starlette.responses import Response

    return Response(data, media_type="application/json", headers={"Cache-Control": "no-store"})
