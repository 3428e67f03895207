"""`otoscope top`: what is going on in a service, live in a terminal or once as text or JSON."""

import asyncio
import json
import signal
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from otoscope.top_figures import Figures, History
from otoscope.top_look import Lookout
from otoscope.top_screen import NARROWEST, screen


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
    console = Console(highlight=False)
    if as_json and not once:
        raise ValueError("--json is for --once")
    if not once and (not console.is_terminal or console.is_dumb_terminal):
        raise ValueError("this is no terminal to draw on: --once prints what there is and ends")
    workers = tuple(worker or ())
    if not once:
        asyncio.run(_live(console, url, workers, interval))
    elif asyncio.run(_once(console, url, workers, interval, as_json=as_json)).state == "broken":
        raise SystemExit(1)


async def _once(
    console: Console, url: str | None, workers: tuple[str, ...], interval: float, *, as_json: bool
) -> Figures:
    async with Lookout(url, workers) as lookout:
        history = History(lookout.url)
        if not history.add(await lookout.look()).lost:
            await asyncio.sleep(interval)
        figures = history.add(await lookout.look())
    if as_json:
        print(json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **asdict(figures)}))
    else:
        console.print(screen(figures, history.curves, max(console.width, NARROWEST), 10**6))
    return figures


async def _live(console: Console, url: str | None, workers: tuple[str, ...], interval: float) -> None:
    from otoscope.top_keys import pressed  # needs a Unix terminal

    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    figures: Figures | None = None
    async with Lookout(url, workers) as lookout:
        history = History(lookout.url)
        with Live(Text(f"Looking at {lookout.url}"), console=console, screen=True, auto_refresh=False) as live:

            def draw() -> None:
                if figures is not None:
                    footer = f"q ends · every {interval:g} s · {datetime.now():%H:%M:%S}"
                    live.update(screen(figures, history.curves, console.width, console.height, footer), refresh=True)

            def press(key: str) -> None:
                if key in "qQ":
                    ended.set()

            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, ended.set)
            loop.add_signal_handler(signal.SIGWINCH, draw)
            with pressed(press):
                while not ended.is_set():
                    looking = asyncio.ensure_future(lookout.look())
                    await asyncio.wait(
                        {looking, end := asyncio.ensure_future(ended.wait())}, return_when="FIRST_COMPLETED"
                    )
                    if not looking.done():
                        looking.cancel()
                        break
                    figures = history.add(looking.result())
                    draw()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(end, interval)
