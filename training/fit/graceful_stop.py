"""Stops the training loop on SIGINT and SIGTERM between two steps rather than in the middle of one."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class GracefulStop:
    """Context manager: SIGINT and SIGTERM set `requested`; a second signal has its usual effect.

    Outside the main thread signals cannot be handled, and it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "GracefulStop":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())
