"""The bytes that uploads in progress and unread responses hold: bounded for all, and for each caller.

`api.middleware.limits` gives every request a `RequestMemory`, and releases what it holds at its end.
"""

import asyncio
from collections import Counter

from starlette.requests import HTTPConnection
from starlette.types import Scope

from otoscope.errors import RateLimited, TooManyConnections

JSON_GROWTH = 4
"""A packed result as JSON takes up to so many times as much memory, the packed form included."""


_RETRY_SECONDS = 0.5


class Budget:
    """Bytes that the requests of one kind hold, of at most `limit`; one caller holds at most `share` of it."""

    def __init__(self, kind: str, limit: int, share: float) -> None:
        self.kind, self._limit, self._of_one = kind, limit, limit * share
        self.used = 0
        self._by_caller: Counter[str] = Counter()

    def take(self, caller: str, size: int) -> None:
        """Raises TooManyConnections where there is no room for so many more bytes, or RateLimited where the caller has
        its share. An empty budget has room for any."""
        if self.used and self.used + size > self._limit:
            raise TooManyConnections(
                f"The {self.kind} in progress hold {self.used:,} bytes, and {self._limit:,} are the limit; try again.",
                retry_after=2,
            )
        if self.used and self._by_caller[caller] + size > self._of_one:
            raise RateLimited(
                f"Your {self.kind} in progress hold {self._by_caller[caller]:,} bytes, and {self._of_one:,.0f} are the"
                " limit for one caller; try again.",
                retry_after=2,
            )
        self.used += size
        self._by_caller[caller] += size

    def release(self, caller: str, size: int) -> None:
        self.used -= size
        self._by_caller[caller] -= size
        if self._by_caller[caller] <= 0:
            del self._by_caller[caller]


class RequestMemory:
    """What one request holds. The caller is the API key, or the address."""

    def __init__(self, scope: Scope, uploads: Budget, responses: Budget) -> None:
        self._scope, self._uploads, self._responses = scope, uploads, responses
        self._caller: str | None = None
        self._received = self._held = 0

    @property
    def caller(self) -> str:
        """Who holds the bytes. Constant from its first use, since what is released must be what was taken."""
        if self._caller is None:
            known = self._scope.get("state", {}).get("caller")
            self._caller = known.name if known else (self._scope.get("client") or ("",))[0]
        return self._caller

    def receive(self, size: int) -> None:
        """So many bytes of the upload have arrived. Raises what `Budget.take` does."""
        self._uploads.take(self.caller, size)
        self._received += size

    def hold(self, size: int) -> None:
        """The response takes so many bytes from now on, in place of what was held. Raises what `Budget.take`
        does."""
        if size > self._held:
            self._responses.take(self.caller, size - self._held)
        elif size < self._held:
            self._responses.release(self.caller, self._held - size)
        else:
            return
        self._held = size

    async def wait_to_hold(self, size: int) -> None:
        """`hold` as soon as there is room: for a response that has begun."""
        while True:
            try:
                return self.hold(size)
            except (RateLimited, TooManyConnections):
                await asyncio.sleep(_RETRY_SECONDS)

    def release(self) -> None:
        """The request has ended."""
        self.hold(0)
        if self._received:
            self._uploads.release(self.caller, self._received)
            self._received = 0


def memory_of(request: HTTPConnection) -> RequestMemory:
    """What this request holds."""
    memory: RequestMemory = request.state.memory
    return memory
