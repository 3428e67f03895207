"""Windows of sound that are read from a file when they are needed, so that memory does not depend on their number.

A file is read and not mapped: the pages of a map would count as memory of the process. What was read before comes from
the page cache of the system, so that a data set that fits into memory is read from the disk once.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.pipeline.windows import fill_window


class OpenFile:
    """A file descriptor that is closed with the last windows that are read from it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True)
class StoredWindows:
    """Rows of a matrix in a file, as float32 tensors on the CPU; indexed as a tensor (windows, samples) is."""

    file: OpenFile
    offset: int  # bytes in front of the first row
    stored: int  # samples of a row in the file
    dtype: np.dtype[np.generic]
    full_scale: float  # divisor of the stored samples
    rows: NDArray[np.int64]  # (windows,): the row of each window
    samples: int  # of a window: rows are cut, or padded with zeros
    lengths: NDArray[np.int64] | None = None  # (rows of the file,): how many samples of each are sound
    pause: int | None = None  # shorter ones are repeated, with so many zeros in between

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.samples

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        """Of the windows as float32."""
        return 4 * len(self.rows) * self.samples

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: Tensor | slice) -> Tensor:
        """(windows, samples) of these indices, read from the file. Raises OSError."""
        rows = self.rows[wanted if isinstance(wanted, slice) else wanted.numpy()]
        raw = np.zeros((len(rows), self.stored), self.dtype)
        size = self.stored * self.dtype.itemsize
        for target, row in zip(raw, rows.tolist(), strict=True):
            os.preadv(self.file.descriptor, [target.data], self.offset + row * size)
        waves = torch.from_numpy(raw[:, : self.samples].astype(np.float32, copy=False)) / self.full_scale
        if self.stored < self.samples:
            waves = torch.nn.functional.pad(waves, (0, self.samples - self.stored))
        if self.lengths is not None:
            for wave, length in zip(waves.numpy(), self.lengths[rows].tolist(), strict=True):
                if length < self.samples:
                    wave[:] = fill_window(wave[:length], self.samples, self.pause)
        return waves

    def take(self, wanted: Tensor) -> "StoredWindows":
        """Those of these indices, or where a mask (windows,) is true; they stay in the file."""
        return replace(self, rows=self.rows[wanted.numpy()])


Windows = Tensor | StoredWindows
"""(windows, samples) float32, in memory or in a file."""


def open_windows(array: np.memmap[tuple[int, int], np.dtype[np.int16]], rows: NDArray[np.int64], samples: int,
                 full_scale: float) -> StoredWindows:  # fmt: skip
    """Rows of a memory-mapped `.npy` file. Raises OSError."""
    assert array.filename is not None  # nosec B101  # its callers map a file
    file = OpenFile(os.open(array.filename, os.O_RDONLY))
    return StoredWindows(file, array.offset, array.shape[1], array.dtype, full_scale, rows, samples)


def in_parts(windows: Windows, size: int) -> Iterator[Tensor]:
    """The windows in tensors (size, samples), the last one shorter."""
    return (windows[at : at + size] for at in range(0, len(windows), size))


class WindowFile:
    """A temporary file of windows (samples,) as float32, written by several threads; it has no name and is removed with
    its last windows."""

    def __init__(self, samples: int) -> None:
        descriptor, name = tempfile.mkstemp(prefix="otoscope-windows-")
        os.unlink(name)
        self._file, self._samples = OpenFile(descriptor), samples

    def write(self, row: int, window: NDArray[np.float32]) -> None:
        """Raises OSError, for example for a full disk."""
        data = np.ascontiguousarray(window, np.float32)
        os.pwrite(self._file.descriptor, data.data, row * data.nbytes)

    def windows(self, rows: NDArray[np.int64]) -> StoredWindows:
        return StoredWindows(self._file, 0, self._samples, np.dtype(np.float32), 1.0, rows, self._samples)
