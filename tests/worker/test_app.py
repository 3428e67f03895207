"""The parts of a worker, wired together, started and closed within this process."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.config.settings import Settings
from tests.conftest import PYTHON, ROOT
from tests.shared.conftest import Stores
from tests.support.process_tree import gone, until
from worker.app import EXIT_DEVICE_HUNG, Worker
from worker.model.checkpoint import ModelError


@pytest.fixture
def stores(settings: Settings) -> Iterator[Stores]:
    """The gateway's view of the same Redis."""
    with ExitStack() as stack:
        yield Stores(settings, stack)


@pytest.fixture
def small(settings: Settings, tiny_models: Path) -> Settings:
    """Settings of a small worker."""
    return settings.model_copy(
        update={"models_dir": tiny_models, "decode_processes": 1, "batch_size": 2, "device": "cpu"}
    )


def test_a_worker_sends_heartbeats_until_it_is_closed(small: Settings, stores: Stores) -> None:
    """Not before it is ready, and none after `close`, whatever its threads were about to do."""
    worker = Worker(small)
    assert stores.run(stores.gateway.workers()) == []
    worker.start()
    (heartbeat,) = stores.run(stores.gateway.workers())
    assert (heartbeat.id, heartbeat.models, heartbeat.busy) == (worker.id, ["tiny"], 0)
    assert list(stores.run(stores.gateway.cards())) == ["tiny"]
    worker.close()
    worker._heartbeat()
    assert stores.run(stores.gateway.workers()) == []


def test_a_closed_worker_leaves_nothing(small: Settings) -> None:
    """No decode process, no port, no running thread."""
    before = set(threading.enumerate())
    worker = Worker(small)
    worker.start()
    pids, new = worker._decoder.pids, set(threading.enumerate()) - before
    # Pools without a name are none of the worker's: the keep-alive of a WebSocket of another test starts such threads.
    started = [thread for thread in new if not thread.name.startswith("ThreadPoolExecutor")]
    worker.close()
    assert pids
    assert all(gone(pid) for pid in pids)
    for thread in started:  # those of other tests may begin and end meanwhile
        thread.join(60)
    assert [thread.name for thread in started if thread.is_alive()] == []


def test_a_worker_that_could_not_start_is_closed_at_once(settings: Settings, tmp_path: Path) -> None:
    """It never registered, so it does not try to deregister at a Redis that is unreachable."""
    worker = Worker(settings.model_copy(update={"models_dir": tmp_path, "redis_url": "unix:///nowhere"}))
    with pytest.raises(ModelError):
        worker.start()
    began = time.monotonic()
    worker.close()
    assert time.monotonic() - began < 10
    assert all(gone(pid) for pid in worker._decoder.pids)


def test_a_device_that_hangs_ends_the_process(redis_url: str, tiny_models: Path) -> None:
    """With its own exit status, so that the supervisor starts another one, and its jobs are delivered again."""
    source = (
        "import time; from pathlib import Path; from shared.config.settings import Settings; "
        "from worker.app import Worker\n"
        f"worker = Worker(Settings(redis_url={redis_url!r}, models_dir=Path({str(tiny_models)!r}), metrics_port=0,"
        " watchdog_seconds=1.5, decode_processes=1, batch_size=1))\n"
        "worker.start(); print(*worker._decoder.pids, flush=True)\n"
        "worker._batcher.call(lambda: time.sleep(60)); time.sleep(60)"
    )
    process = subprocess.Popen([PYTHON, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_DEVICE_HUNG
    pids = [int(pid) for pid in printed.split()]
    assert len(pids) == 1
    until(lambda: all(gone(pid) for pid in pids))
