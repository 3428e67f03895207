"""Memory that a worker shares with one decode process, for the samples of one block.

The last block of a sound, which is the only one of a short sound, comes through it: through a socket its bytes would be
copied twice, in parts, and the thread that waits for them would wake up for each part.

The process may be controlled by a malicious file. It can write what it wants at any time, so the worker copies the
samples, which are numbers whatever they are, and takes nothing else from this memory. It cannot shrink the memory,
which would end the worker at its next access: the size is sealed where the system has seals (Linux).
"""

import fcntl
import mmap
import os
import tempfile

import numpy as np

from shared.audio.decode import BLOCK_SAMPLES, Waveform

_BYTES = BLOCK_SAMPLES * np.dtype(np.float32).itemsize


def create() -> int:
    """A file descriptor of such memory, to be passed to the process."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.truncate(_BYTES)
            return os.dup(file.fileno())
    descriptor = os.memfd_create("otoscope-samples", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, _BYTES)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def attach(descriptor: int) -> Waveform:
    """(BLOCK_SAMPLES,): the samples, for reading and writing; the descriptor is closed."""
    try:
        return np.frombuffer(mmap.mmap(descriptor, _BYTES), np.float32)
    finally:
        os.close(descriptor)
