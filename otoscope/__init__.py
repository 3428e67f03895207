"""The Python client of an Otoscope service: `from otoscope import Client`; the command line is `otoscope ...`.

Names are imported on first use, so that the command line starts without httpx2 and numpy, and so that the service can
take its public types and errors from here without loading an HTTP client.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otoscope.client import AsyncClient, Client
    from otoscope.responses import ServiceUnreachable, WaitTimeout
    from otoscope.sansio import JobEvent

__all__ = ["AsyncClient", "Client", "JobEvent", "ServiceUnreachable", "WaitTimeout"]

_MODULES = {
    "AsyncClient": "otoscope.client",
    "Client": "otoscope.client",
    "JobEvent": "otoscope.sansio",
    "ServiceUnreachable": "otoscope.responses",
    "WaitTimeout": "otoscope.responses",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'otoscope' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
