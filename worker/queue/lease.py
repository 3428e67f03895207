"""Renews the leases of this worker's jobs, so that none of them is delivered a second time.

The transport requeues a delivered job after `visibility_timeout`, whether or not it still runs. The timeout has to be
short, since the jobs of a killed worker wait for it; so the lease of every job in flight is renewed every two seconds.
Celery has no such renewal (celery/celery#5935): a task that takes longer than the timeout is delivered again there.

Only jobs that are still unacknowledged are renewed. A job that was requeued meanwhile belongs to another worker.
"""

import logging
import threading
from typing import Any

import redis
from celery import bootsteps

from shared.outage_log import OutageLog
from shared.redis_client.connection import new_client

log = logging.getLogger(__name__)

RENEW_SECONDS = 2.0


class Lease(bootsteps.StartStopStep):  # type: ignore[misc]
    """A bootstep of the consumer: one thread with its own connection, from the consumer's start to its stop."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, consumer: Any) -> None:
        """The consumer has subscribed. Called again after every reconnection, with another channel."""
        self._stop.set()
        self._stop = threading.Event()
        client = new_client(consumer.app.conf.broker_transport_options["redis_url"], socket_timeout=5)
        self._thread = threading.Thread(
            target=self._renew, args=(consumer.task_consumer.channel, client, self._stop), name="lease", daemon=True
        )
        self._thread.start()

    def stop(self, consumer: Any) -> None:
        """The consumer takes no more messages. After SIGTERM its jobs still run, and are renewed until they end."""

    def shutdown(self, consumer: Any) -> None:
        """The last job has ended, and the channel is about to be closed."""
        self._stop.set()

    terminate = shutdown

    @staticmethod
    def _renew(channel: Any, client: redis.Redis, stop: threading.Event) -> None:
        lost, back = "could not renew the leases of running jobs", "renewed the leases of running jobs again"
        outage = OutageLog(log, lost, back)
        with client:
            while not stop.wait(RENEW_SECONDS):
                try:
                    if channel.qos.renew(client):
                        outage.succeeded()
                except RuntimeError:
                    continue  # the dictionary of messages changed while it was copied: next time
                except redis.exceptions.RedisError as error:
                    outage.failed(error)
                except Exception:
                    log.exception(lost)
