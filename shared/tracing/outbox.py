"""Finished spans on their way to the collector, sent in the background in batches.

A collector that is away, slow or refuses costs whoever makes spans nothing: so many wait, more are dropped. That is
said once, and once more when it is over.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence

from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
)
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger(__name__)


class Outbox(SpanProcessor):
    """How many wait, how many go at a time and how often are OTEL_BSP_ variables. Raises ValueError for one of them."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._most = _number(OTEL_BSP_MAX_QUEUE_SIZE, 2_048)
        self._at_a_time = min(_number(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, 512), self._most)
        self._delay = _number(OTEL_BSP_SCHEDULE_DELAY, 5_000) / 1e3
        self._waiting: deque[ReadableSpan] = deque()
        self._dropped = 0  # since the collector last took something
        self._lock = threading.Lock()
        self._wake, self._ending = threading.Event(), False
        # Its own words for a collector that is away come with every batch; ours once.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        if not span.context.trace_flags.sampled:
            return
        if len(self._waiting) >= self._most:
            self._drop(1)
            return
        self._waiting.append(span)
        if len(self._waiting) >= self._at_a_time:
            self._wake.set()

    def close(self, seconds: float) -> None:
        """Send what waits; what the collector has not taken after so many seconds is lost."""
        self._ending = True
        self._wake.set()
        self._thread.join(seconds)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait(self._delay)
            self._wake.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._at_a_time))]
                if self._sent(batch):
                    self._took()
                else:
                    self._drop(len(batch))
                if len(self._waiting) < self._at_a_time and not self._ending:
                    break

    def _sent(self, batch: Sequence[ReadableSpan]) -> bool:
        try:
            return self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:  # without its thread nothing would ever be sent again
            return False

    def _drop(self, count: int) -> None:
        with self._lock:
            first, self._dropped = not self._dropped, self._dropped + count
        if first:
            log.warning("the collector of OTOSCOPE_OTLP_ENDPOINT does not take traces as fast as they come, or at all;"
                        " what has no place is dropped")  # fmt: skip

    def _took(self) -> None:
        """A collector that is merely slow has taken enough when half of the places are free again."""
        with self._lock:
            if not self._dropped or len(self._waiting) > self._most / 2:
                return
            dropped, self._dropped = self._dropped, 0
        log.info("the collector takes traces again; %d spans were dropped", dropped)


def _number(name: str, otherwise: int) -> int:
    try:
        number = int(os.environ.get(name) or otherwise)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a whole number above 0")
    return number
