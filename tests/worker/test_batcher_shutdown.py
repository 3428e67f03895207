"""How a batcher stops, calls between batches, and many threads at once."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from tests.worker.conftest import NEVER, SOON, Device, Make, occupy
from worker.inference.batcher import Batcher, BatcherStopped, Expired


def test_a_drained_batcher_has_run_everything(make: Make, device: Device) -> None:
    """No item that was submitted before `stop` is lost, and none waits for its window any more."""
    batcher = make(size=4, window=NEVER)
    futures = [batcher.submit(n, key=n % 2) for n in range(5)]
    batcher.stop(drain=True, timeout=SOON)
    assert [future.result(0) for future in futures] == [f"<{n}>" for n in range(5)]


def test_items_behind_a_running_batch_are_drained(make: Make, device: Device) -> None:
    """A stop in the middle of a batch still runs the next one."""
    batcher = make()
    first = occupy(batcher, device)
    futures = [batcher.submit(n) for n in range(6)]
    stopping = threading.Thread(target=lambda: batcher.stop(timeout=SOON))
    stopping.start()
    device.free.set()
    stopping.join(SOON)
    assert first.result(0) == "<first>"
    assert [future.result(0) for future in futures] == [f"<{n}>" for n in range(6)]


def test_a_stop_without_drain_fails_waiting_items(make: Make, device: Device) -> None:
    """The running batch finishes; everything else, calls included, fails at once instead of hanging."""
    batcher = make()
    first = occupy(batcher, device)
    waiting = [batcher.submit(n, key=n) for n in range(3)]
    call = batcher.call(lambda: "never")
    stopping = threading.Thread(target=lambda: batcher.stop(drain=False, timeout=SOON))
    stopping.start()
    for future in (*waiting, call):
        with pytest.raises(BatcherStopped):
            future.result(SOON)
    device.free.set()
    stopping.join(SOON)
    assert first.result(0) == "<first>"
    assert device.items == [["first"]]


def test_a_stop_without_drain_while_a_window_is_open(make: Make, device: Device) -> None:
    """The thread that waits for the window finds the batch removed, and ends."""
    batcher = make(window=NEVER)
    future = batcher.submit("a")
    batcher.stop(drain=False, timeout=SOON)
    with pytest.raises(BatcherStopped):
        future.result(0)
    assert not batcher._threads[0].is_alive()
    assert device.items == []


def test_a_stopped_batcher_accepts_nothing(make: Make) -> None:
    """Submitting raises instead of blocking forever; a second stop has no effect."""
    batcher = make()
    batcher.stop(timeout=SOON)
    batcher.stop(timeout=SOON)
    with pytest.raises(BatcherStopped):
        batcher.submit("a")
    with pytest.raises(BatcherStopped):
        batcher.call(lambda: None)


def test_a_batcher_that_was_never_started_fails_its_items(device: Device) -> None:
    """A worker that fails at its start can still be closed."""
    batcher: Batcher[Any, Any] = Batcher(device, size=1, window=0)
    future = batcher.submit("a")
    batcher.stop(timeout=SOON)
    with pytest.raises(BatcherStopped):
        future.result(0)


def test_calls_run_on_the_thread_of_the_batches(make: Make, device: Device) -> None:
    """One thread owns the device, for batches and for calls."""
    batcher = make()
    batcher.submit("a").result(SOON)
    assert {batcher.call(threading.get_ident).result(SOON)} == device.threads
    assert threading.get_ident() not in device.threads


def test_a_call_waits_for_no_window(make: Make, device: Device) -> None:
    """Loading a model starts at once, while a batch still fills."""
    batcher = make(window=NEVER)
    future = batcher.submit("a")
    assert batcher.call(lambda: "loaded").result(SOON) == "loaded"
    assert not future.done()


def test_a_failed_call_raises_in_its_caller(make: Make) -> None:
    """And the thread keeps running."""
    batcher = make()
    with pytest.raises(ZeroDivisionError):
        batcher.call(lambda: 1 // 0).result(SOON)
    assert batcher.submit("a").result(SOON) == "<a>"


def test_a_cancelled_call_does_not_run(make: Make, device: Device) -> None:
    """Like an item, it can be cancelled while it waits."""
    batcher, ran = make(), threading.Event()
    occupy(batcher, device)
    call = batcher.call(ran.set)
    assert call.cancel()
    device.free.set()
    batcher.submit("a").result(SOON)
    assert not ran.is_set()


def test_busy_seconds_grow_while_the_device_hangs(make: Make, device: Device) -> None:
    """The value for the watchdog: zero when idle, growing while one batch or call runs."""
    batcher = make()
    assert batcher.busy_seconds == 0
    future = occupy(batcher, device)
    before = batcher.busy_seconds
    time.sleep(0.02)
    assert batcher.busy_seconds >= before + 0.02
    device.free.set()
    future.result(SOON)
    deadline = time.monotonic() + SOON
    while batcher.busy_seconds > 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_each_half_has_its_own_busy_time() -> None:
    """The time of a failed batch is not added to that of its halves, which would look like a hang."""
    failed_at = 0.0
    began: list[float] = []

    def run(key: None, items: list[int]) -> list[int]:
        nonlocal failed_at
        began.append(time.monotonic() - batcher.busy_seconds)
        if len(items) > 1:
            failed_at = time.monotonic()
            time.sleep(0.02)
            raise ValueError
        return items

    batcher: Batcher[int, int] = Batcher(run, size=2, window=NEVER)
    batcher.start()
    for future in [batcher.submit(n) for n in range(2)]:
        future.result(SOON)
    batcher.stop(timeout=SOON)
    assert began[0] <= failed_at
    assert all(failed_at + 0.01 < alone for alone in began[1:])
    assert len(began) == 3


def test_batches_are_reported_with_their_size(make: Make, device: Device) -> None:
    """For the metrics; an exception in `on_batch` does not end the thread."""
    sizes: list[int] = []
    reported = threading.Semaphore(0)

    def on_batch(size: int, seconds: float) -> None:
        sizes.append(size)
        reported.release()
        raise RuntimeError("the metrics are broken")

    batcher = make(on_batch=on_batch)
    occupy(batcher, device)
    futures = [batcher.submit(n) for n in range(3)]
    device.free.set()
    for future in futures:
        future.result(SOON)
    assert batcher.submit("a").result(SOON) == "<a>"
    for _ in range(3):
        assert reported.acquire(timeout=SOON)
    assert sizes == [1, 3, 1]


def test_futures_have_their_wait_and_run_time(make: Make, device: Device) -> None:
    """The two add up to the total."""
    batcher = make()
    occupy(batcher, device)
    future = batcher.submit("a")
    time.sleep(0.02)
    device.free.set()
    future.result(SOON)
    assert future.wait_seconds >= 0.02
    assert future.run_seconds >= 0
    assert future.wait_seconds + future.run_seconds == pytest.approx(future.finished_at - future.submitted_at)


def test_many_threads_each_get_their_own_answers() -> None:
    """Thousands of items from many threads, some cancelled, expired or bad: none is lost, mixed up or run twice."""
    runs: Counter[int] = Counter()
    sizes: list[int] = []

    def run(key: int, items: list[int]) -> list[int | Exception]:
        assert all(item % 3 == key for item in items)
        runs.update(items)
        sizes.append(len(items))
        return [ValueError(str(item)) if item % 50 == 7 else -item for item in items]

    batcher: Batcher[int, int] = Batcher(run, size=16, window=0.001)
    batcher.start()
    threads, each = 16, 250

    def hammer(thread: int) -> Counter[str]:
        random.seed(thread)
        ends: Counter[str] = Counter()
        for item in range(thread * each, (thread + 1) * each):
            late = random.random() < 0.05
            future = batcher.submit(item, key=item % 3, deadline=time.monotonic() - 1 if late else None)
            if random.random() < 0.1:
                future.cancel()
            try:
                assert future.result(SOON) == -item
                ends["answer"] += 1
            except CancelledError:
                ends["cancelled"] += 1
                assert runs[item] == 0
            except Expired:
                ends["expired"] += 1
                assert runs[item] == 0
            except ValueError as error:
                ends["bad"] += str(error) == str(item)
        return ends

    with ThreadPoolExecutor(threads) as pool:
        ends = sum(pool.map(hammer, range(threads)), Counter())
    batcher.stop(timeout=SOON)
    assert sum(ends.values()) == threads * each
    assert sum(runs.values()) == len(runs) == ends["answer"] + ends["bad"]
    assert min(ends["answer"], ends["cancelled"], ends["expired"], ends["bad"]) > 0
    assert max(sizes) <= 16


def test_threads_that_submit_while_it_stops_are_all_answered() -> None:
    """Accepted items are run, others raise: no thread hangs."""
    for round_ in range(20):
        batcher: Batcher[int, int] = Batcher(lambda key, items: items, size=4, window=0.001)
        batcher.start()

        def submit(batcher: Batcher[int, int] = batcher) -> bool:
            try:
                for n in range(1_000):
                    assert batcher.submit(n).result(SOON) == n
            except BatcherStopped:
                return True
            return False

        with ThreadPoolExecutor(4) as pool:
            ended = [pool.submit(submit) for _ in range(4)]
            time.sleep(0.002 * (round_ % 3))
            batcher.stop(drain=round_ % 2 == 0, timeout=SOON)
            assert [future.result(SOON) for future in ended] == [True] * 4
