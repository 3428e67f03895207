"""What a person types or imports: `otoscope ...`, and `from otoscope import Client`.

Names are imported when first used, so that the command line starts without httpx and numpy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otoscope.client import AsyncClient, Client
    from otoscope.responses import ServiceUnreachable, WaitTimeout
    from otoscope.sansio import JobEvent

__all__ = ["AsyncClient", "Client", "JobEvent", "ServiceUnreachable", "WaitTimeout"]

_HOMES = {
    "AsyncClient": "otoscope.client",
    "Client": "otoscope.client",
    "JobEvent": "otoscope.sansio",
    "ServiceUnreachable": "otoscope.responses",
    "WaitTimeout": "otoscope.responses",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'otoscope' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
