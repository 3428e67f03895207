"""Parts of a worker for tests: a fake device for the batcher, and the real parts, wired together."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared.config.settings import Settings
from worker.inference.batcher import Batcher

if TYPE_CHECKING:  # the batcher's tests do without torch
    from tests.support.worker_harness import WorkerHarness
    from worker.decode.pool import DecoderPool
    from worker.inference.engine import Engine
    from worker.inference.registry import Registry

SOON = 20.0  # seconds: a timeout that only a hang exceeds
NEVER = 1_000.0  # seconds: a window that is closed only by a full batch or a stop


class Device:
    """A `run` that records its batches, and blocks them while `free` is cleared."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, list[Any]]] = []
        self.threads: set[int] = set()
        self.entered = threading.Semaphore(0)
        self.free = threading.Event()
        self.free.set()

    def __call__(self, key: Any, items: list[Any]) -> Sequence[Any]:
        self.batches.append((key, list(items)))
        self.threads.add(threading.get_ident())
        self.entered.release()
        assert self.free.wait(SOON)
        return [self.answer(item) for item in items]

    def answer(self, item: Any) -> Any:
        if item == "poison":
            raise ValueError("poison")
        return ValueError("this one alone") if item == "bad" else f"<{item}>"

    @property
    def items(self) -> list[list[Any]]:
        return [items for _, items in self.batches]


@pytest.fixture
def device() -> Iterator[Device]:
    """Unblocked at the end, whatever the test did."""
    blocked = Device()
    yield blocked
    blocked.free.set()


Make = Callable[..., "Batcher[Any, Any]"]


@pytest.fixture
def make(device: Device) -> Iterator[Make]:
    """Starts a batcher for the device; it is stopped at the end."""
    made: list[Batcher[Any, Any]] = []

    def start(size: int = 4, window: float = 0.0, **more: Any) -> "Batcher[Any, Any]":
        batcher: Batcher[Any, Any] = Batcher(device, size=size, window=window, **more)
        batcher.start()
        made.append(batcher)
        return batcher

    yield start
    device.free.set()
    for batcher in made:
        batcher.stop(drain=False, timeout=SOON)


def occupy(batcher: "Batcher[Any, Any]", device: Device) -> Any:
    """Block the device with one item, so that later items wait in the batcher."""
    device.free.clear()
    future = batcher.submit("first")
    assert device.entered.acquire(timeout=SOON)
    return future


@pytest.fixture(scope="session")
def engine() -> "Engine":
    """On the CPU, with one thread: for tensors this small, two threads mostly wait for each other."""
    import torch

    from worker.inference.engine import Engine

    torch.set_num_threads(1)
    return Engine(torch.device("cpu"), "torch")


@pytest.fixture(scope="session")
def registry(engine: "Engine", tiny_models: Path) -> "Registry":
    """With the tiny model loaded."""
    from worker.inference.engine import read_model
    from worker.inference.registry import Registry

    registry = Registry(
        tiny_models, (), lambda directory: engine.load(read_model(directory)),
        describe=lambda directory: engine.describe(read_model(directory)),
    )  # fmt: skip
    registry.refresh()
    return registry


@pytest.fixture(scope="session")
def decoder() -> Iterator["DecoderPool"]:
    """With one decode process."""
    from worker.decode.pool import DecoderPool

    pool = DecoderPool(1, 30.0, 60.0)
    yield pool
    pool.close()


@pytest.fixture
def make_harness(
    settings: Settings, engine: "Engine", registry: "Registry", decoder: "DecoderPool"
) -> Iterator[Callable[..., "WorkerHarness"]]:
    """Makes harnesses with some settings changed."""
    from tests.support.worker_harness import WorkerHarness

    with ExitStack() as stack:
        yield lambda **changed: WorkerHarness(settings.model_copy(update=changed), engine, registry, decoder, stack)


@pytest.fixture
def harness(make_harness: Callable[..., "WorkerHarness"]) -> "WorkerHarness":
    """With the default settings."""
    return make_harness()
