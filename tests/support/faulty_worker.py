"""`python -m tests.support.faulty_worker`: a worker with a fault, selected by the variable FAULT.

On loud sounds, `kill` ends the process as the kernel's OOM killer would, and `spoil` raises the error of a CUDA context
that is lost; `assert` loses it, by an index out of range on the GPU. `full` raises out-of-memory for every batch of
more than one window that is not silent. The others receive SIGTERM while they start: `stop-import` during an import,
`stop-model` while the first model is read. `slow` takes half a second for each batch, and has two seconds to drain;
`slow-store` has two seconds to drain and five to stop.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from worker import app
from worker.__main__ import main
from worker.inference.engine import Engine, LoadedModel, Window, WindowOutput, read_model
from worker.model.checkpoint import Model
from worker.queue.celery_app import consume

LOUD = 0.95  # of full scale
run = Engine._run


def faulty(self: Engine, loaded: LoadedModel, windows: Sequence[Window], alone: bool) -> list[WindowOutput | Exception]:
    fault = os.environ["FAULT"]
    if any(window.samples.max() > LOUD for window in windows):
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "spoil":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nand much more")
        if fault == "assert":
            torch.zeros(1, device=self.device)[torch.ones(1, dtype=torch.long, device=self.device)]
    if fault == "slow":
        time.sleep(0.5)
    if fault == "full" and len(windows) > 1 and any(window.samples.any() for window in windows):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return run(self, loaded, windows, alone)


class Stopping:
    """Sends SIGTERM while a class is created, where Python replaces an exception of a signal handler by another one."""

    def __set_name__(self, owner: type, name: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def stopped(*arguments: Any, **options: Any) -> int:
    type("Imported", (), {"part": Stopping()})
    return consume(*arguments, **options)


def reading(directory: Path) -> Model:
    os.kill(os.getpid(), signal.SIGTERM)
    return read_model(directory)


if __name__ == "__main__":
    Engine._run = faulty  # type: ignore[method-assign]
    match os.environ["FAULT"]:
        case "stop-import":
            app.consume = stopped
        case "stop-model":
            app.read_model = reading
        case "slow":
            app.DRAIN_SECONDS = 2
        case "slow-store":
            app.DRAIN_SECONDS, app.STOP_SECONDS = 2, 5
    raise SystemExit(main())
