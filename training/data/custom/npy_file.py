"""Writes an int16 matrix row by row into an `.npy` file whose number of rows is not known in advance."""

import os
from pathlib import Path
from typing import BinaryIO

from numpy.lib import format as npy


def write_header(file: BinaryIO, rows: int, width: int) -> None:
    """Write a header for `rows` rows. NumPy pads headers so that one can be overwritten with another number of rows."""
    npy.write_array_header_1_0(file, {"descr": "<i2", "fortran_order": False, "shape": (rows, width)})


def write_padded(ragged: BinaryIO, target: Path, lengths: list[int]) -> None:
    """Copy rows of the given lengths (samples) from `ragged` to `target`, zero-padded to the longest."""
    width = max(lengths)
    with target.open("wb") as file:
        write_header(file, len(lengths), width)
        for length in lengths:
            file.write(ragged.read(2 * length))
            file.seek(2 * (width - length), os.SEEK_CUR)
        finish(file, len(lengths), width)


def finish(file: BinaryIO, rows: int, width: int) -> None:
    """Cut or extend the file to the current position, write the final header and flush to disk."""
    file.truncate()  # the last row may end in a gap
    file.seek(0)
    write_header(file, rows, width)
    file.flush()
    os.fsync(file.fileno())
