"""The worker process: load, warm up, open the metrics port, take jobs, drain.

Everything is built here before Celery's consumer starts, in plain order: Celery swallows errors in its start-up
signals, and a worker without a model must not run.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from celery import Celery
from celery.exceptions import Reject
from celery.worker import state
from redis.backoff import NoBackoff
from redis.retry import Retry

from otoscope.errors import ContractMismatch, OtoscopeError
from otoscope.results import CONTRACT_VERSION
from shared import tracing
from shared.audio.decode import aac_available
from shared.config.settings import Settings, usable_cores
from shared.contract import CLASSIFY
from shared.jobs import JobStore
from shared.jobs.queue import make_celery
from shared.jobs.records import Announcement
from shared.redis_client.connection import new_client, connect
from worker.decode.pool import DecoderPool
from worker.inference.batcher import Batcher
from worker.inference.engine import DeviceLost, Engine, LoadedModel, SpectrogramOnly, Window, WindowOutput, read_model
from worker.inference.malloc import keep_freed_memory
from worker.inference.registry import Registry
from worker.model.precision import pick_device
from worker.pipeline.runner import UNFINISHED, Classifier
from worker.queue import transport as broker
from worker.queue.lease import Lease
from worker.telemetry import tracing as traces
from worker.telemetry.metrics import WorkerMetrics

log = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 2.0
VOUCH_SECONDS = 10  # a worker that has been silent for so long does not count as ready
BATCH_ON_CPU, BATCH_ON_GPU = 8, 64  # where nothing else is set: what is as fast a clip as anything larger
DRAIN_SECONDS = 45  # after SIGTERM, to finish in what is held; whoever sent it waits for at least a minute
HANGS, SPOILED = 70, 71  # exit statuses of a worker whose device hung, or does not answer to it any more


class Worker:
    """The parts of a worker, wired together. `start` raises ModelError or OSError; `run` blocks until SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.id = f"{socket.gethostname()}-{os.getpid()}"
        self._exit = ExitStack()
        patient = connect(settings)
        self._exit.callback(patient.close)
        self._store = JobStore(patient, settings)
        # Word of itself comes every two seconds anyway, and must not hold up its end where nobody can be told.
        brief = new_client(settings.redis, retry=Retry(NoBackoff(), 1), socket_timeout=5, socket_connect_timeout=2)
        self._exit.callback(brief.close)
        self._words = JobStore(brief, settings)
        keep_freed_memory()
        device = pick_device(settings.device)
        self._engine = Engine(device, settings.engine, int8=settings.int8, cores=usable_cores())
        self._batch_size = settings.batch_size or (BATCH_ON_CPU if device.type == "cpu" else BATCH_ON_GPU)
        self._metrics = WorkerMetrics(device)
        self._batcher: Batcher[Window, WindowOutput] = Batcher(
            self._on_device,
            size=self._batch_size,
            window=settings.batch_window,
            device_threads=self._engine.device_threads,
            on_batch=self._metrics.batch,
        )
        self._registry = Registry(settings.models_dir, settings.model_names, self._load)
        self._stop = threading.Event()
        self._announcing = threading.Lock()
        self._announced = False
        self._draining = 0  # seconds since it was told to stop

    def start(self) -> None:
        """Load every model, run each once, and only then say that this worker is there."""
        settings = self._settings
        self._exit.callback(self._metrics.serve(settings.metrics_port, settings.metrics_host))
        # First, so that the decode processes start up while the weights are read.
        self._decoder = DecoderPool(
            settings.decode_processes, settings.decode_seconds, settings.max_seconds, self._metrics.decoder_died
        )
        self._exit.callback(self._decoder.close)
        self._metrics.watch_decoders(lambda: self._decoder.pids)
        self._batcher.start()
        self._registry.refresh()
        self._registry.require()
        self._classifier = Classifier(
            self.id, self._store, self._registry, self._decoder, self._batcher, self._metrics, self._batch_size
        )
        tracing.freeze_gc()
        self._every(1.0, self._watch_device)
        self._every(1.0, self._watch_drain)
        self._every(0.5, self._classifier.cancel_abandoned)
        self._every(2.0, self._refresh_models)
        self._announce()
        self._every(ANNOUNCE_SECONDS, self._announce)

    def run(self) -> int:
        """Take jobs until SIGTERM or SIGINT, finish what is held or give it back, and return the exit status."""
        broker.install()
        app = make_celery(self._settings)
        app.conf.update(worker_hijack_root_logger=False, otoscope_address=self._settings.address)
        app.steps["consumer"].add(Lease)
        self._register(app)
        consumer = app.Worker(
            hostname=f"otoscope@{self.id}",
            pool_cls="threads",
            # Jobs held at a time: two batches a lane, so that one fills while the other runs.
            concurrency=2 * self._batch_size * self._engine.device_threads,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
            loglevel="WARNING",
        )
        consumer.start()
        return int(consumer.exitcode or 0)

    def close(self) -> None:
        """Stop vouching, end the threads and the decode processes."""
        self._stop.set()
        with self._announcing:  # none that has begun may come after the retraction
            if self._announced:
                try:
                    self._words.retract(self.id)
                except OtoscopeError:
                    log.warning("the queue could not be told that this worker is gone; it will notice")
        self._batcher.stop(drain=True, timeout=self._settings.watchdog_seconds)
        self._exit.close()

    def _register(self, app: Celery) -> None:
        @app.task(name=CLASSIFY)  # type: ignore[untyped-decorator]
        def classify(job_id: str) -> None:
            try:
                self._classifier.run(job_id)
            except UNFINISHED as error:
                if isinstance(error, ContractMismatch):
                    log.warning("left to a newer worker: %s", error, extra={"job": job_id})
                # Nothing has been stored, so nothing is lost: back to the queue.
                time.sleep(1.0)
                raise Reject(str(error), requeue=True) from error

    def _load(self, directory: Path) -> LoadedModel:
        """Read in this thread, so that jobs go on meanwhile; then to a batcher's, since they alone touch the device.

        Before each, a worker that was told to stop ends: several may take longer than whoever stops it would wait.
        """
        state.maybe_shutdown()
        model, sizes = read_model(directory), (1, self._batch_size)
        served: LoadedModel = self._batcher.call(lambda: self._engine.serve(model, sizes)).result()
        self._metrics.serves(served.name, model.config.classes)
        log.info("model %s runs on %s", served.name, served.backend.name)
        return served

    def _refresh_models(self) -> None:
        before = self._registry.cards
        dropped = self._registry.refresh()
        for name in dropped:
            self._metrics.ready.labels(name).set(0)
        if dropped:
            self._store.withdraw_models(sorted(dropped))
        if self._registry.cards != before:
            self._announce()

    def _announce(self) -> None:
        with self._announcing:
            if self._stop.is_set():
                return
            cards = self._registry.cards
            self._announced = True
            busy = len(self._classifier.held)
            said = Announcement(self.id, list(cards), busy, CONTRACT_VERSION, self._metrics.url, aac_available())
            self._words.announce(said, cards, VOUCH_SECONDS)

    def _on_device(
        self, served: LoadedModel | SpectrogramOnly, windows: list[Window]
    ) -> list[WindowOutput | Exception]:
        try:
            with traces.of_batch(served, windows):
                return self._engine.run(served, windows)
        except DeviceLost as error:
            log.critical("the device is lost to this process, which ends: %s", error)
            os._exit(SPOILED)  # what it holds is delivered to the next

    def _watch_device(self) -> None:
        if self._batcher.busy_seconds > self._settings.watchdog_seconds:
            log.critical("the device has not answered for %.0f s; this process ends", self._batcher.busy_seconds)
            os._exit(HANGS)

    def _watch_drain(self) -> None:
        if state.should_stop is None:
            return
        self._draining += 1
        if self._draining == DRAIN_SECONDS and self._classifier.held:
            log.warning("%d jobs take longer than a stop should; they are given back", len(self._classifier.held))
            self._batcher.stop(drain=False, timeout=0)
            self._decoder.close()

    def _every(self, seconds: float, function: Callable[[], None]) -> None:
        """Call it for ever, in a thread of its own, so that one that waits for Redis holds up no other."""

        def loop() -> None:
            told = ""
            while not self._stop.wait(seconds):
                try:
                    function()
                    told = ""
                except OtoscopeError as error:
                    if str(error) != told:  # once, and not every two seconds for as long as it lasts
                        log.warning("%s: %s", function.__name__, error)
                    told = str(error)
                except Exception:
                    log.exception("%s failed", function.__name__)

        threading.Thread(target=loop, name=function.__name__.strip("_"), daemon=True).start()
