"""Authentication and authorization: API keys, scopes, and the rate limit of a key; where every request is admitted.

A request is checked by method and path before it is routed, and its body is not read before that. A path that no rule
names needs the scope `admin`: a new route without a rule is closed. Without a keys file every caller may do everything.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from api.http.head_routes import route_exists
from api.http.problems import problem_response, responses
from api.middleware.rate_limit import RateLimiter
from otoscope.errors import KeyRefused, KeyRequired, OtoscopeError, RateLimited
from shared.api_keys import Key, KeyFileError, Scope, read_keys, split_key
from shared.jobs.records import JobRecord

log = logging.getLogger(__name__)

COOKIE = "otoscope_key"
"""Where the page keeps its key: an EventSource and an <img> cannot send a header."""

PROTOCOL = "otoscope.v1"
"""The WebSocket subprotocol of a stream."""
_KEY_PROTOCOL = "otoscope.key."
"""Prefix of a subprotocol that is the key: a page of another origin can send neither a header nor the cookie, and a key
in the address would be in the logs of proxies."""

_SUBMIT_PATHS = ("/v1/jobs", "/v1/batches", "/evaluate")
_V2_OPEN = ("/v2", "/v2/health/live", "/v2/health/ready")

OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/health/live", "/health/ready", *_V2_OPEN})
"""Open to all, as is everything below /static: none of it belongs to a caller."""

_REFUSAL_LOG_SECONDS = 60.0
_RELOAD_SECONDS = 1.0  # between two checks of the keys file, and so until a revoked key is refused


def required_scope(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None where it is open to all."""
    if path in OPEN_PATHS or path.startswith("/static/"):
        return None
    if method == "POST" and (path in _SUBMIT_PATHS or path.startswith(("/hf/", "/v2/models/"))):
        return Scope.SUBMIT
    if path == "/v1/stream":
        return Scope.SUBMIT
    if method == "DELETE" and path.startswith(("/v1/jobs/", "/v1/batches/")):
        return Scope.SUBMIT
    readable = path.startswith(("/v1/", "/v2/models/")) and path != "/v1/workers"  # workers: operators only
    if method in ("GET", "HEAD") and readable:
        return Scope.READ
    return Scope.ADMIN


@dataclass(frozen=True)
class Caller:
    """Who sent a request: `key:<id>` where the service has keys, else `net:<address>`."""

    name: str
    scopes: frozenset[Scope]
    charge: Callable[[int], None] = field(default=lambda sounds: None, compare=False)
    """Count so many sounds of one request beside its first towards the rate limit."""
    acquire: Callable[[], int] = field(default=lambda: 0, compare=False)
    """Count a further sound of one request, if the rate limit permits: 0, else the seconds until it does."""

    def may_see(self, job: JobRecord) -> bool:
        return Scope.ADMIN in self.scopes or job.caller == self.name


def get_caller(request: Request) -> Caller:
    """The caller that `AuthMiddleware` identified."""
    caller: Caller = request.state.caller
    return caller


class AuthMiddleware:
    """Admits or refuses a request, and puts its `Caller` into the request's state. `keys` is None without a keys file.

    Refuses early, before the body is read, also a caller whose last submission met a full queue.
    """

    def __init__(self, app: ASGIApp, keys: "KeyRing | None", origins: tuple[str, ...] = ()) -> None:
        """`origins`: those of pages of other sites that may use the gateway."""
        self._app, self._keys, self._limiter = app, keys, RateLimiter()
        self._origins = frozenset(origins)
        self._refusals = _RefusalLog()

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                if scope["type"] == "websocket":
                    self._check_origin(scope)
                caller = self._anonymous(scope) if self._keys is None else self._authorize(scope, self._keys)
                scope.setdefault("state", {})["caller"] = caller
                if scope.get("method") == "POST" and not _has_idempotency_key(scope):
                    scope["app"].state.gateway.check_recent_rejection(caller)
            except OtoscopeError as error:
                if isinstance(error, KeyRequired | KeyRefused):
                    self._refusals.add(_network_caller(scope), error.code)
                await problem_response(error, HTTPConnection(scope))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _anonymous(self, scope: Connection) -> Caller:
        """Without keys, a page of another site must not use its visitors' access to this gateway. Its browser marks the
        request (Fetch Metadata, W3C), which needs no permission by CORS if it has the form of an HTML form's.

        Raises KeyRefused.
        """
        headers = dict(scope["headers"])
        if (
            scope["type"] == "http"
            and scope["method"] not in ("GET", "HEAD", "OPTIONS")
            and headers.get(b"sec-fetch-site") == b"cross-site"
            and headers.get(b"origin", b"").decode("latin-1") not in self._origins
        ):
            raise KeyRefused("A page of another site sent this request; OTOSCOPE_CORS_ORIGINS names those that may.")
        return _anonymous(scope)

    def _check_origin(self, scope: Connection) -> None:
        """A browser opens a WebSocket for a page of any site, whatever CORS says, and sends the cookies of this one. It
        always sends the origin of the page, which other clients do not have.

        Raises KeyRefused.
        """
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        host = headers.get(b"host", b"").decode("latin-1").lower()
        own = origin.lower().partition("://")[2] == host and host != ""
        if origin and not own and origin not in self._origins and "*" not in self._origins:
            raise KeyRefused(
                f"A page of {origin[:100]!r} opened this WebSocket, which is not a page of this gateway;"
                " OTOSCOPE_CORS_ORIGINS names those that may. A proxy has to pass on the header Host."
            )

    def _authorize(self, scope: Connection, keys: "KeyRing") -> Caller:
        """Raises KeyRequired, KeyRefused or RateLimited."""
        method = scope.get("method", "GET")
        required = required_scope(method, scope["path"])
        if required is None:
            return Caller(_network_caller(scope), frozenset())
        text = _key_text(HTTPConnection(scope))
        if text is None:
            raise KeyRequired("Send an API key as 'Authorization: Bearer KEY'.")
        key = keys.find(text)
        if key is None:
            raise KeyRequired("The API key is not valid here; it may have been revoked.")
        # A route that does not exist is answered with 404 or 405 to callers with a key, not with 403.
        if not key.scopes & {required, Scope.ADMIN} and (required is not Scope.ADMIN or route_exists(scope)):
            raise KeyRefused(
                f"This request needs a key with the scope {required}; yours has {' and '.join(sorted(key.scopes))}."
            )
        submits = method == "POST" or scope["type"] == "websocket"
        if submits and (seconds := self._limiter.acquire(key)):
            raise RateLimited(
                f"This key may submit {key.rate_per_minute:g} sounds per minute; try again in {seconds} s.",
                retry_after=seconds,
            )
        limiter = self._limiter
        return Caller(f"key:{key.id}", key.scopes, partial(limiter.charge, key), partial(limiter.acquire, key))


class _RefusalLog:
    """A sample of the requests that were refused for their key: the first of each minute, with the number since the
    sample before. Any client can cause any number of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._due, self._since = clock, -math.inf, 0

    def add(self, caller: str, code: str) -> None:
        self._since += 1
        if self._clock() >= self._due:
            log.info("refused %d requests, the last one", self._since, extra={"caller": caller, "code": code})
            self._due, self._since = self._clock() + _REFUSAL_LOG_SECONDS, 0


class KeyRing:
    """The keys of a file, which is read again when it has changed.

    Raises KeyFileError at first; when the file becomes unusable later, the keys stay as they were.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._fingerprint, self._checked_at = _fingerprint(path), clock()
        self._keys = read_keys(path)

    def find(self, text: str) -> Key | None:
        """The key with that text; None where the id is unknown or the secret is wrong."""
        self._reload()
        parts = split_key(text)
        key = self._keys.get(parts[0]) if parts else None
        return key if parts and key and key.verify(parts[1]) else None

    def _reload(self) -> None:
        if self._clock() - self._checked_at < _RELOAD_SECONDS:
            return
        self._checked_at, fingerprint = self._clock(), _fingerprint(self._path)
        if fingerprint == self._fingerprint:
            return
        self._fingerprint = fingerprint
        try:
            self._keys = read_keys(self._path)
            log.info("read %d keys from %s", len(self._keys), self._path)
        except KeyFileError as error:
            log.error("%s; the keys stay as they were", error)


def add_security(document: dict[str, Any], *, required: bool) -> None:
    """Add the security schemes, and what each operation requires, to an OpenAPI document."""
    document.setdefault("components", {})["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "a key made by `otoscope keys create`"},
        "cookie": {
            "type": "apiKey",
            "in": "cookie",
            "name": COOKIE,
            "description": "the same key, as the page sends it",
        },
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = required_scope(method.upper(), path)
            if scope is not None:
                operation["security"] = [{"key": [scope]}, {"cookie": [scope]}, *([] if required else [{}])]
                refusals = responses("key_required", "key_refused")
                operation["responses"] |= {str(status): entry for status, entry in refusals.items()}


def _key_text(connection: HTTPConnection) -> str | None:
    """The key in header, subprotocol or cookie. Another authentication scheme may be for a proxy, and is ignored."""
    scheme, _, text = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    protocols: list[str] = connection.scope.get("subprotocols", [])
    keys = (name.removeprefix(_KEY_PROTOCOL) for name in protocols if name.startswith(_KEY_PROTOCOL))
    return next(keys, None) or connection.cookies.get(COOKIE)


def _has_idempotency_key(scope: Connection) -> bool:
    """Such a request may be answered with an earlier job, also while the queue is full."""
    return any(name == b"idempotency-key" for name, _ in scope["headers"])


def _anonymous(scope: Connection) -> Caller:
    return Caller(_network_caller(scope), frozenset(Scope))


def _network_caller(scope: Connection) -> str:
    """The name of a caller by address. An IPv6 address is cut to its /64, the prefix of one subscriber."""
    host = scope["client"][0] if scope.get("client") else "local"  # a Unix socket has no address
    with suppress(ValueError):  # a proxy may forward any text
        address = IPv6Address(host)
        host = str(address.ipv4_mapped or ip_network((address, 64), strict=False))
    return f"net:{host}"


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None where it cannot be read."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
