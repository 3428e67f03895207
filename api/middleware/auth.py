"""Who asks, and what they may: API keys, scopes, quotas. The one place where a request is let in, or sent away unread.

A request is judged by its method and path before anything is routed, and what no rule here names needs a key with the
scope `admin`: a new route that somebody forgets is closed, not open. Without a keys file everybody may everything.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from api.http.head_routes import exists
from api.http.problems import respond, responses
from otoscope.errors import KeyRefused, KeyRequired, OtoscopeError, RateLimited
from shared.api_keys import Key, KeysUnusable, Scope, read_keys, take_apart
from shared.jobs.records import JobRecord

log = logging.getLogger(__name__)

COOKIE = "otoscope_key"
"""Where the page keeps its key: neither an EventSource nor an image can send a header."""

OPEN = frozenset({"/", "/docs", "/openapi.json", "/health/live", "/health/ready"})
"""What asks for no key, and the files below /static: nothing in them is anybody's."""

_READ_AGAIN = 1.0  # seconds between two looks at the keys file, and so until a revoked key is refused


def needed(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None where it is open to all."""
    if path in OPEN or path.startswith("/static/"):
        return None
    if method == "POST" and path in ("/v1/jobs", "/evaluate"):
        return Scope.SUBMIT
    if method == "DELETE" and path.startswith("/v1/jobs/"):
        return Scope.SUBMIT
    if method in ("GET", "HEAD") and path.startswith("/v1/") and path != "/v1/workers":  # which are the operator's
        return Scope.READ
    return Scope.ADMIN


@dataclass(frozen=True)
class Caller:
    """Who asks: `key:<id>` where there are keys, else `net:<address>`."""

    name: str
    scopes: frozenset[Scope]

    def may_see(self, job: JobRecord) -> bool:
        return Scope.ADMIN in self.scopes or job.caller == self.name


def caller_of(request: Request) -> Caller:
    """The caller that `Guard` found."""
    caller: Caller = request.state.caller
    return caller


class Guard:
    """Lets a request through to where its key may go, and says who asks."""

    def __init__(self, app: ASGIApp, ring: "KeyRing | None") -> None:
        self._app, self._ring = app, ring

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                caller = _anybody(scope) if self._ring is None else self._known(scope, self._ring)
                scope.setdefault("state", {})["caller"] = caller
                if scope["method"] == "POST" and not _has_token(scope):
                    scope["app"].state.gateway.check_room(caller)
            except OtoscopeError as error:
                await respond(error, Request(scope))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _known(self, scope: Connection, ring: "KeyRing") -> Caller:
        """Raises KeyRequired, KeyRefused or RateLimited."""
        wanted = needed(scope["method"], scope["path"])
        if wanted is None:
            return Caller(_address(scope), frozenset())
        sent = _sent(Request(scope))
        if sent is None:
            raise KeyRequired("Send a key of this service as 'Authorization: Bearer KEY'.")
        key = ring.find(sent)
        if key is None:
            raise KeyRequired("The key that was sent is not one of this service's; it may have been revoked.")
        # To who has a key, what is not there at all is not there, rather than refused.
        if not key.scopes & {wanted, Scope.ADMIN} and (wanted is not Scope.ADMIN or exists(scope)):
            raise KeyRefused(f"This needs a key with the scope {wanted}; yours has {' and '.join(sorted(key.scopes))}.")
        if scope["method"] == "POST" and (seconds := ring.take(key)):
            raise RateLimited(
                f"This key may submit {key.rate:g} sounds a minute; try again in {seconds} s.", retry_after=seconds
            )
        return Caller(f"key:{key.id}", key.scopes)


class KeyRing:
    """The keys of a file, read again when it has changed, and what each has left of its rate.

    Raises KeysUnusable at first; later a file that cannot be used leaves the keys as they were.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._stamp, self._looked = _stamp(path), clock()
        self._keys = read_keys(path)
        self._buckets: dict[str, _Bucket] = {}

    def find(self, text: str) -> Key | None:
        """The key of that text, if it is one of ours."""
        self._refresh()
        parts = take_apart(text)
        key = self._keys.get(parts[0]) if parts else None
        return key if parts and key and key.opens_with(parts[1]) else None

    def take(self, key: Key) -> int:
        """Count a submission; otherwise the seconds until there is room for one."""
        if key.rate is None:
            return 0
        bucket = self._buckets.get(key.id)
        if bucket is None or bucket.rate != key.rate:
            bucket = self._buckets[key.id] = _Bucket(key.rate, self._clock())
        return math.ceil(bucket.take(self._clock()))

    def _refresh(self) -> None:
        if self._clock() - self._looked < _READ_AGAIN:
            return
        self._looked, stamp = self._clock(), _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
            log.info("read %d keys from %s", len(self._keys), self._path)
        except KeysUnusable as error:
            log.error("%s; the keys stay as they were", error)


class _Bucket:
    """A minute's worth of submissions at once, then as they drip in."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._most = max(rate, 1.0)
        self._left, self._at = self._most, now

    def take(self, now: float) -> float:
        """0 where one was left, else the seconds until one is."""
        a_second = self.rate / 60
        self._left, self._at = min(self._most, self._left + (now - self._at) * a_second), now
        if self._left < 1:
            return (1 - self._left) / a_second
        self._left -= 1
        return 0.0


def describe(document: dict[str, Any], *, required: bool) -> None:
    """Write into an OpenAPI document what needs a key."""
    document.setdefault("components", {})["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "a key made by `otoscope keys create`"},
        "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "the same, as the page sends it"},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = needed(method.upper(), path)
            if scope is not None:
                operation["security"] = [{"key": [scope]}, {"cookie": [scope]}, *([] if required else [{}])]
                told = responses("key_required", "key_refused")
                operation["responses"] |= {str(status): entry for status, entry in told.items()}


def _sent(request: Request) -> str | None:
    """The key of a request. An Authorization of another kind is for somebody on the way."""
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    return text.strip() if kind.lower() == "bearer" else request.cookies.get(COOKIE)


def _has_token(scope: Connection) -> bool:
    """Under an Idempotency-Key there may be an answer already, for which there is always room."""
    return any(name == b"idempotency-key" for name, _ in scope["headers"])


def _anybody(scope: Connection) -> Caller:
    return Caller(_address(scope), frozenset(Scope))


def _address(scope: Connection) -> str:
    """An IPv6 address is cut to its /64, which is what one subscriber has."""
    host = scope["client"][0] if scope.get("client") else "local"  # a Unix socket has no address
    with suppress(ValueError):  # what a proxy passes on may be anything
        address = IPv6Address(host)
        host = str(address.ipv4_mapped or ip_network((address, 64), strict=False))
    return f"net:{host}"


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
