"""The page at `/`, its files at `/static` and the API explorer at `/docs`: plain files, no build step.

Nothing is loaded from other hosts: the scripts of the explorer are Swagger UI's, from the package fastapi-swagger.
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

from shared.audio.formats import FORMATS

STATIC = Path(__file__).with_name("static")

_DIRECTIVES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "media-src": "'self' blob:",
    "connect-src": "'self'",
    "worker-src": "'self'",
    "manifest-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


def _policy(directives: dict[str, str]) -> str:
    return "; ".join(f"{name} {sources}" for name, sources in (_DIRECTIVES | directives).items())


# With Trusted Types the browser refuses to parse any string as HTML, such as the name of a file.
POLICY = _policy({"require-trusted-types-for": "'script'", "trusted-types": "'none'"})
# Swagger UI has its icons as data URLs, and makes HTML from the descriptions in the document.
EXPLORER_POLICY = _policy({"img-src": "'self' data: blob:"})

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self)",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Revalidated on every request, 304 while unchanged: a page never runs with some files of an older version.
    "Cache-Control": "no-cache",
    "Accept-Ranges": "none",
}

TYPES = {".js": "text/javascript", ".svg": "image/svg+xml", ".webmanifest": "application/manifest+json"} | {
    extension: each.media_types[0] for each in FORMATS for extension in each.extensions
}
"""Media types that systems map differently or not at all; with `nosniff` a browser runs no script of another type."""


class PageFiles(StaticFiles):
    """Static files with the headers of the page."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        # Weak: the compressed and the plain response are the same file in different bytes.
        response.headers.update(HEADERS | {"ETag": f"W/{response.headers['etag']}"})
        return response


class StripRange:
    """Ignores `Range`, as a server may (RFC 9110, section 14.2): the largest file has half a megabyte."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await self._app({**scope, "headers": headers}, receive, send)


class SingleFile:
    """One of the files at a path of its own."""

    def __init__(self, files: PageFiles, name: str, headers: dict[str, str] | None = None) -> None:
        self._files, self._name, self._headers = files, name, headers or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._files.get_response(self._name, scope)
        response.headers.update(self._headers)
        await response(scope, receive, send)


def install(app: FastAPI) -> None:
    """Serve the page and the explorer."""
    for suffix, media_type in TYPES.items():
        mimetypes.add_type(media_type, suffix)
    files = PageFiles(directory=STATIC, packages=[("fastapi_swagger", "resources")])
    app.router.routes.append(Route("/", _compressed(SingleFile(files, "index.html")), methods=["GET"]))
    explorer = SingleFile(files, "docs.html", {"Content-Security-Policy": EXPLORER_POLICY})
    app.router.routes.append(Route("/docs", _compressed(explorer), methods=["GET"]))
    app.mount("/static", _compressed(files), name="static")


def _compressed(app: ASGIApp) -> ASGIApp:
    return GZipMiddleware(StripRange(app), minimum_size=1_000, compresslevel=6)
