"""A short-lived cache of rejections: a caller who met a full queue is refused again before its upload is read."""

import time

from otoscope.errors import QueueFull

TTL_SECONDS = 0.2
"""How long a rejection is repeated: in that time a few places in the queue become free."""

MAX_CALLERS = 10_000

_STALE_SECONDS = 1.0  # after its end, a rejection older than this is ignored


class RecentRejections:
    """By caller name."""

    def __init__(self) -> None:
        self._rejections: dict[str, tuple[float, QueueFull]] = {}  # until when, and the error

    def check(self, caller: str) -> None:
        """Raises QueueFull where the caller was rejected within TTL_SECONDS.

        When the time is over, one request is let through to try, and the others are rejected for as long again.
        """
        until, error = self._rejections.get(caller, (0.0, None))
        overdue = time.monotonic() - until
        if error is None or overdue > _STALE_SECONDS:
            return
        if overdue < 0:
            raise QueueFull(error.detail, retry_after=error.retry_after)
        self._rejections[caller] = time.monotonic() + TTL_SECONDS, error

    def add(self, caller: str, error: QueueFull) -> None:
        if len(self._rejections) >= MAX_CALLERS:
            self._rejections.clear()
        self._rejections[caller] = time.monotonic() + TTL_SECONDS, error

    def remove(self, caller: str) -> None:
        self._rejections.pop(caller, None)
