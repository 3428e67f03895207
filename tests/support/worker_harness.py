"""A worker without its queue: jobs are submitted and run by hand, on real parts."""

import threading
from contextlib import ExitStack
from typing import Any

import torch

from otoscope.errors import OtoscopeError
from otoscope.results import Result, unpack_result
from otoscope.types import JobOptions, Part
from shared.audio.decode import decode
from shared.config.settings import Settings
from shared.jobs.records import JobRecord
from tests.shared.conftest import Stores
from tests.support.process_tree import until
from tests.support.sounds import chirp, encode
from worker.decode.pool import DecoderPool
from worker.inference.batcher import Batcher
from worker.inference.engine import Engine, LoadedModel, SpectrogramOnly, Window, WindowOutput
from worker.inference.registry import Registry
from worker.pipeline.runner import Classifier
from worker.pipeline.windows import split_windows
from worker.telemetry.metrics import WorkerMetrics

RATE = 16_000
SHORT = encode(chirp(1.0, RATE), RATE, "WAV", "FLOAT")
LONG = encode(chirp(2.2, RATE), RATE, "WAV", "FLOAT")  # four windows: at 0, 0.5, 1.0 and 1.2 s
ALL = tuple(Part)


class Bench:
    """The device holds what reaches it unless `free` is set; `batches` is what the network was given, `heard` what the
    front end alone was."""

    def __init__(
        self, settings: Settings, engine: Engine, registry: Registry, decoder: DecoderPool, stack: ExitStack
    ) -> None:
        self.stores = Stores(settings, stack)
        self.engine, self.registry = engine, registry
        self.metrics = WorkerMetrics(torch.device("cpu"))
        self.batches: list[list[Window]] = []
        self.heard: list[list[Window]] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Semaphore(0)
        size = settings.batch_size or 4
        self.batcher: Batcher[Window, WindowOutput] = Batcher(self._run, size=size, window=0)
        self.batcher.start()
        stack.callback(self.batcher.stop, drain=False, timeout=20)
        stack.callback(self.free.set)
        self.classifier = Classifier("w1", self.stores.worker, registry, decoder, self.batcher, self.metrics, size)

    def _run(self, served: LoadedModel | SpectrogramOnly, windows: list[Window]) -> list[WindowOutput | Exception]:
        (self.heard if isinstance(served, SpectrogramOnly) else self.batches).append(windows)
        self.entered.release()
        assert self.free.wait(20)
        return self.engine.run(served, windows)

    def submit(self, sound: bytes = SHORT, model: str = "tiny", **options: Any) -> str:
        return self.stores.submit(sound, model, JobOptions(**options))

    def job(self, job_id: str) -> JobRecord:
        return self.stores.run(self.stores.gateway.get(job_id))

    def result(self, sound: bytes = SHORT, **options: Any) -> Result:
        """Run a job that must succeed."""
        job_id = self.submit(sound, **options)
        self.classifier.run(job_id)
        assert self.job(job_id).status == "succeeded", self.job(job_id).error
        packed = self.stores.run(self.stores.gateway.result(job_id))
        assert packed is not None
        return unpack_result(packed)

    def failure(self, job_id: str) -> OtoscopeError:
        """The error of a job that must have failed."""
        job = self.job(job_id)
        assert job.status == "failed"
        assert job.error is not None
        return job.error

    def count(self, state: str) -> float:
        return self.metrics.registry.get_sample_value("otoscope_worker_jobs_total", {"outcome": state}) or 0.0

    def run_held(self, job_id: str) -> threading.Thread:
        """Run a job in a thread, up to the device, which holds it."""
        self.free.clear()
        thread = threading.Thread(target=self.classifier.run, args=(job_id,))
        thread.start()
        assert self.entered.acquire(timeout=20)
        return thread

    def run_waiting(self, job_id: str, windows: int = 1) -> threading.Thread:
        """Run a job in a thread until so many more windows wait for the device."""
        expected = self.batcher.pending + windows
        thread = threading.Thread(target=self.classifier.run, args=(job_id,))
        thread.start()
        until(lambda: self.batcher.pending == expected)
        return thread


def seen_alone(bench: Bench, sound: bytes, cam_of: str | None = None) -> list[WindowOutput]:
    """What the network makes of each window of a sound, one at a time, with every part."""
    served = bench.registry.get("tiny")
    of = None if cam_of is None else served.card.classes.index(cam_of)
    clips = split_windows(decode(sound, RATE).waveform, RATE)
    answers = [bench.engine.run(served, [Window(clip, frozenset(Part), cam_of=of)])[0] for _, clip in clips]
    return [answer for answer in answers if isinstance(answer, WindowOutput)]
