"""The page at `/`, its files at `/static` and the API's explorer at `/docs`: plain files, no build step.

Nothing is loaded from elsewhere: the explorer's scripts are Swagger UI's own, out of the package fastapi-swagger.
"""

import mimetypes
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

STATIC = Path(__file__).with_name("static")

_RULES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "media-src": "'self' blob:",
    "connect-src": "'self'",
    "worker-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


def _policy(rules: dict[str, str]) -> str:
    return "; ".join(f"{name} {allowed}" for name, allowed in (_RULES | rules).items())


# The browser itself refuses to read text as HTML, such as the name of a file.
POLICY = _policy({"require-trusted-types-for": "'script'", "trusted-types": "'none'"})
# Swagger UI draws its icons from data URLs, and builds HTML of the document's descriptions.
EXPLORER_POLICY = _policy({"img-src": "'self' data: blob:"})

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self)",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Asked for again each time and answered 304 while unchanged: a page never runs with half of an older one.
    "Cache-Control": "no-cache",
    "Accept-Ranges": "none",
}

TYPES = {".js": "text/javascript", ".svg": "image/svg+xml", ".flac": "audio/flac", ".ogg": "audio/ogg"}
"""What machines disagree about, or do not know; a browser that may not guess runs no script under another name."""


class Files(StaticFiles):
    """Files with the page's headers."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        # Weak: compressed or not, it is the same file in other bytes.
        response.headers.update(HEADERS | {"ETag": f"W/{response.headers['etag']}"})
        return response


class Whole:
    """Sends files whole, as everybody may: the largest are half a megabyte, and what is asked for badly is no error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await self._app({**scope, "headers": headers}, receive, send)


class Document:
    """One of the files under an address of its own."""

    def __init__(self, files: Files, name: str, headers: dict[str, str] | None = None) -> None:
        self._files, self._name, self._headers = files, name, headers or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._files.get_response(self._name, scope)
        response.headers.update(self._headers)
        await response(scope, receive, send)


def install(app: FastAPI) -> None:
    """Serve page and explorer."""
    for suffix, kind in TYPES.items():
        mimetypes.add_type(kind, suffix)
    files = Files(directory=STATIC, packages=[("fastapi_swagger", "resources")])
    app.router.routes.append(Route("/", _zipped(Document(files, "index.html")), methods=["GET"]))
    explorer = Document(files, "docs.html", {"Content-Security-Policy": EXPLORER_POLICY})
    app.router.routes.append(Route("/docs", _zipped(explorer), methods=["GET"]))
    app.mount("/static", _zipped(files), name="static")


def _zipped(app: ASGIApp) -> ASGIApp:
    return GZipMiddleware(Whole(app), minimum_size=1_000, compresslevel=6)
