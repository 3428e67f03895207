"""The Celery application: its settings, its one task, and the consumer that runs it.

Results are ours (`shared.jobs`), so Celery stores none. The timeouts decide how soon the jobs of a killed worker are
delivered again: with kombu's defaults that takes an hour.
"""

import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from celery import Celery
from celery.exceptions import Reject
from celery.platforms import SecurityWarning
from celery.signals import setup_logging
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.entity import Exchange, Queue

from shared.config.settings import Settings
from shared.contract import CLASSIFY, QUEUE
from shared.outage_log import OutageLog
from worker.queue import transport
from worker.queue.lease import Lease
from worker.queue.message import TaskMessage

log = logging.getLogger(__name__)

_RECONNECT_SECONDS = 1.0


class Requeue(Exception):
    """Raised by a handler whose jobs are to be delivered again."""


Handler = Callable[[list[str], Callable[[str], None]], None]
"""Runs jobs that were delivered together, by their ids. What it is given besides acknowledges one of them before the
others have ended."""


def make_celery(settings: Settings, models: Callable[[], Iterable[str]] | None = None, lanes: int = 0) -> Celery:
    """The application without its task. kombu uses the transport of this package in this process from now on.

    `models` returns the names of the models whose jobs are taken; None: of every model. `lanes` is that of `consume`;
    0: no jobs are run together.
    """
    transport.install()
    app = Celery("otoscope", broker=settings.redis.safe_url, set_as_current=False)
    app.conf.update(**_config(settings))
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "message_for": TaskMessage(app).for_jobs,
        "served_models": models,
        "lanes": lanes,
    }
    app.steps["consumer"].add(Lease)
    return app


def consume(
    settings: Settings,
    handle: Handler,
    *,
    name: str,
    concurrency: int,
    models: Callable[[], Iterable[str]] | None = None,
    lanes: int = 0,
) -> int:
    """Call `handle` with the ids of all delivered jobs until SIGTERM or SIGINT; returns the exit status.

    At most `concurrency` jobs are in flight. Short sounds that are delivered together are given to one call, in one
    thread, but spread over as many calls as there are `lanes` without work. Jobs are acknowledged when `handle`
    returns; when it raises Requeue, those are requeued that were not acknowledged before. `models` is that of
    `make_celery`.
    """
    app = make_celery(settings, models, lanes)

    def acknowledge(job_id: str) -> None:
        """After a lost connection there may be no such delivery: the job is delivered again, and skipped."""
        channel = consumer.consumer.task_consumer.channel
        consumer.consumer.call_soon(channel.qos.acknowledge, job_id)

    @app.task(name=CLASSIFY)  # type: ignore[untyped-decorator]
    def classify(job_ids: str) -> None:
        try:
            handle(job_ids.split(), acknowledge)
        except Requeue as error:
            raise Reject(str(error), requeue=True) from error

    consumer = app.Worker(
        consumer_cls=_Consumer,
        hostname=f"otoscope@{name}",
        pool_cls="threads",
        concurrency=concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        loglevel="WARNING",
    )
    consumer.start()
    return int(consumer.exitcode or 0)


class _Consumer(Consumer):  # type: ignore[misc]
    """Celery's consumer. While Redis is away it tries to connect once a second and logs the outage once; Celery's own
    waits up to 30 s between two attempts and logs each of them."""

    def ensure_connected(self, connection: Any) -> Any:
        outage = OutageLog(log, "cannot connect to Redis", "connected to Redis again")
        connection.ensure_connection(
            lambda error, _: outage.failed(error),
            interval_start=_RECONNECT_SECONDS,
            interval_step=0,
            callback=exit_if_stopping,
        )
        outage.succeeded()
        self.first_connection_attempt = False
        return connection


def request_stop() -> None:
    """End the consumer as SIGTERM does; may be called from a signal handler, and before the consumer runs.

    It sets Celery's flag and raises nothing: an exception raised in a signal handler may be lost, for instance where
    the signal arrives during an import or in a callback.
    """
    state.should_stop = 0


def stop_requested() -> bool:
    """Whether the consumer has to stop: by a signal or by `request_stop`."""
    return state.should_stop is not None


def exit_if_stopping() -> None:
    """Raises Celery's WorkerShutdown, a SystemExit, if the consumer has to stop."""
    state.maybe_shutdown()


def configure_logging() -> None:
    """Celery logs warnings and errors alone, and leaves the process's logging as it is."""
    # Celery warns a process that runs as root of pickled messages; JSON alone is accepted here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    logging.getLogger("celery").setLevel(logging.WARNING)
    setup_logging.connect(_keep_logging)


def _keep_logging(**_: object) -> None:
    """Where this signal has a receiver, Celery does not configure logging, which would set the root logger's level."""


def _config(settings: Settings) -> dict[str, Any]:
    return {
        # The default exchange: for a named one kombu stores bindings in Redis, without a TTL.
        "task_queues": [Queue(QUEUE, Exchange(""), QUEUE)],  # type: ignore[no-untyped-call]
        "task_default_queue": QUEUE,
        "task_default_exchange": "",
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "enable_utc": True,
        "broker_connection_retry_on_startup": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "broker_transport_options": {
            "redis_url": settings.redis,  # what the transport connects to; the broker URL is what appears in logs
            "max_sound_in_flight": settings.max_sound_in_flight,
            "visibility_timeout": settings.visibility_timeout,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    }
