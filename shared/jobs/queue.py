"""The queue between gateway and worker: the Celery configuration of the worker, and the messages of the gateway.

The timeouts decide how soon the jobs of a killed worker come back: kombu's defaults take an hour. Results are ours
(`shared.jobs`), so Celery keeps none.
"""

from base64 import b64decode, b64encode
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.transport import virtual
from kombu.utils.json import dumps

from shared import contract
from shared.config.settings import Settings


def make_celery(settings: Settings) -> Celery:
    """A Celery app without tasks: enough to write a message, and what the worker adds its task to."""
    app = Celery("otoscope", broker=settings.address.told, set_as_current=False)
    app.conf.update(**_config(settings))
    return app


def _config(settings: Settings) -> dict[str, Any]:
    return {
        # Of the default exchange: a named one would be kept in Redis for ever.
        "task_queues": [Queue(contract.QUEUE, Exchange(""), contract.QUEUE)],  # type: ignore[no-untyped-call]
        "task_default_queue": contract.QUEUE,
        "task_default_exchange": "",
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "task_serializer": "json",
        "accept_content": ["json"],
        "enable_utc": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "broker_transport_options": {
            "address": settings.address,  # `worker.queue.transport` goes by it; the URL above is for what is logged
            "priority_steps": [0],
            "visibility_timeout": settings.visibility_timeout,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    }


class Messages:
    """What `send_task` would put into the queue for a job, as text, so that a script can put it there with the job.

    Celery and kombu write one message, at start; in a copy of it each job's id takes the place of the first one's. The
    id is the delivery tag, too: that has to be unique among messages, and a job has one message.
    """

    def __init__(self, app: Celery) -> None:
        self._sample = contract.new_job_id()
        message = _sent(app, self._sample)
        message["properties"]["delivery_tag"] = self._sample
        self._body = b64decode(message["body"]).decode()
        message["body"] = self._body_mark = f"body of {self._sample}"
        self._text: str = dumps(message)  # type: ignore[no-untyped-call]

    def of(self, job_id: str) -> str:
        """The message that has a worker do this job."""
        body = b64encode(self._body.replace(self._sample, job_id).encode()).decode()
        return self._text.replace(self._body_mark, body).replace(self._sample, job_id)


class _Channel(virtual.Channel):
    """Keeps what kombu would push to Redis."""

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.connection.kept = message

    def _new_queue(self, queue: str, **_: Any) -> None:
        pass

    def _size(self, queue: str) -> int:
        return 0


class _Transport(virtual.Transport):
    Channel = _Channel
    kept: dict[str, Any]


def _sent(app: Celery, job_id: str) -> dict[str, Any]:
    """The message of a job as kombu hands it to its transport."""
    with Connection(transport=_Transport) as connection:  # type: ignore[no-untyped-call]
        app.send_task(contract.CLASSIFY, args=[job_id], task_id=job_id, connection=connection)
        return dict(connection.transport.kept)
