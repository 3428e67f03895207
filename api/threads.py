"""Threads for what would block the event loop for long.

Those for uploads are others than those of the event loop, which render results: an upload that takes long to check
delays no answer. All threads share one interpreter lock: more of them would not be faster, and would delay the event
loop.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

THREADS = 2  # of each kind
_uploads = ThreadPoolExecutor(THREADS, "upload")

T = TypeVar("T")


async def in_upload_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call it in a thread for uploads, in the context of the caller, as `asyncio.to_thread` does in those for
    rendering."""
    return await asyncio.get_running_loop().run_in_executor(_uploads, copy_context().run, function, *arguments)
