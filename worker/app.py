"""The worker process: load the models, warm up, open the metrics port, run jobs, drain.

Everything is built before Celery's consumer starts, in sequence: Celery swallows errors in its start-up signals, and a
worker without a model must not run.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from redis.backoff import NoBackoff
from redis.retry import Retry

from otoscope.errors import ContractMismatch, ModelNotFound, OtoscopeError
from otoscope.results import CONTRACT_VERSION
from otoscope.types import ModelCard
from shared import tracing
from shared.config.settings import Settings, usable_cores
from shared.jobs import JobStore
from shared.jobs.records import WorkerHeartbeat
from shared.outage_log import OutageLog
from shared.redis_client.connection import connect, new_client
from worker.decode.pool import DecoderPool
from worker.fetch.fetcher import Fetcher
from worker.inference.batcher import Batcher
from worker.inference.engine import DeviceLost, Engine, LoadedModel, SpectrogramOnly, Window, WindowOutput, read_model
from worker.inference.malloc import keep_freed_memory, release_freed_memory
from worker.inference.registry import Registry
from worker.model.precision import pick_device
from worker.pipeline.classify import Classifier
from worker.pipeline.runner import REQUEUE_ERRORS, JobRunner
from worker.queue.celery_app import Requeue, consume, exit_if_stopping, stop_requested
from worker.telemetry.metrics import WorkerMetrics
from worker.telemetry.tracing import batch_span

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0
HEARTBEAT_TTL = 10  # seconds: a worker without a heartbeat for so long does not count as ready
BATCH_ON_CPU, BATCH_ON_GPU = 8, 64  # default sizes: larger batches are no faster per clip
DRAIN_SECONDS = 45  # after SIGTERM, to finish the jobs in flight; the supervisor waits at least a minute before SIGKILL
STOP_SECONDS = 55  # after SIGTERM, when the process ends in any case
EXIT_DEVICE_HUNG, EXIT_DEVICE_LOST, EXIT_STOP_HUNG = 70, 71, 72  # exit statuses


class Worker:
    """The parts of a worker, wired together. `start` raises ModelError or OSError; `run` blocks until SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.id = f"{socket.gethostname()}-{os.getpid()}"
        self._exit = ExitStack()
        job_client = connect(settings)
        self._exit.callback(job_client.close)
        self._store = JobStore(job_client, settings)
        # Heartbeats have a client of their own with few retries: the next one follows two seconds later anyway, and
        # they must not delay the end of a worker whose Redis is unreachable.
        heartbeat_client = new_client(
            settings.redis, retry=Retry(NoBackoff(), 1), socket_timeout=5, socket_connect_timeout=2
        )
        self._exit.callback(heartbeat_client.close)
        self._heartbeat_store = JobStore(heartbeat_client, settings)
        keep_freed_memory()
        device = pick_device(settings.device)
        self._engine = Engine(device, settings.engine, int8=settings.int8, cores=usable_cores())
        self._batch_size = settings.batch_size or (BATCH_ON_CPU if device.type == "cpu" else BATCH_ON_GPU)
        self._metrics = WorkerMetrics(device)
        self._batcher: Batcher[Window, WindowOutput] = Batcher(
            self._run_batch,
            size=self._batch_size,
            window=settings.batch_window,
            device_threads=self._engine.device_threads,
            on_batch=self._metrics.observe_batch,
        )
        self._registry = Registry(
            settings.models_dir, settings.model_names, self._load, describe=self._describe,
            at_start={*settings.default_models, settings.evaluate_model},
        )  # fmt: skip
        self._stop = threading.Event()
        self._heartbeat_lock = threading.Lock()
        self._registered = False
        self._draining_seconds = 0  # since the stop was requested

    def start(self) -> None:
        """Load the models and run each once; the first heartbeat comes after that."""
        settings = self._settings
        self._exit.callback(self._metrics.serve(settings.metrics_port, settings.metrics_host))
        # First, so that the decode processes start up while the weights are read.
        self._decoder = DecoderPool(
            settings.decode_processes, settings.decode_seconds, settings.max_seconds, self._metrics.decoder_crashed
        )
        self._exit.callback(self._decoder.close)
        self._metrics.track_decoder_cpu(lambda: self._decoder.pids)
        self._batcher.start()
        self._registry.refresh()
        self._registry.require()
        release_freed_memory()  # of the models that were only read
        fetcher = Fetcher(settings.sources, settings.max_upload_bytes, settings.upload_seconds)
        classifier = Classifier(self._registry, self._decoder, self._batcher, self._metrics, self._batch_size, fetcher)
        self._runner = JobRunner(self.id, self._store, classifier, self._metrics)
        tracing.freeze_gc()
        self._every(1.0, self._watch_device)
        self._every(1.0, self._watch_drain)
        self._every(0.5, self._runner.abort_cancelled)
        self._every(1.0, self._runner.report_progress)
        self._every(2.0, self._refresh_models)
        self._heartbeat()
        self._every(HEARTBEAT_SECONDS, self._heartbeat)

    def run(self) -> int:
        """Run jobs until SIGTERM or SIGINT, finish or requeue the jobs in flight, and return the exit status."""
        # Jobs in flight: two batches for each device thread, so that one fills while the other runs.
        concurrency = 2 * self._batch_size * self._engine.device_threads
        return consume(
            self._settings, self._handle, name=self.id, concurrency=concurrency, models=lambda: self._registry.cards,
            lanes=usable_cores(),
        )  # fmt: skip

    def close(self) -> None:
        """Deregister, end the threads and the decode processes."""
        self._stop.set()
        with self._heartbeat_lock:  # a heartbeat that has begun must not register the worker again afterwards
            if self._registered:
                try:
                    self._heartbeat_store.deregister(self.id)
                except OtoscopeError:
                    log.warning("could not deregister this worker; its last heartbeat expires in %d s", HEARTBEAT_TTL)
        self._batcher.stop(drain=True, timeout=self._settings.watchdog_seconds)
        self._exit.close()

    def _handle(self, job_ids: list[str], acknowledge: Callable[[str], None]) -> None:
        """Run delivered jobs. Raises Requeue."""
        try:
            self._runner.run(job_ids, acknowledge)
        except REQUEUE_ERRORS as error:
            if isinstance(error, ContractMismatch | ModelNotFound):
                log.warning("requeued for another worker: %s", error, extra={"job": " ".join(job_ids)})
            time.sleep(1.0)
            raise Requeue(str(error)) from error  # nothing has been stored, so nothing is lost

    def _load(self, directory: Path) -> LoadedModel:
        """Read a model in this thread, while jobs go on, and load it to the device in a thread of the batcher: only
        these may use the device."""
        self._exit_if_stopping_early()
        model, sizes = read_model(directory), (1, self._batch_size)
        loaded: LoadedModel = self._batcher.call(lambda: self._engine.load(model, sizes)).result()
        release_freed_memory()  # reading and compiling needs several times the memory of the weights
        self._metrics.model_served(loaded.name, model.config.classes)
        log.info("model %s runs on %s", loaded.name, loaded.backend.name)
        return loaded

    def _describe(self, directory: Path) -> ModelCard:
        """The card of a model, from one forward pass on the device."""
        self._exit_if_stopping_early()
        model = read_model(directory)
        card: ModelCard = self._batcher.call(lambda: self._engine.describe(model)).result()
        self._metrics.model_served(card.name, model.config.classes)
        return card

    def _exit_if_stopping_early(self) -> None:
        """Reading all models may take longer than the supervisor waits. Later, jobs in flight may need a model."""
        if not self._registered:
            exit_if_stopping()

    def _refresh_models(self) -> None:
        before = self._registry.cards
        dropped = self._registry.refresh()
        for name in dropped:
            self._metrics.model_ready.labels(name).set(0)
        if dropped:
            self._store.remove_models(sorted(dropped))
        if self._registry.cards != before:
            release_freed_memory()
            self._heartbeat()

    def _heartbeat(self) -> None:
        with self._heartbeat_lock:
            if self._stop.is_set():
                return
            cards = self._registry.cards
            self._registered = True
            heartbeat = WorkerHeartbeat(
                self.id,
                list(cards),
                len(self._runner.in_flight),
                CONTRACT_VERSION,
                self._metrics.url,
                aac=True,  # gateways of earlier versions accept M4A only then
            )
            self._heartbeat_store.heartbeat(heartbeat, cards, HEARTBEAT_TTL)

    def _run_batch(self, key: LoadedModel | SpectrogramOnly, windows: list[Window]) -> list[WindowOutput | Exception]:
        try:
            with batch_span(key, windows):
                return self._engine.run(key, windows)
        except DeviceLost as error:
            log.critical("the device is lost to this process, which exits: %s", error)
            os._exit(EXIT_DEVICE_LOST)  # its jobs are delivered to another worker once their leases expire

    def _watch_device(self) -> None:
        if self._batcher.busy_seconds > self._settings.watchdog_seconds:
            log.critical("the device has not responded for %.0f s; this process exits", self._batcher.busy_seconds)
            os._exit(EXIT_DEVICE_HUNG)

    def _watch_drain(self) -> None:
        if not stop_requested():
            return
        if not self._draining_seconds:
            limit = threading.Timer(STOP_SECONDS, _exit_hung_stop)
            limit.daemon = True
            limit.start()
        self._draining_seconds += 1
        in_flight = len(self._runner.in_flight)
        if self._draining_seconds == DRAIN_SECONDS and in_flight:
            log.warning("%d jobs are still in flight %d s after the stop; they are requeued", in_flight, DRAIN_SECONDS)
            self._batcher.stop(drain=False, timeout=0)
            self._decoder.close()

    def _every(self, seconds: float, function: Callable[[], None]) -> None:
        """Call it periodically until `close`, in a thread of its own, so that one that waits for Redis delays no other.

        An OtoscopeError is logged once, not at each call while it lasts.
        """
        name = function.__name__.strip("_")

        def loop() -> None:
            outage = OutageLog(log, f"{name} fails", f"{name} succeeds again")
            while not self._stop.wait(seconds):
                try:
                    function()
                except OtoscopeError as error:
                    outage.failed(error)
                except Exception:
                    log.exception("%s failed", name)
                else:
                    outage.succeeded()

        threading.Thread(target=loop, name=name, daemon=True).start()


def _exit_hung_stop() -> None:
    """Every command to a Redis that does not answer waits for its timeout, and is repeated."""
    log.critical("not stopped within %d s, perhaps since Redis does not answer; this process exits", STOP_SECONDS)
    os._exit(EXIT_STOP_HUNG)  # its jobs are delivered to another worker once their leases expire
