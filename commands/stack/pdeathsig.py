"""A program of its own: have the kernel end this process when its parent dies, then become the given command.

    python -I -S pdeathsig.py PARENT_PID SIGNAL COMMAND...

As a program, and not between fork and exec of the parent, because the parent has threads. Only Linux has the call;
elsewhere a killed parent leaves its children, and the next `otoscope up` clears them away.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Never returns."""
    parent, farewell, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(farewell), 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the kernel was asked
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # nosec B606  # our own program, no shell
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
