"""A worker without Celery: tests submit jobs and run them by hand, on the real parts."""

import threading
import time
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
from worker.fetch.fetcher import Fetcher
from worker.inference.batcher import Batcher
from worker.inference.engine import Engine, LoadedModel, SpectrogramOnly, Window, WindowOutput
from worker.inference.registry import Registry
from worker.pipeline.classify import Classifier
from worker.pipeline.runner import JobRunner
from worker.pipeline.windows import split_windows
from worker.telemetry.metrics import WorkerMetrics

RATE = 16_000  # Hz
SHORT = encode(chirp(1.0, RATE), RATE, "WAV", "FLOAT")
LONG = encode(chirp(2.2, RATE), RATE, "WAV", "FLOAT")  # four windows: at 0, 0.5, 1.0 and 1.2 s
ALL = tuple(Part)
OF_ONE_PASS = tuple(part for part in Part if not part.info.passes)


class WorkerHarness:
    """The device blocks every batch while `free` is cleared. `batches` are the batches of the network,
    `spectrogram_batches` those of the front end alone."""

    def __init__(
        self, settings: Settings, engine: Engine, registry: Registry, decoder: DecoderPool, stack: ExitStack
    ) -> None:
        self.stores = Stores(settings, stack)
        self.engine, self.registry = engine, registry
        self.metrics = WorkerMetrics(torch.device("cpu"))
        self.batches: list[list[Window]] = []
        self.spectrogram_batches: list[list[Window]] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Semaphore(0)
        size = settings.batch_size or 4
        self.batcher: Batcher[Window, WindowOutput] = Batcher(self._run, size=size, window=0)
        self.batcher.start()
        stack.callback(self.batcher.stop, drain=False, timeout=20)
        stack.callback(self.free.set)
        fetcher = Fetcher(settings.sources, settings.max_upload_bytes, settings.upload_seconds)
        self.classifier = Classifier(registry, decoder, self.batcher, self.metrics, size, fetcher)
        self.runner = JobRunner("w1", self.stores.worker, self.classifier, self.metrics)

    def _run(self, key: LoadedModel | SpectrogramOnly, windows: list[Window]) -> list[WindowOutput | Exception]:
        (self.spectrogram_batches if isinstance(key, SpectrogramOnly) else self.batches).append(windows)
        self.entered.release()
        assert self.free.wait(20)
        return self.engine.run(key, windows)

    def submit(self, sound: bytes = SHORT, model: str = "tiny", **options: Any) -> str:
        """The id of a new job."""
        return self.stores.submit(sound, model, JobOptions(**options))

    def job(self, job_id: str) -> JobRecord:
        return self.stores.run(self.stores.gateway.get(job_id))

    def result(self, sound: bytes = SHORT, **options: Any) -> Result:
        """Run a job that must succeed."""
        job_id = self.submit(sound, **options)
        self.runner.run([job_id])
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

    def count(self, outcome: str) -> float:
        """Value of the counter of finished jobs."""
        return self.metrics.registry.get_sample_value("otoscope_worker_jobs_total", {"outcome": outcome}) or 0.0

    def run_blocked(self, job_id: str) -> threading.Thread:
        """Run a job in a thread until its batch is on the device, which blocks it."""
        self.free.clear()
        thread = threading.Thread(target=self.runner.run, args=([job_id],))
        thread.start()
        assert self.entered.acquire(timeout=20)
        return thread

    def run_waiting(self, job_id: str, windows: int = 1) -> threading.Thread:
        """Run a job in a thread until so many more windows wait for the device."""
        expected = self.batcher.pending + windows
        thread = threading.Thread(target=self.runner.run, args=([job_id],))
        thread.start()
        until(lambda: self.batcher.pending == expected)
        return thread


def outputs_alone(harness: WorkerHarness, sound: bytes, cam_class: str | None = None) -> list[WindowOutput]:
    """The outputs of each window of a sound, run one at a time, with every part."""
    loaded = harness.registry.get("tiny")
    index = None if cam_class is None else loaded.card.classes.index(cam_class)
    windows = split_windows(decode(sound, RATE).waveform, RATE)
    outputs = [harness.engine.run(loaded, [Window(clip, frozenset(Part), cam_class=index)])[0] for _, clip in windows]
    return [output for output in outputs if isinstance(output, WindowOutput)]


def wait_until_ready(pool: DecoderPool) -> None:
    """Wait until each process has loaded its libraries: time limits of files begin then."""
    for child in pool._children:
        child.wait_until_ready(time.monotonic() + 60, lambda: None)
