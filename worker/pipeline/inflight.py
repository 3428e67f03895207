"""What a worker has in hand: each job once, until it is done, given back, cancelled or past its deadline."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from otoscope.errors import DeadlineExceeded, JobCancelled
from shared.jobs.records import Work
from worker.inference.batcher import ItemFuture
from worker.inference.engine import Window, WindowOutput


@dataclass(eq=False)
class InFlightJob:
    """A job that this worker is working on. `cancel` may be called from any thread."""

    id: str
    deadline: float  # on time.monotonic's clock
    cancelled: threading.Event = field(default_factory=threading.Event)
    tickets: list[ItemFuture[Window, WindowOutput]] = field(default_factory=list)

    def cancel(self) -> None:
        self.cancelled.set()
        for ticket in list(self.tickets):
            ticket.cancel()

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def check(self) -> None:
        """Raises JobCancelled or DeadlineExceeded."""
        if self.cancelled.is_set():
            raise JobCancelled("The job was cancelled.")
        if self.seconds_left <= 0:
            raise DeadlineExceeded("The job's deadline passed before it was finished.")


class InFlightJobs:
    """Called from many threads at once. `tell` is told how many jobs are held whenever that changes."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell
        self._delivered: dict[str, threading.Event] = {}  # by job id, from its delivery to its end
        self._held: set[InFlightJob] = set()
        self._lock = threading.Lock()

    @property
    def held(self) -> list[InFlightJob]:
        with self._lock:
            return list(self._held)

    @contextmanager
    def sole(self, job_id: str) -> Iterator[None]:
        """After a lost connection jobs are delivered again that are still in hand here. Doing them twice is of no use,
        and counting it as a death is wrong: the second delivery waits, and then finds what the first has stored."""
        own = threading.Event()
        while (first := self._delivered.setdefault(job_id, own)) is not own:
            first.wait()
        try:
            yield
        finally:
            del self._delivered[job_id]
            own.set()

    @contextmanager
    def hold(self, work: Work) -> Iterator[InFlightJob]:
        """A started job, for as long as it is worked on."""
        held = InFlightJob(work.id, time.monotonic() + work.seconds_left)
        with self._lock:
            self._held.add(held)
            self._tell(len(self._held))
        try:
            yield held
        finally:
            with self._lock:
                self._held.discard(held)
                self._tell(len(self._held))
