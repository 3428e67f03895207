"""`otoscope up`: a Redis-compatible server, a worker and the gateway on this machine."""

from typing import Annotated

import typer


def up(
    redis_url: Annotated[
        str | None,
        typer.Option(
            envvar="OTOSCOPE_REDIS_URL",
            metavar="URL",
            help="A running Redis instead of the embedded one; several, separated by spaces, get a worker each.",
        ),
    ] = None,
) -> None:
    """Start the service on this machine, until Ctrl-C.

    A Redis-compatible server, a worker and the gateway. OTOSCOPE_PORT sets the port.
    """
    from commands.stack.up import up as run

    run(redis_url)
