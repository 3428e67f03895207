"""The console of the command line: what it prints contains no control characters but its own."""

import sys
from collections.abc import Iterable
from typing import NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from otoscope.text import escape_controls


class SafeConsole(Console):
    """rich removes five control characters and prints the others, `ESC` among them."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=escape_controls(segment.text, keep_lines=True))

    def on_broken_pipe(self) -> NoReturn:
        """rich raises SystemExit, which ends an event loop before its threads."""
        raise BrokenPipeError


def table_console() -> SafeConsole:
    """Standard output. A table that goes to a pipe is not cut to the width of a terminal."""
    return SafeConsole(highlight=False, width=None if sys.stdout.isatty() else 10_000)
