"""`python -m tests.support.faulty_worker`: a worker with a fault, told by FAULT.

For sounds that are loud its device does not work: `kill` ends the process as the kernel would, `spoil` answers like a
CUDA context that is lost, `full` like a device that has room for one window at a time. The others are told to stop as
they start: `stop-import` in the middle of an import, `stop-model` while the first model is read. `slow` takes half a
second for each batch, and has two to finish in.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from celery import Celery

from shared.config.settings import Settings
from shared.jobs.queue import make_celery
from worker import app
from worker.__main__ import main
from worker.inference.engine import Engine, LoadedModel, Window, WindowOutput, read_model
from worker.model.checkpoint import Model

LOUD = 0.95
run = Engine._run


def faulty(self: Engine, served: LoadedModel, windows: Sequence[Window], alone: bool) -> list[WindowOutput | Exception]:
    fault = os.environ["FAULT"]
    if any(window.samples.max() > LOUD for window in windows):
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "spoil":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nand much more")
    if fault == "slow":
        time.sleep(0.5)
    if fault == "full" and len(windows) > 1 and any(window.samples.any() for window in windows):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return run(self, served, windows, alone)


class Stopping:
    """Told to stop where Python makes another error of what a signal handler raises: while a class is made."""

    def __set_name__(self, owner: type, name: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def stopped(settings: Settings) -> Celery:
    type("Imported", (), {"part": Stopping()})
    return make_celery(settings)


def reading(directory: Path) -> Model:
    os.kill(os.getpid(), signal.SIGTERM)
    return read_model(directory)


if __name__ == "__main__":
    Engine._run = faulty  # type: ignore[method-assign]
    match os.environ["FAULT"]:
        case "stop-import":
            app.make_celery = stopped
        case "stop-model":
            app.read_model = reading
        case "slow":
            app.DRAIN_SECONDS = 2
    raise SystemExit(main())
