"""Keeps a job that is being worked on from being delivered a second time.

Every delivered message is given back after `visibility_timeout`, finished or not. The timeout has to be short, so that
the jobs of a killed worker return in seconds; a job that takes longer than it is therefore renewed here: what this
worker holds is stamped anew every two seconds. Only messages that are still booked are touched, so that a job which was
given back for good is not claimed again.
"""

import logging
import threading
from typing import Any

import redis
from celery import bootsteps

from shared.redis_client.connection import client

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
        """The consumer has subscribed; called again after every reconnection, with another channel."""
        self._stop.set()
        self._stop = threading.Event()
        own = client(consumer.app.conf.otoscope_address, socket_timeout=5)
        self._thread = threading.Thread(
            target=self._renew, args=(consumer.task_consumer.channel, own, self._stop), name="lease", daemon=True
        )
        self._thread.start()

    def stop(self, consumer: Any) -> None:
        """The consumer takes no more messages, but after SIGTERM its jobs still run: they are renewed to their end."""

    def shutdown(self, consumer: Any) -> None:
        """The last job is done and the channel is about to be closed."""
        self._stop.set()

    terminate = shutdown

    @staticmethod
    def _renew(channel: Any, own: redis.Redis, stop: threading.Event) -> None:
        with own:
            while not stop.wait(RENEW_SECONDS):
                try:
                    channel.qos.renew(own)
                except RuntimeError:
                    continue  # the dictionary changed while it was copied; two seconds later it will not
                except redis.exceptions.RedisError as error:
                    log.warning("could not renew the leases of running jobs: %s", error)
                except Exception:
                    log.exception("could not renew the leases of running jobs")
