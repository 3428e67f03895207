"""The Celery configuration that both ends of the queue must share.

The timeouts decide how soon the jobs of a killed worker come back: kombu's defaults take an hour. Results are ours
(`shared.store`), so Celery keeps none.
"""

from typing import Any

from celery import Celery

from shared.contract import QUEUE
from shared.settings import Settings


def make_celery(settings: Settings) -> Celery:
    """A Celery app without tasks: enough to send, and what the worker adds its task to."""
    app = Celery("otoscope", broker=settings.broker_url, set_as_current=False)
    app.conf.update(**_config(settings))
    return app


def _config(settings: Settings) -> dict[str, Any]:
    return {
        "task_default_queue": QUEUE,
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
            "visibility_timeout": settings.visibility_timeout,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        # A gateway that cannot reach the broker says so at once; the caller tries again.
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0.05, "interval_max": 0.05},
    }
