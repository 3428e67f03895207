"""Sends finished spans to the collector in the background: OpenTelemetry's BatchSpanProcessor, with three guarantees.

- Its shutdown takes a time limit. OpenTelemetry's own waits up to 30 s for a collector that does not answer
  (https://github.com/open-telemetry/opentelemetry-python/issues/4623).
- While the collector is down, slow or refuses, that is logged once, and once more with the number of lost spans when it
  is over. OpenTelemetry's own classes log it with every batch.
- A variable that is not a number is refused, where OpenTelemetry logs it and uses the default.

Making spans never waits for the collector: OTEL_BSP_MAX_QUEUE_SIZE spans are queued, further ones are dropped.
"""

import logging
import os
import threading
from collections.abc import Sequence

from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

log = logging.getLogger(__name__)


class BoundedBatchSpanProcessor(BatchSpanProcessor):
    """Queue size, batch size and delay are the OTEL_BSP_ variables. Raises ValueError for one that is not usable."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._queue_size = _positive_int(OTEL_BSP_MAX_QUEUE_SIZE, 2_048)
        batch_size = min(_positive_int(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, 512), self._queue_size)
        delay = _positive_int(OTEL_BSP_SCHEDULE_DELAY, 5_000)  # ms
        # The exporter's own messages about a collector that is down come with every batch.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._exporter = _CountingExporter(exporter, self)
        self._lock = threading.Lock()
        self._queued = 0  # spans that the exporter has not received yet
        self._dropped = 0  # spans lost since the last successful export
        self._closed = False
        super().__init__(
            self._exporter, max_queue_size=self._queue_size, schedule_delay_millis=delay,
            max_export_batch_size=batch_size,
        )  # fmt: skip

    def on_end(self, span: ReadableSpan) -> None:
        if self._closed or not (span.context and span.context.trace_flags.sampled):
            return
        with self._lock:
            full = self._queued >= self._queue_size
            self._queued += not full
        if full:
            self.count_dropped(1)
        else:
            super().on_end(span)

    def shutdown(self, seconds: float = 30.0) -> None:
        """Send what is queued; what the collector has not accepted after that many seconds is lost."""
        self._closed = True
        # Its own join takes no time limit; when the limit is over, the exporter fails at once what is still queued.
        closing = threading.Thread(target=super().shutdown, name="traces-shutdown", daemon=True)
        closing.start()
        closing.join(seconds)
        self._exporter.shutdown()

    def count_taken(self, count: int) -> None:
        """So many spans have left the queue."""
        with self._lock:
            self._queued -= count

    def count_dropped(self, count: int) -> None:
        """So many spans are lost; the first of them is logged."""
        with self._lock:
            first, self._dropped = not self._dropped, self._dropped + count
        if first:
            log.warning(
                "the collector of OTOSCOPE_OTLP_ENDPOINT is down, refuses spans or is too slow; spans are dropped"
            )

    def count_exported(self) -> None:
        """An export has succeeded. A collector that was merely slow has caught up when half of the queue is free."""
        with self._lock:
            if not self._dropped or self._queued > self._queue_size / 2:
                return
            dropped, self._dropped = self._dropped, 0
        log.info("the collector accepts spans again; %d spans were dropped", dropped)


class _CountingExporter(SpanExporter):
    """Reports to the processor what became of each batch."""

    def __init__(self, exporter: SpanExporter, processor: BoundedBatchSpanProcessor) -> None:
        self._exporter, self._processor = exporter, processor
        self._shutdown = threading.Lock()  # held from the first shutdown on

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._processor.count_taken(len(spans))
        try:
            result = self._exporter.export(spans)
        except Exception:  # OpenTelemetry would log a traceback for each batch
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._processor.count_exported()
        else:
            self._processor.count_dropped(len(spans))
        return result

    def shutdown(self) -> None:
        if self._shutdown.acquire(blocking=False):
            self._exporter.shutdown()


def _positive_int(name: str, default: int) -> int:
    """An environment variable. Raises ValueError."""
    try:
        number = int(os.environ.get(name) or default)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a whole number above 0")
    return number
