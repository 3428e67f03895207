"""`python -m tests.worker.faulty`: a worker whose device has a fault, told by FAULT, for sounds that are loud.

`kill` ends the process as the kernel would, `spoil` answers like a CUDA context that is lost, `full` like a device that
has room for one window at a time.
"""

import os
import signal
from collections.abc import Sequence

import torch

from worker.__main__ import main
from worker.engine import Engine, Seen, Served, Window

LOUD = 0.95
run = Engine._run


def faulty(self: Engine, served: Served, windows: Sequence[Window], alone: bool) -> list[Seen | Exception]:
    fault = os.environ["FAULT"]
    if any(window.samples.max() > LOUD for window in windows):
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "spoil":
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nand much more")
    if fault == "full" and len(windows) > 1 and any(window.samples.any() for window in windows):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return run(self, served, windows, alone)


if __name__ == "__main__":
    Engine._run = faulty  # type: ignore[method-assign]
    raise SystemExit(main())
