"""The throughput of the network in eager PyTorch without a server: the baseline for the peers."""

import itertools
import multiprocessing
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import mean

from bench.lib.clips import encoded, large_model
from bench.peers.common import BATCH, PROCESSES, Classifier, Decoder

WARM_UP = 1.0
PATIENCE = 120.0  # seconds for the start


@dataclass(frozen=True)
class Limit:
    """The throughput of eager PyTorch, and its CPU time."""

    per_second: float
    cpu_ms: float  # per clip; other load on the machine lowers the rate, and hardly changes this


def measure_limit(seconds: float, model: Path | None = None, batch: int = BATCH, kind: str = "WAV") -> Limit:
    """Clips of that format of `bench.lib.clips.encoded`, decoded and classified `batch` at a time, without HTTP, by as
    many processes as each peer has.

    `model` is a model directory; the default is the large one of bench/lib/clips.py. Processes are spawned, so the
    calling script guards its main part. Raises RuntimeError where one of them fails.
    """
    context = multiprocessing.get_context("spawn")
    together, found = context.Barrier(PROCESSES), context.SimpleQueue()
    with ExitStack() as stack:
        directory = model or large_model(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        arguments = (directory, batch, kind, seconds, together, found)
        processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(PROCESSES)]
        for process in processes:
            process.start()
            stack.callback(process.kill)
        for process in processes:
            process.join(PATIENCE + WARM_UP + 2 * seconds)
            if process.exitcode != 0:
                raise RuntimeError("a process that measures the eager limit failed; see its output above")
    limits: list[Limit] = [found.get() for _ in processes]
    return Limit(sum(limit.per_second for limit in limits), mean(limit.cpu_ms for limit in limits))


def _work(model: Path, batch: int, kind: str, seconds: float, together: Barrier, found: "SimpleQueue[Limit]") -> None:
    """One process: all begin at the same time, and each measures to the end of its last batch."""
    decode, classify = Decoder(model), Classifier(model, engine="eager")
    sounds = itertools.cycle(encoded(kind))

    def count(seconds: float) -> Limit:
        done, begin, spent = 0, time.perf_counter(), time.process_time()
        while (passed := time.perf_counter() - begin) < seconds:
            classify([decode(sound) for sound in itertools.islice(sounds, batch)])
            done += batch
        return Limit(done / passed, 1e3 * (time.process_time() - spent) / done)

    together.wait(PATIENCE)
    count(WARM_UP)
    found.put(count(seconds))
