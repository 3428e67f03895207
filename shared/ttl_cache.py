"""What is looked up so often that a second-old answer has to do."""

import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

SECONDS = 1.0


class Recent(Generic[T]):
    """`value` is what was read last; `get` reads it again once it is old, and whenever it is None."""

    def __init__(self, read: Callable[[], Awaitable[T]], value: T) -> None:
        self._read, self.value, self._read_at = read, value, 0.0

    async def get(self) -> T:
        """Raises what reading does; the value stays then, and is tried again when it is old once more."""
        if self.value is None or time.monotonic() - self._read_at > SECONDS:
            self._read_at = time.monotonic()  # one reads it anew, whom the others need not follow
            self.value = await self._read()
            self._read_at = time.monotonic()
        return self.value
