"""Short jobs that were delivered together run together, in one thread: claimed and stored in one round trip each.

A thread that sleeps and wakes for every job and for every reply of Redis finds its code and data gone from the core's
cache each time, which costs more than the work. The queue still runs each job in a thread of its own, which waits here
until the leader, the first of them, has run the job, or runs it itself where another one takes long.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from shared.jobs.records import ClaimedJob, SkippedJob

Rest = ClaimedJob | SkippedJob | None
"""What is left to do for the thread of a job: to run what the leader has claimed, or nothing."""


class Group:
    """Jobs that run together."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.rest: dict[str, Future[Rest]] = {job_id: Future() for job_id in ids}
        self._led = threading.Lock()

    def lead(self) -> bool:
        """True for the first thread that calls it, which has to set every future of `rest`."""
        return self._led.acquire(blocking=False)


class Groups:
    """The groups whose jobs were delivered. Methods may be called from any thread."""

    def __init__(self, lanes: int) -> None:
        """`lanes`: groups that should run at the same time, so that every core has work."""
        self._lanes, self._running = lanes, 0
        self._lock = threading.Lock()
        self._of: dict[str, Group] = {}

    def expect(self, together: Sequence[str], alone: Sequence[str]) -> None:
        """These jobs are about to be run: some may run together, others not."""
        with self._lock:
            for job_id in alone:  # it may have been expected before a connection was lost
                self._of.pop(job_id, None)
            free = max(1, self._lanes - self._running)
            for lane in range(free):
                ids = together[lane::free]
                group = Group(ids) if len(ids) > 1 else None
                for job_id in ids:
                    if group is None:
                        self._of.pop(job_id, None)
                    else:
                        self._of[job_id] = group

    def take(self, job_id: str) -> Group | None:
        """The group of a job, once; None: it runs alone."""
        with self._lock:
            return self._of.pop(job_id, None)

    def began(self) -> None:
        """A group runs."""
        with self._lock:
            self._running += 1

    def ended(self) -> None:
        """It has ended."""
        with self._lock:
            self._running -= 1
