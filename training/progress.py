"""Progress bars: one at a time, and only on a terminal."""

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any] | None = None, *, hidden: bool = False, **options: Any) -> tqdm:
    """A bar on stderr with the `options` of `tqdm`, removed at its end. It is not shown if it is `hidden`, inside
    another bar, or where stderr is not a terminal, as in a log."""
    inside = bool(tqdm._instances)  # the bars that are shown; tqdm has no public list of them
    return tqdm(items, disable=hidden or inside or None, leave=False, **options)  # None: only on a terminal
