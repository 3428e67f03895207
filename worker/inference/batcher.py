"""Micro-batching: many threads submit items, few threads run them in batches. Standard library only.

A batch's window opens when its first item was submitted and closes when the batch is full or `window` seconds later;
while batches run the next one gathers. Items of different keys never share a batch. If a batch raises, its halves are
run by themselves, and theirs in turn: a bad item fails alone, and a batch that was too large for the device goes on.
"""

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class BatcherStopped(Exception):
    """The batcher ended before it came to this item."""


class Expired(Exception):
    """The item's deadline passed while it waited."""


class ItemFuture(Future[Answer], Generic[Item, Answer]):
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

    `run` is only ever called from the batcher's own threads, as is whatever is given to `call`: they own the device.
    There are `device_threads` of them, each of which runs one batch at a time.
    """

    def __init__(
        self,
        run: Callable[[Any, list[Item]], Sequence[Answer | Exception]],
        *,
        size: int,
        window: float,
        device_threads: int = 1,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run, self._size, self._window, self._on_batch = run, size, window, on_batch
        self._queues: dict[Hashable, deque[ItemFuture[Item, Answer]]] = {}
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._busy_since: dict[int, float] = {}  # by thread
        self._threads = [
            threading.Thread(target=self._loop, name=f"device-{n}", daemon=True) for n in range(device_threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item, *, key: Hashable = None, deadline: float | None = None) -> ItemFuture[Item, Answer]:
        """Queue an item. Raises BatcherStopped after `stop`."""
        ticket: ItemFuture[Item, Answer] = ItemFuture(item, deadline)
        with self._changed:
            self._refuse_when_stopping()
            self._queues.setdefault(key, deque()).append(ticket)
            self._changed.notify()
        return ticket

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Run something else on one of the batcher's threads, between two batches of it."""
        future: Future[Any] = Future()
        with self._changed:
            self._refuse_when_stopping()
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """End the threads: after everything submitted has run, or with `drain=False` after what they have in hand.

        What is left then fails with BatcherStopped.
        """
        with self._changed:
            self._stopping = True
            left = [] if drain else self._take_all()
            self._changed.notify_all()
        _fail(left)
        until = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(None if until is None else max(until - time.monotonic(), 0))
        if not any(thread.is_alive() for thread in self._threads):  # or there never was one
            with self._changed:
                left = self._take_all()
            _fail(left)

    @property
    def busy_seconds(self) -> float:
        """How long the oldest of the present batches and calls has been running; 0 when idle."""
        since = list(self._busy_since.values())
        return time.monotonic() - min(since) if since else 0.0

    @property
    def pending(self) -> int:
        with self._changed:
            return sum(map(len, self._queues.values()))

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise BatcherStopped("the batcher was stopped")

    def _take_all(self) -> list[Future[Any]]:
        """Everything that waits. Called with the lock held."""
        left: list[Future[Any]] = [ticket for queue in self._queues.values() for ticket in queue]
        left += [future for _, future in self._calls]
        self._queues.clear()
        self._calls.clear()
        return left

    def _loop(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        """Do the next thing; False when there will be none. What it worked on is let go of on return."""
        with self._changed:
            while not self._calls:
                if self._queues:
                    key = min(self._queues, key=self._due)
                    left = self._due(key) - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                elif self._stopping:
                    return False
                else:
                    self._changed.wait()
            call = self._calls.popleft() if self._calls else None
            batch = [] if call else self._take(key)
            if self._queues or self._calls:  # a notification wakes one thread, which has its hands full now
                self._changed.notify()
        own = threading.get_ident()
        self._busy_since[own] = time.monotonic()
        try:
            if call:
                _resolve(*call)
            elif batch:
                self._run_batch(key, batch)
        finally:
            del self._busy_since[own]
        return True

    def _due(self, key: Hashable) -> float:
        """When the batch of a key should leave. The oldest goes first, but a full one waits for no open window."""
        queue = self._queues[key]
        closed = self._stopping or len(queue) >= self._size
        return queue[0].submitted + (0.0 if closed else self._window)

    def _take(self, key: Hashable) -> list[ItemFuture[Item, Answer]]:
        """The next batch of a key, without what was cancelled or came too late. Called with the lock held."""
        queue = self._queues[key]
        batch: list[ItemFuture[Item, Answer]] = []
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
            del self._queues[key]
        return batch

    def _run_batch(self, key: Hashable, batch: list[ItemFuture[Item, Answer]]) -> None:
        began = self._busy_since[threading.get_ident()] = time.monotonic()
        for ticket in batch:
            ticket.began = began
        answers = self._attempt(key, batch)
        if isinstance(answers, Exception):
            # A traceback keeps what its frames held: device memory too, which may be what was short.
            traceback.clear_frames(answers.__traceback__)
            if len(batch) > 1:
                middle = len(batch) // 2
                self._run_batch(key, batch[:middle])
                self._run_batch(key, batch[middle:])
                return
            answers = [answers]
        ended = time.monotonic()
        for ticket, answer in zip(batch, answers, strict=True):
            ticket.ended = ended
            if isinstance(answer, Exception):
                ticket.set_exception(answer)
            else:
                ticket.set_result(answer)
        try:
            self._on_batch(len(batch), ended - began)
        except Exception:  # without its thread nobody would get an answer any more
            log.exception("on_batch failed")

    def _attempt(
        self, key: Hashable, batch: list[ItemFuture[Item, Answer]]
    ) -> Sequence[Answer | Exception] | Exception:
        try:
            answers = self._run(key, [ticket.item for ticket in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"run() gave {len(answers)} answers for {len(batch)} items; it must give one each")
            return answers
        except Exception as error:
            return error


def _resolve(function: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)


def _fail(futures: list[Future[Any]]) -> None:
    for future in futures:
        if future.set_running_or_notify_cancel():
            future.set_exception(BatcherStopped("the batcher was stopped"))
