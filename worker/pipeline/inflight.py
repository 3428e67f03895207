"""The in-flight jobs of a worker: each once, until it is finished, requeued, cancelled or past its deadline."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from otoscope.errors import DeadlineExceeded, JobCancelled
from otoscope.types import Progress
from shared.jobs.records import ClaimedJob
from worker.inference.batcher import ItemFuture
from worker.inference.engine import Window, WindowOutput


@dataclass(eq=False)
class InFlightJob:
    """A job that this worker has claimed and not finished. `cancel` may be called from any thread."""

    id: str
    deadline: float  # on the clock of time.monotonic
    cancelled: threading.Event = field(default_factory=threading.Event)
    futures: list[ItemFuture[Window, WindowOutput]] = field(default_factory=list)  # its windows in the batcher
    release_others: Callable[[], None] | None = None  # where other jobs wait for its thread: they go on in their own
    progress: Progress | None = None  # of a job with more windows than a batch
    reported: Progress | None = None  # the progress that is stored

    def cancel(self) -> None:
        """Remove its windows from the batcher; the next `check` raises JobCancelled."""
        self.cancelled.set()
        for future in list(self.futures):
            future.cancel()

    @property
    def seconds_left(self) -> float:
        """Until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    def check(self) -> None:
        """Raises JobCancelled or DeadlineExceeded."""
        if self.cancelled.is_set():
            raise JobCancelled("The job was cancelled.")
        if self.seconds_left <= 0:
            raise DeadlineExceeded("The job's deadline passed before it was finished.")


class InFlightJobs:
    """The set of in-flight jobs; thread-safe. `on_change` is called with their number whenever it changes."""

    def __init__(self, on_change: Callable[[float], None]) -> None:
        self._on_change = on_change
        self._finished: dict[str, threading.Event] = {}  # by job id, from its delivery to its end
        self._jobs: set[InFlightJob] = set()
        self._lock = threading.Lock()

    @property
    def jobs(self) -> list[InFlightJob]:
        """A copy of the set."""
        with self._lock:
            return list(self._jobs)

    @contextmanager
    def exclusive(self, job_id: str) -> Iterator[None]:
        """Blocks while this worker handles another delivery of the same job.

        After a lost connection, jobs are delivered again that are still in flight here. Running them twice is useless,
        and counting the second delivery as a crash of a worker is wrong: it waits, and then finds the stored result of
        the first.
        """
        finished = threading.Event()
        while (first := self._finished.setdefault(job_id, finished)) is not finished:
            first.wait()
        try:
            yield
        finally:
            del self._finished[job_id]
            finished.set()

    @contextmanager
    def track(self, job: ClaimedJob, release_others: Callable[[], None] | None = None) -> Iterator[InFlightJob]:
        """The job is in flight within the `with` block; `release_others` is that of InFlightJob."""
        in_flight = InFlightJob(job.id, time.monotonic() + job.seconds_left, release_others=release_others)
        with self._lock:
            self._jobs.add(in_flight)
            self._on_change(len(self._jobs))
        try:
            yield in_flight
        finally:
            with self._lock:
                self._jobs.discard(in_flight)
                self._on_change(len(self._jobs))
