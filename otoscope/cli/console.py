"""The console of the command line: what it prints contains no control characters but its own."""

from collections.abc import Iterable

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
