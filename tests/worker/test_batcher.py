"""How batches form, and the outcome of each item. Tests wait for events rather than for time where they can."""

import gc
import time
import weakref
from concurrent.futures import CancelledError

import pytest

from tests.worker.conftest import NEVER, SOON, Device, Make, occupy
from worker.inference.batcher import Batcher, Expired


def test_each_item_gets_its_own_answer(make: Make) -> None:
    """In the order of submission, in batches or not."""
    batcher = make()
    futures = [batcher.submit(n) for n in range(10)]
    assert [future.result(SOON) for future in futures] == [f"<{n}>" for n in range(10)]


def test_a_single_item_starts_when_its_window_closes(make: Make, device: Device) -> None:
    """No item waits for others longer than the window, which opens with the first item."""
    batcher = make(window=0.05)
    future = batcher.submit("a")
    assert future.result(SOON) == "<a>"
    assert future.wait_seconds >= 0.05
    assert device.items == [["a"]]


def test_a_full_batch_starts_at_once(make: Make, device: Device) -> None:
    """The window is a limit, not a delay."""
    batcher = make(size=3, window=NEVER)
    futures = [batcher.submit(item) for item in "abc"]
    assert [future.result(SOON) for future in futures] == ["<a>", "<b>", "<c>"]
    assert device.items == [["a", "b", "c"]]


def test_a_full_batch_does_not_wait_for_the_window_of_another_key(make: Make, device: Device) -> None:
    """The device is not idle while a batch is full."""
    batcher = make(size=2, window=NEVER)
    alone = batcher.submit("a", key="one")
    assert [future.result(SOON) for future in [batcher.submit(item, key="two") for item in "bc"]] == ["<b>", "<c>"]
    assert not alone.done()
    batcher.stop(timeout=SOON)
    assert alone.result(0) == "<a>"


def test_the_window_opens_at_the_first_item_not_while_idle(make: Make, device: Device) -> None:
    """An item that comes after a long pause is still batched with the next one."""
    batcher = make(size=2, window=NEVER)
    time.sleep(0.02)
    futures = [batcher.submit("a"), batcher.submit("b")]
    for future in futures:
        future.result(SOON)
    assert device.items == [["a", "b"]]


def test_the_next_batch_fills_while_one_runs(make: Make, device: Device) -> None:
    """Items that came meanwhile run together, not one by one."""
    batcher = make(size=8)
    occupy(batcher, device)
    futures = [batcher.submit(n) for n in range(6)]
    assert batcher.pending == 6
    device.free.set()
    for future in futures:
        future.result(SOON)
    assert device.items[1:] == [[0, 1, 2, 3, 4, 5]]


def test_no_batch_is_larger_than_the_size(make: Make, device: Device) -> None:
    """Many items are split into full batches and a remainder."""
    batcher = make(size=4)
    occupy(batcher, device)
    futures = [batcher.submit(n) for n in range(10)]
    device.free.set()
    for future in futures:
        future.result(SOON)
    assert device.items[1:] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_items_of_different_keys_never_mix(make: Make, device: Device) -> None:
    """A batch has one key, which is passed to `run`."""
    batcher = make(size=4)
    occupy(batcher, device)
    futures = [batcher.submit(n, key=n % 3) for n in range(12)]
    device.free.set()
    for future in futures:
        future.result(SOON)
    assert device.batches[1:] == [(0, [0, 3, 6, 9]), (1, [1, 4, 7, 10]), (2, [2, 5, 8, 11])]


def test_keys_take_turns_by_their_oldest_item(make: Make, device: Device) -> None:
    """A busy key does not starve a quiet one: the key with the oldest item goes first."""
    batcher = make(size=2)
    occupy(batcher, device)
    order = [("busy", 1), ("busy", 2), ("quiet", 3), ("busy", 4), ("busy", 5), ("third", 6)]
    futures = [batcher.submit(item, key=key) for key, item in order]
    device.free.set()
    for future in futures:
        future.result(SOON)
    assert device.batches[1:] == [("busy", [1, 2]), ("quiet", [3]), ("busy", [4, 5]), ("third", [6])]


def test_keys_are_compared_by_their_own_equality(make: Make, device: Device) -> None:
    """Two objects of the same kind that are not equal are two keys."""
    batcher = make(size=2)
    occupy(batcher, device)
    one, two = object(), object()
    futures = [batcher.submit("a", key=one), batcher.submit("b", key=two)]
    device.free.set()
    for future in futures:
        future.result(SOON)
    assert device.batches[1:] == [(one, ["a"]), (two, ["b"])]


def test_an_item_past_its_deadline_is_never_run(make: Make, device: Device) -> None:
    """It fails with Expired, and its neighbours run without it."""
    batcher = make()
    occupy(batcher, device)
    late = batcher.submit("late", deadline=time.monotonic() - 1)
    well = batcher.submit("well", deadline=time.monotonic() + NEVER)
    device.free.set()
    with pytest.raises(Expired):
        late.result(SOON)
    assert well.result(SOON) == "<well>"
    assert device.items[1:] == [["well"]]


def test_a_cancelled_item_is_never_run(make: Make, device: Device) -> None:
    """And it takes no place in the batch."""
    batcher = make(size=2)
    occupy(batcher, device)
    futures = [batcher.submit(n) for n in range(4)]
    assert futures[1].cancel()
    device.free.set()
    assert futures[3].result(SOON) == "<3>"
    with pytest.raises(CancelledError):
        futures[1].result(SOON)
    assert device.items[1:] == [[0, 2], [3]]


def test_a_batch_of_cancelled_items_does_not_run(make: Make, device: Device) -> None:
    """`run` is never called with an empty batch."""
    batcher = make()
    occupy(batcher, device)
    assert batcher.submit("gone").cancel()
    device.free.set()
    assert batcher.submit("after").result(SOON) == "<after>"
    assert device.items[1:] == [["after"]]


def test_an_item_whose_batch_has_started_cannot_be_cancelled(make: Make, device: Device) -> None:
    """`cancel()` returns False, and its answer arrives."""
    batcher = make()
    future = occupy(batcher, device)
    assert not future.cancel()
    device.free.set()
    assert future.result(SOON) == "<first>"


def test_a_poison_item_fails_alone(make: Make, device: Device) -> None:
    """A batch that raises is run in halves: only the bad item gets the error."""
    batcher = make()
    occupy(batcher, device)
    futures = [batcher.submit(item) for item in ("a", "poison", "c")]
    device.free.set()
    assert futures[0].result(SOON) == "<a>"
    with pytest.raises(ValueError, match="poison"):
        futures[1].result(SOON)
    assert futures[2].result(SOON) == "<c>"
    assert device.items[1:] == [["a", "poison", "c"], ["a"], ["poison", "c"], ["poison"], ["c"]]


def test_a_batch_too_large_for_the_device_is_run_in_halves() -> None:
    """Every item gets its answer, in batches as large as fit."""
    sizes: list[int] = []

    def run(key: None, items: list[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 2:
            raise MemoryError
        return items

    batcher: Batcher[int, int] = Batcher(run, size=8, window=NEVER)
    batcher.start()
    futures = [batcher.submit(n) for n in range(8)]
    assert [future.result(SOON) for future in futures] == list(range(8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    batcher.stop(timeout=SOON)


def test_an_answer_that_is_an_exception_fails_one_item(make: Make, device: Device) -> None:
    """Without running anything twice."""
    batcher = make()
    occupy(batcher, device)
    futures = [batcher.submit(item) for item in ("a", "bad", "c")]
    device.free.set()
    assert (futures[0].result(SOON), futures[2].result(SOON)) == ("<a>", "<c>")
    with pytest.raises(ValueError, match="this one alone"):
        futures[1].result(SOON)
    assert device.items[1:] == [["a", "bad", "c"]]


def test_the_wrong_number_of_answers_fails_instead_of_shifting() -> None:
    """No item gets its neighbour's answer."""
    batcher: Batcher[str, str] = Batcher(lambda key, items: ["one"] * 2, size=1, window=0)
    batcher.start()
    with pytest.raises(RuntimeError, match="2 answers for 1 items; it must give one each"):
        batcher.submit("a").result(SOON)
    batcher.stop(timeout=SOON)


def test_a_failed_batch_holds_no_memory_during_its_retry() -> None:
    """What `run` had allocated when it failed is freed before the halves run."""

    class Big:
        """A tensor."""

    alive: list[weakref.ref[Big]] = []
    alive_counts: list[int] = []

    def run(key: None, items: list[str]) -> list[str]:
        alive_counts.append(sum(ref() is not None for ref in alive))
        big = Big()
        alive.append(weakref.ref(big))
        raise MemoryError("too much")

    gc.disable()
    try:
        batcher: Batcher[str, str] = Batcher(run, size=2, window=NEVER)
        batcher.start()
        futures = [batcher.submit("a"), batcher.submit("b")]
        for future in futures:
            with pytest.raises(MemoryError):
                future.result(SOON)
        batcher.stop(timeout=SOON)
    finally:
        gc.enable()
    assert alive_counts == [0, 0, 0]


def test_an_idle_batcher_keeps_nothing_of_its_last_batch(make: Make, device: Device) -> None:
    """A replaced model is not kept in memory until the next sound comes."""

    class Model:
        """A key with weak references."""

    batcher, model = make(), Model()
    gone = weakref.ref(model)
    batcher.submit("a", key=model).result(SOON)
    batcher.call(lambda kept=model: kept).result(SOON)  # type: ignore[misc]
    device.batches.clear()
    del model
    deadline = time.monotonic() + SOON
    while gone() is not None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert gone() is None


def test_each_device_thread_runs_a_batch_of_its_own(make: Make, device: Device) -> None:
    """Two at a time, each in its own thread; the third waits for one of them."""
    batcher = make(size=1, device_threads=2)
    device.free.clear()
    futures = [batcher.submit(item) for item in "abc"]
    assert all(device.entered.acquire(timeout=SOON) for _ in range(2))
    assert sorted(device.items) == [["a"], ["b"]]
    assert len(device.threads) == 2
    assert not device.entered.acquire(timeout=0.05)
    device.free.set()
    assert [future.result(SOON) for future in futures] == ["<a>", "<b>", "<c>"]


def test_the_rest_after_a_full_batch_goes_to_the_idle_thread(make: Make, device: Device) -> None:
    """The notified thread is busy with the full batch, so it has to notify the other one."""
    batcher = make(size=3, window=0.5, device_threads=2)  # enough time to submit all four
    device.free.clear()
    for item in "abcd":
        batcher.submit(item)
    assert all(device.entered.acquire(timeout=SOON) for _ in range(2))
    assert sorted(device.items) == [["a", "b", "c"], ["d"]]


def test_the_oldest_running_batch_counts_for_the_watchdog(make: Make, device: Device) -> None:
    """A thread that hangs is not hidden by another one that works."""
    batcher = make(size=1, device_threads=2)
    assert batcher.busy_seconds == 0
    device.free.clear()
    batcher.submit("a")
    assert device.entered.acquire(timeout=SOON)
    time.sleep(0.05)
    batcher.submit("b")
    assert device.entered.acquire(timeout=SOON)
    assert batcher.busy_seconds >= 0.05
