"""How many streams are open: at most so many, and of one caller at most its share."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from otoscope.errors import RateLimited, TooManyConnections


class StreamRegistry:
    """The open streams of one gateway process."""

    def __init__(self, limit: int, share: float) -> None:
        """`share` of `limit` streams may be of one caller."""
        self._limit, self._of_one = limit, math.ceil(limit * share)
        self._open: Counter[str] = Counter()

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """A place for one stream. Raises TooManyConnections or RateLimited."""
        if self._open.total() >= self._limit:
            raise TooManyConnections(f"{self._limit} streams are open, which is the limit; try again.", retry_after=2)
        if self._open[caller] >= self._of_one:
            raise RateLimited(
                f"{self._of_one} of your streams are open, which is the limit for one caller; try again.", retry_after=2
            )
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
