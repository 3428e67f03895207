"""Background tasks: what a gateway does beside its requests, for as long as it runs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from api.metrics import GatewayMetrics
from otoscope.errors import OtoscopeError
from shared.jobs import ShardedJobStore

log = logging.getLogger(__name__)

BackgroundTask = Callable[[], Awaitable[None]]
"""Runs until it is cancelled; it returns or raises only because of a bug."""

RESTART_SECONDS = 1.0
EXPIRY_SECONDS = 1.0  # between two searches for jobs past their deadline
LOOP_DELAY_SECONDS = 0.05  # between two measurements


def start(*background_tasks: BackgroundTask) -> list[asyncio.Task[None]]:
    """Run each in an asyncio task. One that fails is logged and restarted: requests wait for what it does."""
    return [asyncio.create_task(_run_forever(each)) for each in background_tasks]


async def stop(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: redis-py swallows a cancellation that arrives while it connects."""
    while pending := {task for task in tasks if not task.done()}:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.2)


async def expire_overdue(store: ShardedJobStore) -> None:
    """Fail jobs past their deadline, so that no job stays unfinished while no worker runs."""
    while True:
        await asyncio.sleep(EXPIRY_SECONDS)
        try:
            for job_id in await store.expire_overdue():
                log.warning("not finished by its deadline", extra={"job": job_id})
        except OtoscopeError:
            continue  # Redis is unreachable: the next request that needs it reports that


async def measure_loop_delay(metrics: GatewayMetrics) -> None:
    """Record how late the event loop runs a callback that is due: every request waits for that long."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + LOOP_DELAY_SECONDS
        await asyncio.sleep(LOOP_DELAY_SECONDS)
        metrics.observe_loop_delay(clock() - due)


async def _run_forever(background_task: BackgroundTask) -> None:
    while True:
        try:
            await background_task()
        except Exception:
            log.exception("a bug ended a background task; it restarts", extra={"task": repr(background_task)})
        await asyncio.sleep(RESTART_SECONDS)
