"""`otoscope top`: what is going on in a service, live in a terminal or once as text or JSON."""

from typing import Annotated

import typer


def top(
    url: Annotated[
        str | None,
        typer.Option(
            "--url", envvar="OTOSCOPE_URL", metavar="URL", help="The service; http://127.0.0.1:8000 by default."
        ),
    ] = None,
    worker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="A worker's metrics, once for each, instead of those of the workers that the service names.",
        ),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.2, metavar="SECONDS", help="Between two looks.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look twice, print what happened between, and end; with 1 if it is broken.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: JSON on stdout, for programs.")] = False,
) -> None:
    """What is going on: queue, rates, latencies, workers. q ends it. Where there are keys it needs one with `admin`."""
    import asyncio

    from rich.console import Console

    from otoscope.top.live import live, look_once

    console = Console(highlight=False)
    if as_json and not once:
        raise ValueError("--json is for --once")
    if not once and (not console.is_terminal or console.is_dumb_terminal):
        raise ValueError("this is no terminal to draw on: --once prints what there is and ends")
    workers = tuple(worker or ())
    if not once:
        asyncio.run(live(console, url, workers, interval))
    elif asyncio.run(look_once(console, url, workers, interval, as_json=as_json)).state == "broken":
        raise SystemExit(1)
