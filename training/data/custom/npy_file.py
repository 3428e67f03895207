"""Writes an int16 matrix row by row into an `.npy` file whose number of rows is not known in advance."""

import os
from pathlib import Path
from typing import BinaryIO

from numpy.lib import format as npy


def write_header(file: BinaryIO, rows: int, width: int) -> None:
    """numpy leaves room in it for any number of rows, so that it can be written again in the same place."""
    npy.write_array_header_1_0(file, {"descr": "<i2", "fortran_order": False, "shape": (rows, width)})


def write_padded(ragged: BinaryIO, target: Path, lengths: list[int]) -> None:
    width = max(lengths)
    with target.open("wb") as file:
        write_header(file, len(lengths), width)
        for length in lengths:
            file.write(ragged.read(2 * length))
            file.seek(2 * (width - length), os.SEEK_CUR)
        finish(file, len(lengths), width)


def finish(file: BinaryIO, rows: int, width: int) -> None:
    file.truncate()  # up to here, should the last row end in zeros
    file.seek(0)
    write_header(file, rows, width)
    file.flush()
    os.fsync(file.fileno())
