"""The command line. Here is how it ends after Ctrl-C, which may come before its packages are imported."""

import sys
from typing import NoReturn

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of SIGINT, as in shells."""
INTERRUPTION = "otoscope: interrupted"


def end_interrupted() -> NoReturn:
    """End with a line on stderr instead of a traceback."""
    print(INTERRUPTION, file=sys.stderr)
    raise SystemExit(INTERRUPTED)
