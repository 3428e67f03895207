"""Single key presses of a terminal, whose mode is restored afterwards."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def key_presses(handle: Callable[[str], None]) -> Iterator[None]:
    """Call `handle` with each key, in the running event loop; does nothing if stdin is not a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    loop = asyncio.get_running_loop()

    def read() -> None:
        for key in os.read(stdin, 64).decode(errors="ignore"):
            handle(key)

    tty.setcbreak(stdin)
    changed = termios.tcgetattr(stdin)
    # Ctrl-Z would leave the screen in cbreak mode.
    changed[6][termios.VSUSP] = bytes([os.fpathconf(stdin, "PC_VDISABLE")])
    termios.tcsetattr(stdin, termios.TCSADRAIN, changed)
    loop.add_reader(stdin, read)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
