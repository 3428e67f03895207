"""`otoscope top`: the state of a service, live in a terminal or once as text or JSON."""

from typing import Annotated

import typer

from otoscope.cli.options import Url


def top(
    url: Url = None,
    worker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Address of a worker's metrics, once for each worker; by default those that the service lists.",
        ),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.2, metavar="SECONDS", help="Between two updates.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one report over INTERVAL and exit; with 1 if the service is broken.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: JSON on stdout, for programs.")] = False,
) -> None:
    """Live queue, rates, latencies and workers; q quits. A service with keys requires one with the scope admin."""
    import asyncio

    from otoscope.cli.console import SafeConsole
    from otoscope.top.live import live, print_once

    console = SafeConsole(highlight=False)
    if as_json and not once:
        raise ValueError("--json needs --once")
    if not once and (not console.is_terminal or console.is_dumb_terminal):
        raise ValueError("the output is not a terminal; --once prints one report and exits")
    workers = tuple(worker or ())
    if not once:
        asyncio.run(live(console, url, workers, interval))
    elif asyncio.run(print_once(console, url, workers, interval, as_json=as_json)).state == "broken":
        raise SystemExit(1)
