"""The message format: the envelope in which a job id reaches Celery.

Redis holds job ids alone. The transport makes a message of an id when it delivers it, so that the gateway needs neither
Celery nor kombu, and a new version of either changes nothing in Redis.
"""

import json
from base64 import b64decode, b64encode
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.transport import virtual
from kombu.utils.json import dumps

from shared.contract import CLASSIFY, new_job_id


class TaskMessage:
    """The message that `Celery.send_task` would send for a job, in the form that kombu's virtual transports deliver.

    Celery and kombu write one message, once; in a copy of it each job's id takes the place of the sample's. The id is
    also the delivery tag, which has to be unique among the unacknowledged messages. Jobs that run together have one
    message, whose id and tag are their ids, joined by spaces.
    """

    def __init__(self, app: Celery) -> None:
        self._sample_id = new_job_id()
        message = _sample_message(app, self._sample_id)
        self._body = b64decode(message.pop("body")).decode()
        message["properties"]["delivery_tag"] = self._sample_id
        self._envelope: str = dumps(message)  # type: ignore[no-untyped-call]

    def for_jobs(self, *job_ids: str, redelivered: bool = False) -> dict[str, Any]:
        """The message that makes Celery run these jobs."""
        tag = " ".join(job_ids)
        message: dict[str, Any] = json.loads(self._envelope.replace(self._sample_id, tag))
        message["body"] = b64encode(self._body.replace(self._sample_id, tag).encode()).decode()
        if redelivered:
            message["properties"]["delivery_info"]["redelivered"] = True
        return message


class _Channel(virtual.Channel):
    """Keeps the message that kombu would push to Redis."""

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.connection.sent = message

    def _new_queue(self, queue: str, **_: Any) -> None:
        pass

    def _size(self, queue: str) -> int:
        return 0


class _Transport(virtual.Transport):
    Channel = _Channel
    sent: dict[str, Any]


def _sample_message(app: Celery, job_id: str) -> dict[str, Any]:
    """The message of a job as kombu passes it to its transport."""
    with Connection(transport=_Transport) as connection:  # type: ignore[no-untyped-call]
        app.send_task(CLASSIFY, args=[job_id], task_id=job_id, connection=connection)
        return dict(connection.transport.sent)
