"""The rate limit of a key: a token bucket for each one."""

import math
import time
from collections.abc import Callable

from shared.api_keys import Key


class RateLimiter:
    """Counts submissions by key. A bucket lives in this process, so several gateways multiply the rate."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _TokenBucket] = {}

    def acquire(self, key: Key) -> int:
        """Take a token: 0 where there was one, else the seconds until there is one."""
        if key.rate_per_minute is None:
            return 0
        bucket = self._buckets.get(key.id)
        if bucket is None or bucket.rate_per_minute != key.rate_per_minute:
            bucket = self._buckets[key.id] = _TokenBucket(key.rate_per_minute, self._clock())
        return math.ceil(bucket.acquire(self._clock()))

    def charge(self, key: Key, count: int) -> None:
        """Take tokens that need not be there; the next submission waits until the bucket has one again."""
        if bucket := self._buckets.get(key.id):
            bucket.charge(count)


class _TokenBucket:
    """Holds the tokens of one minute, at least one, and is refilled at `rate_per_minute`."""

    def __init__(self, rate_per_minute: float, now: float) -> None:
        self.rate_per_minute = rate_per_minute
        self._capacity = max(rate_per_minute, 1.0)
        self._tokens, self._refilled_at = self._capacity, now

    def acquire(self, now: float) -> float:
        """0 where a token was left, else the seconds until one is."""
        per_second = self.rate_per_minute / 60
        self._tokens = min(self._capacity, self._tokens + (now - self._refilled_at) * per_second)
        self._refilled_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / per_second
        self._tokens -= 1
        return 0.0

    def charge(self, count: int) -> None:
        self._tokens -= count
