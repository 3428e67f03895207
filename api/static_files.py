"""The page at `/`, its files at `/static` and the API explorer at `/docs`: plain files, no build step.

The page loads its files from `/static/v-…/`, a path with the digest of all of them, which a browser keeps for a year: a
second visit requests the HTML only. They refer to one another by relative URLs, so the version is in one place.

Nothing is loaded from other hosts: the scripts of the explorer are Swagger UI's, from the package fastapi-swagger.
"""

import math
import mimetypes
import re
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.staticfiles import NotModifiedResponse, StaticFiles
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
    "Cache-Control": "no-cache",  # revalidated on every request, 304 while unchanged
    "Accept-Ranges": "none",
}

TYPES = {".js": "text/javascript", ".svg": "image/svg+xml", ".webmanifest": "application/manifest+json"} | {
    extension: each.media_types[0] for each in FORMATS for extension in each.extensions
}
"""Media types that systems map differently or not at all; with `nosniff` a browser runs no script of another type."""


_KEPT = "public, max-age=31536000, immutable"
_VERSION = re.compile(r"v-[0-9a-f]{16}")


class PageFiles(StaticFiles):
    """Static files with the headers of the page, each also below the version of all files."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC, packages=[("fastapi_swagger", "resources")])
        self._stamps: list[tuple[str, int]] = []
        self._checked, self._version = -math.inf, ""

    def version(self) -> str:
        """`v-` and a digest of all files, which may change while a developer edits them."""
        if time.monotonic() < self._checked + 1.0:
            return self._version
        self._checked = time.monotonic()
        paths = [path for path in sorted(STATIC.rglob("*")) if path.is_file()]
        stamps = [(str(path), path.stat().st_mtime_ns) for path in paths]
        if stamps != self._stamps:
            digest = sha256(b"".join(sha256(path.read_bytes()).digest() for path in paths)).hexdigest()
            self._stamps, self._version = stamps, f"v-{digest[:16]}"
        return self._version

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path == "index.html":
            return self._page(scope)
        version, _, rest = path.partition("/")
        if not _VERSION.fullmatch(version):
            return await super().get_response(path, scope)
        response = await super().get_response(rest, scope)
        # A page of another version, before or after an update, gets the file, and asks again for it the next time.
        if version == self.version() and response.status_code in (200, 304):
            response.headers["Cache-Control"] = _KEPT
        return response

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        return _with_headers(super().file_response(*arguments, **options))

    def _page(self, scope: Scope) -> Response:
        """index.html, whose files are those of the current version."""
        version = self.version()
        text = (STATIC / "index.html").read_text(encoding="utf-8").replace('="/static/', f'="/static/{version}/')
        response: Response = HTMLResponse(text, headers={"ETag": f'"{version}"'})
        if self.is_not_modified(response.headers, Headers(scope=scope)):
            response = NotModifiedResponse(response.headers)
        return _with_headers(response)


def _with_headers(response: Response) -> Response:
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
    files = PageFiles()
    app.router.routes.append(Route("/", _compressed(SingleFile(files, "index.html")), methods=["GET"]))
    explorer = SingleFile(files, "docs.html", {"Content-Security-Policy": EXPLORER_POLICY})
    app.router.routes.append(Route("/docs", _compressed(explorer), methods=["GET"]))
    app.mount("/static", _compressed(files), name="static")


def _compressed(app: ASGIApp) -> ASGIApp:
    return GZipMiddleware(StripRange(app), minimum_size=1_000, compresslevel=6)
