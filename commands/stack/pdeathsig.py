"""A program that sets PR_SET_PDEATHSIG, so that the kernel ends it when its parent dies, then execs a command.

    python -I -S pdeathsig.py PARENT_PID SIGNAL COMMAND...

It is a program, and not code between fork and exec of the parent, because the parent has threads. Only Linux has the
call; elsewhere a killed parent leaves its children, and the next `otoscope up` stops them.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Never returns."""
    parent, number, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != int(parent):  # the parent died before the call
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # nosec B606  # our own program, no shell
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
