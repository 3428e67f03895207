"""`otoscope top`: the live screen and the single report."""

import asyncio
import json
import signal
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from otoscope.top.collect import Collector
from otoscope.top.screen import MIN_WIDTH, screen
from otoscope.top.stats import Figures, History


async def print_once(
    console: Console, url: str | None, workers: tuple[str, ...], interval: float, *, as_json: bool
) -> Figures:
    """Take two snapshots, print the figures between them."""
    async with Collector(url, workers) as collector:
        history = History(collector.url)
        if not history.add(await collector.collect()).lost:
            await asyncio.sleep(interval)
        figures = history.add(await collector.collect())
    if as_json:
        print(json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **asdict(figures)}))
    else:
        console.print(screen(figures, history.curves, max(console.width, MIN_WIDTH), 10**6))
    return figures


async def live(console: Console, url: str | None, workers: tuple[str, ...], interval: float) -> None:
    """Until q, Ctrl-C or SIGTERM; restores the terminal."""
    from otoscope.top.keyboard import key_presses  # needs a Unix terminal

    quit_requested, loop = asyncio.Event(), asyncio.get_running_loop()
    figures: Figures | None = None
    async with Collector(url, workers) as collector:
        history = History(collector.url)
        with Live(Text(f"Connecting to {collector.url}"), console=console, screen=True, auto_refresh=False) as shown:

            def draw() -> None:
                if figures is not None:
                    footer = f"q quits · every {interval:g} s · {datetime.now():%H:%M:%S}"
                    shown.update(screen(figures, history.curves, console.width, console.height, footer), refresh=True)

            def press(key: str) -> None:
                if key in "qQ":
                    quit_requested.set()

            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, quit_requested.set)
            loop.add_signal_handler(signal.SIGWINCH, draw)
            with key_presses(press):
                while not quit_requested.is_set():
                    collecting = asyncio.ensure_future(collector.collect())
                    await asyncio.wait(
                        {collecting, end := asyncio.ensure_future(quit_requested.wait())}, return_when="FIRST_COMPLETED"
                    )
                    if not collecting.done():
                        collecting.cancel()
                        break
                    figures = history.add(collecting.result())
                    draw()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(end, interval)
