"""The host names under which a gateway without keys answers.

A page of another site can have its own name resolve to the address of this gateway (DNS rebinding). Its browser then
takes the gateway for that site, and lets the page submit sounds and read responses. What it cannot change is the `Host`
header of these requests: the name of the page.
"""

import re
import socket
from contextlib import suppress
from ipaddress import ip_address

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.problems import problem_response
from otoscope.errors import HostRefused

_LOOPBACK = ("localhost", "ip6-localhost")


class HostMiddleware:
    """Refuses requests to other names with 421 (RFC 9110, section 15.5.20).

    Accepted are addresses, which no page can take for its name, the names of loopback, that of this machine,
    `listening` and `allowed`; `*` accepts all. Browsers always send a `Host`, so that a request without one is
    accepted; health checks are, too.
    """

    def __init__(self, app: ASGIApp, listening: str, allowed: tuple[str, ...]) -> None:
        self._app, self._any = app, "*" in allowed
        self._names = {name.lower() for name in (*_LOOPBACK, socket.gethostname(), listening, *allowed)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and not self._any and not scope["path"].startswith("/health/"):
            host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
            name = re.sub(r":\d*$", "", host).lower().rstrip(".")
            if name and name not in self._names and not name.endswith(".localhost") and not _is_address(name):
                error = HostRefused(
                    f"The request is for the host {name[:100]!r}, which this gateway does not serve. Use its address,"
                    " or name the host in OTOSCOPE_ALLOWED_HOSTS."
                )
                await problem_response(error, HTTPConnection(scope))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        ip_address(name.removeprefix("[").removesuffix("]"))
        return True
    return False
