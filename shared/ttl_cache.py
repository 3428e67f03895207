"""A cached value with a time to live, for what is read far more often than it changes."""

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

TTL_SECONDS = 1.0


class TTLCache(Generic[T]):
    """One cached value. `value` is what was read last; `get` reads it again once it has expired or is None."""

    def __init__(self, read: Callable[[], Awaitable[T]], value: T) -> None:
        self._read, self.value, self._read_at = read, value, 0.0

    async def get(self) -> T:
        """The value. Raises what `read` does: the cached value is kept then, and read again when the TTL is over."""
        if self.value is None or time.monotonic() - self._read_at > TTL_SECONDS:
            self._read_at = time.monotonic()  # one caller refreshes it; those that come meanwhile get the old value
            self.value = await self._read()
            self._read_at = time.monotonic()
        return self.value
