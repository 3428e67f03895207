"""`otoscope top`, the live screen and the single look."""

import asyncio
import json
import signal
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from otoscope.top.collect import Lookout
from otoscope.top.screen import NARROWEST, screen
from otoscope.top.stats import Figures, History


async def look_once(
    console: Console, url: str | None, workers: tuple[str, ...], interval: float, *, as_json: bool
) -> Figures:
    """Look twice, print what happened between."""
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


async def live(console: Console, url: str | None, workers: tuple[str, ...], interval: float) -> None:
    """Until q, Ctrl-C or SIGTERM; the terminal is as it was afterwards."""
    from otoscope.top.keyboard import pressed  # needs a Unix terminal

    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    figures: Figures | None = None
    async with Lookout(url, workers) as lookout:
        history = History(lookout.url)
        with Live(Text(f"Looking at {lookout.url}"), console=console, screen=True, auto_refresh=False) as shown:

            def draw() -> None:
                if figures is not None:
                    footer = f"q ends · every {interval:g} s · {datetime.now():%H:%M:%S}"
                    shown.update(screen(figures, history.curves, console.width, console.height, footer), refresh=True)

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
