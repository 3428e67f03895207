"""Micro-batching: many threads submit items, few threads run them in batches. Standard library only.

The window of a batch opens when its first item is submitted. It closes when the batch is full or `window` seconds
later; while batches run, the next one fills. Items of different keys never share a batch. If a batch raises, each of
its halves is run separately, and so on: a bad item fails alone, and a batch that is too large for the device still
runs.
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
    """The batcher was stopped before it ran this item."""


class Expired(Exception):
    """The item's deadline passed before its batch started."""


class ItemFuture(Future[Answer], Generic[Item, Answer]):
    """The future of one submitted item; `cancel()` removes it as long as its batch has not started.

    Times are of time.monotonic.
    """

    def __init__(self, item: Item, deadline: float | None) -> None:
        super().__init__()
        self.item = item
        self.deadline = deadline
        self.submitted_at = time.monotonic()
        self.started_at = 0.0  # of its batch
        self.finished_at = 0.0

    @property
    def wait_seconds(self) -> float:
        """From submission to the start of its batch."""
        return self.started_at - self.submitted_at

    @property
    def run_seconds(self) -> float:
        """Duration of its batch."""
        return self.finished_at - self.started_at


class Batcher(Generic[Item, Answer]):
    """`run(key, items)` returns one answer per item, in order; an answer that is an exception fails that item alone.

    `run`, and functions given to `call`, run only in the batcher's own threads, which own the device. There are
    `device_threads` of them, each of which runs one batch at a time.
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
        """`size` is the largest batch, `window` in seconds; `on_batch(size, seconds)` is called after each batch."""
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
        """Start the threads. Items may be submitted before."""
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item, *, key: Hashable = None, deadline: float | None = None) -> ItemFuture[Item, Answer]:
        """Queue an item. Raises BatcherStopped after `stop`."""
        future: ItemFuture[Item, Answer] = ItemFuture(item, deadline)
        with self._changed:
            self._require_running()
            self._queues.setdefault(key, deque()).append(future)
            self._changed.notify()
        return future

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function in one of the batcher's threads, between two batches. Raises BatcherStopped after `stop`."""
        future: Future[Any] = Future()
        with self._changed:
            self._require_running()
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """End the threads: after all that was submitted has run, or with `drain=False` after their current batches.

        What has not run then fails with BatcherStopped. Waits at most `timeout` seconds for the threads.
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
        if not any(thread.is_alive() for thread in self._threads):  # or none was ever started
            with self._changed:
                left = self._take_all()
            _fail(left)

    @property
    def busy_seconds(self) -> float:
        """How long the oldest of the current batches and calls has been running; 0 when idle."""
        since = list(self._busy_since.values())
        return time.monotonic() - min(since) if since else 0.0

    @property
    def pending(self) -> int:
        """Number of items whose batch has not started."""
        with self._changed:
            return sum(map(len, self._queues.values()))

    def _require_running(self) -> None:
        if self._stopping:
            raise BatcherStopped("the batcher was stopped")

    def _take_all(self) -> list[Future[Any]]:
        """Remove everything that waits. Called with the lock held."""
        left: list[Future[Any]] = [future for queue in self._queues.values() for future in queue]
        left += [future for _, future in self._calls]
        self._queues.clear()
        self._calls.clear()
        return left

    def _loop(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        """Run the next batch or call; False after the last one. On return no reference to it is left: a frame that
        outlived it would keep its items, and the model that is its key, in memory while the thread is idle."""
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
            if self._queues or self._calls:  # `notify` woke only this thread, which is busy from now on
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
        """When the batch of a key should start: the oldest goes first, but a full one does not wait for its window."""
        queue = self._queues[key]
        closed = self._stopping or len(queue) >= self._size
        return queue[0].submitted_at + (0.0 if closed else self._window)

    def _take(self, key: Hashable) -> list[ItemFuture[Item, Answer]]:
        """The next batch of a key, without cancelled and expired items. Called with the lock held."""
        queue = self._queues[key]
        batch: list[ItemFuture[Item, Answer]] = []
        now = time.monotonic()
        while queue and len(batch) < self._size:
            future = queue.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            if future.deadline is not None and now >= future.deadline:
                future.set_exception(Expired("its deadline passed while it waited for a batch"))
                continue
            batch.append(future)
        if not queue:
            del self._queues[key]
        return batch

    def _run_batch(self, key: Hashable, batch: list[ItemFuture[Item, Answer]]) -> None:
        started = self._busy_since[threading.get_ident()] = time.monotonic()
        for future in batch:
            future.started_at = started
        answers = self._attempt(key, batch)
        if isinstance(answers, Exception):
            # A traceback references the locals of its frames, device memory included, which may be what was short.
            traceback.clear_frames(answers.__traceback__)
            if len(batch) > 1:
                middle = len(batch) // 2
                self._run_batch(key, batch[:middle])
                self._run_batch(key, batch[middle:])
                return
            answers = [answers]
        finished = time.monotonic()
        for future, answer in zip(batch, answers, strict=True):
            future.finished_at = finished
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        try:
            self._on_batch(len(batch), finished - started)
        except Exception:  # must not end the thread: no item would be answered any more
            log.exception("on_batch failed")

    def _attempt(
        self, key: Hashable, batch: list[ItemFuture[Item, Answer]]
    ) -> Sequence[Answer | Exception] | Exception:
        """The answers of `run`, or what it raised."""
        try:
            answers = self._run(key, [future.item for future in batch])
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
