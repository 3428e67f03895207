"""The windows of one job through the batcher, at most one batch at a time, so that short sounds get in between."""

from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TypeVar

from otoscope.errors import DeadlineExceeded, JobCancelled
from otoscope.types import Timings
from shared import tracing
from worker.inference.batcher import Batcher, Expired
from worker.inference.engine import LoadedModel, SpectrogramOnly, Window, WindowOutput
from worker.pipeline.inflight import InFlightJob

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that pauses where it would wait, so that one thread can run that of several jobs in turn."""


def finish(steps: Steps[T]) -> T:
    """Run all steps; what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            result: T = ended.value
            return result


class JobNetwork:
    """`run` for one job; its `timings` are filled in. Nothing here is for more than one thread."""

    def __init__(
        self, batcher: Batcher[Window, WindowOutput], batch_size: int, in_flight: InFlightJob, timings: Timings
    ) -> None:
        self._batcher, self.batch_size, self.in_flight, self._timings = batcher, batch_size, in_flight, timings

    def run(self, model: LoadedModel | SpectrogramOnly, windows: Sequence[Window]) -> Steps[list[WindowOutput]]:
        """One output for each window; pauses while a batch runs.

        Raises JobCancelled, DeadlineExceeded, or what the network raises.
        """
        outputs: list[WindowOutput] = []
        in_flight, timings = self.in_flight, self._timings
        if trace_link := tracing.current_link():
            windows = [replace(window, trace_link=trace_link) for window in windows]
        for at in range(0, len(windows), self.batch_size):
            in_flight.check()
            in_flight.futures = futures = [
                self._batcher.submit(window, key=model, deadline=in_flight.deadline)
                for window in windows[at : at + self.batch_size]
            ]
            try:
                yield
                in_flight.check()  # a cancellation between the check above and the submission found no futures
                outputs += [future.result(timeout=max(in_flight.seconds_left, 0) + 5) for future in futures]
            except CancelledError as error:
                raise JobCancelled("The job was cancelled.") from error
            except (Expired, TimeoutError) as error:
                raise DeadlineExceeded("The job's deadline passed while it waited for the network.") from error
            finally:
                for future in futures:  # the other windows of a job that has failed are not needed
                    future.cancel()
            timings.batch = round((timings.batch or 0.0) + max(future.wait_seconds for future in futures), 6)
            began, ended = min(future.started_at for future in futures), max(future.finished_at for future in futures)
            timings.forward = round((timings.forward or 0.0) + ended - began, 6)
            tracing.record_span("batch_wait", futures[0].submitted_at, began)
            tracing.record_span("forward", began, ended, trace_link)
        return outputs
