"""The same work on many files at once: answers in order, and never more of them in memory than are being worked on."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Work = TypeVar("Work")
Answer = TypeVar("Answer")


def map_ordered(function: Callable[[Work], Answer], works: Iterable[Work]) -> Iterator[Answer]:
    """Threads are enough: decoding and resampling let go of the interpreter."""
    threads = min(os.cpu_count() or 1, 16)
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[Answer]] = deque()
    try:
        for work in works:
            pending.append(pool.submit(function, work))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
