"""Micro-batching: many threads submit items, one thread runs them in batches. Standard library only.

A batch's window opens when its first item was submitted and closes when the batch is full or `window` seconds later;
while one batch runs the next one gathers. Items of different keys never share a batch. If a batch raises, its items
are run one by one, so that only the bad one fails.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class BatcherStopped(Exception):
    """The batcher ended before it came to this item."""


class Expired(Exception):
    """The item's deadline passed while it waited."""


class Ticket(Future[Answer], Generic[Item, Answer]):
    """The future of one submitted item; `cancel()` takes it out as long as its batch has not begun."""

    def __init__(self, item: Item, deadline: float | None) -> None:
        super().__init__()
        self.item = item
        self.deadline = deadline  # on time.monotonic's clock
        self.submitted = time.monotonic()
        self.began = 0.0
        self.ended = 0.0

    @property
    def waited(self) -> float:
        """Seconds from submission to the start of its batch."""
        return self.began - self.submitted

    @property
    def ran(self) -> float:
        """Seconds that its batch took."""
        return self.ended - self.began


class Batcher(Generic[Item, Answer]):
    """`run(key, items)` returns one answer an item, in order; an answer that is an exception fails that item alone.

    `run` is only ever called from the batcher's own thread, as is whatever is given to `call`: one thread owns the
    device.
    """

    def __init__(
        self,
        run: Callable[[Any, list[Item]], Sequence[Answer | Exception]],
        *,
        size: int,
        window: float,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run, self._size, self._window, self._on_batch = run, size, window, on_batch
        self._queues: dict[Hashable, deque[Ticket[Item, Answer]]] = {}
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._loop, name="device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, item: Item, *, key: Hashable = None, deadline: float | None = None) -> Ticket[Item, Answer]:
        """Queue an item. Raises BatcherStopped after `stop`."""
        ticket: Ticket[Item, Answer] = Ticket(item, deadline)
        with self._changed:
            self._refuse_when_stopping()
            self._queues.setdefault(key, deque()).append(ticket)
            self._changed.notify()
        return ticket

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Run something else on the batcher's thread, between two batches."""
        future: Future[Any] = Future()
        with self._changed:
            self._refuse_when_stopping()
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """End the thread: after everything submitted has run, or with `drain=False` after the batch in hand."""
        with self._changed:
            self._stopping = True
            left = [] if drain else [ticket for queue in self._queues.values() for ticket in queue]
            if not drain:
                for queue in self._queues.values():
                    queue.clear()  # `_gather` may be waiting beside one of them
                self._queues.clear()
            self._changed.notify()
        for ticket in left:
            if ticket.set_running_or_notify_cancel():
                ticket.set_exception(BatcherStopped("the batcher was stopped"))
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def busy_seconds(self) -> float:
        """How long the present batch or call has been running; 0 when idle."""
        since = self._busy_since
        return time.monotonic() - since if since is not None else 0.0

    @property
    def pending(self) -> int:
        with self._changed:
            return sum(map(len, self._queues.values()))

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise BatcherStopped("the batcher was stopped")

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._queues and not self._calls and not self._stopping:
                    self._changed.wait()
                if self._calls:
                    function, future = self._calls.popleft()
                elif self._queues:
                    function = None
                    key, batch = self._gather()
                else:
                    return
            self._busy_since = time.monotonic()
            try:
                if function is not None:
                    _resolve(future, function)
                elif batch:
                    self._run_batch(key, batch)
            finally:
                self._busy_since = None

    def _gather(self) -> tuple[Hashable, list[Ticket[Item, Answer]]]:
        """Wait for the window of the oldest item to close and take its batch. Called with the lock held."""
        key = min(self._queues, key=lambda k: self._queues[k][0].submitted)
        queue = self._queues[key]
        closes = queue[0].submitted + self._window
        while len(queue) < self._size and not self._stopping:
            left = closes - time.monotonic()
            if left <= 0:
                break
            self._changed.wait(left)
        batch: list[Ticket[Item, Answer]] = []
        now = time.monotonic()
        while queue and len(batch) < self._size:
            ticket = queue.popleft()
            if not ticket.set_running_or_notify_cancel():
                continue
            if ticket.deadline is not None and now >= ticket.deadline:
                ticket.set_exception(Expired("its deadline passed while it waited for a batch"))
                continue
            batch.append(ticket)
        if not queue:
            self._queues.pop(key, None)
        return key, batch

    def _run_batch(self, key: Hashable, batch: list[Ticket[Item, Answer]]) -> None:
        began = time.monotonic()
        for ticket in batch:
            ticket.began = began
        try:
            answers = self._run(key, [ticket.item for ticket in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"run() gave {len(answers)} answers for {len(batch)} items; it must give one each")
        except Exception as error:
            if len(batch) > 1:
                for ticket in batch:
                    self._run_batch(key, [ticket])
                return
            answers = [error]
        ended = time.monotonic()
        self._on_batch(len(batch), ended - began)
        for ticket, answer in zip(batch, answers, strict=True):
            ticket.ended = ended
            if isinstance(answer, Exception):
                ticket.set_exception(answer)
            else:
                ticket.set_result(answer)


def _resolve(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
