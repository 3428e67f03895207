"""The sandbox of a decode process: once its libraries are loaded, no files, network, other processes or new code.

Linux alone has the means: Landlock from version 5.13 on, seccomp on x86-64 and ARM64. Where one of them is missing the
process runs without it and writes a line to its log; the limits on memory and CPU time do not depend on them.
"""

import errno
import mmap
import os
import sys
from collections.abc import Callable

if sys.platform == "linux":
    from landlockpy import Ruleset, Scope
    from seccompy import Action, CmpOp, Filter, FilterFlag, supported

_ALLOWED = (
    # The socket to the parent.
    "read", "write", "recvfrom", "sendto", "recvmsg", "sendmsg", "poll", "ppoll", "shutdown", "close", "fcntl", "ioctl",
    "getsockopt", "setsockopt", "select", "pselect6",
    # Memory.
    "munmap", "mremap", "madvise", "brk",
    # Threads, time, limits of the process itself, and its end.
    "futex", "sched_yield", "sched_getaffinity", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
    "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "times", "getrusage", "prlimit64",
    "getrlimit", "setrlimit", "getpid", "getppid", "gettid", "getrandom", "set_robust_list", "rseq", "membarrier",
    "restart_syscall", "tgkill", "exit", "exit_group",
    # Python's calls on open files.
    "fstat", "newfstatat", "lseek",
)  # fmt: skip
_MISSING_ON_ARM64 = frozenset({"poll", "select", "getrlimit", "setrlimit"})  # newer calls replace them there


def forbid_files() -> None:
    """The calling thread, and those that it starts, open no file and no TCP port, and signal no other process."""
    if sys.platform != "linux":
        return

    def apply() -> None:
        supported()  # seccompy searches the file system for the C library at its first call
        with Ruleset(scoped=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL) as ruleset:
            ruleset.restrict()

    _try("Landlock", apply)


def forbid_calls() -> None:
    """Every thread of this process: system calls that decoding does not need fail with EPERM, among them those that
    open files, sockets and processes, and those that make memory executable."""
    if sys.platform != "linux":
        return

    def apply() -> None:
        rules = Filter(Action.ERRNO | errno.EPERM, flags=FilterFlag.TSYNC)
        for name in _ALLOWED:
            if os.uname().machine == "x86_64" or name not in _MISSING_ON_ARM64:
                rules.allow(name)
        for name in ("mmap", "mprotect"):
            rules.allow(name, args=[(2, CmpOp.MASKED_EQ, 0, mmap.PROT_EXEC)])
        rules.load()

    _try("seccomp", apply)


def _try(name: str, apply: Callable[[], None]) -> None:
    try:
        apply()
    except (OSError, RuntimeError) as error:
        print(f"decode process: {name} is not available: {error}", file=sys.stderr)
