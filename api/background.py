"""What a gateway does beside its requests, for as long as it runs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

Chore = Callable[[], Awaitable[None]]
"""Goes on for ever, unless something happens that it has not reckoned with."""

PAUSE = 1.0  # seconds before it is begun again


def begin(*chores: Chore) -> list[asyncio.Task[None]]:
    """One task for each. A chore that fails is logged and begun again: without it others would wait for ever."""
    return [asyncio.create_task(_lasting(chore)) for chore in chores]


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel until it takes: redis-py swallows a cancellation that comes while it connects."""
    while pending := {task for task in tasks if not task.done()}:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.2)


async def _lasting(chore: Chore) -> None:
    while True:
        try:
            await chore()
        except Exception:
            log.exception("a bug ended what goes on beside requests; it begins again", extra={"chore": repr(chore)})
        await asyncio.sleep(PAUSE)
