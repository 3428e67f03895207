"""A matrix as a PNG: time runs right, low frequency is at the bottom, the least value is dark and the greatest light.

A cell becomes a square, unless the picture would then be higher than wide or lower than an eighth of its width. Where
there are more cells than pixels a pixel shows the mean of its cells; where there are fewer a cell is a plain rectangle,
because anything smoother would show values that nobody computed.
"""

import io
import json
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from api.static_files import STATIC
from otoscope.results import Array

ColourMap = Literal["magma", "viridis", "cividis", "grey"]

_FLATTEST = 8  # width over height


@cache
def palettes() -> dict[str, bytes]:
    """256 RGB triples for each colour map; one table for these pictures and for the page.

    magma, viridis and cividis are matplotlib's, dedicated to the public domain (CC0); grey is linear in CIE lightness.
    """
    tables = json.loads((STATIC / "colormaps.json").read_text())
    return {name: bytes.fromhex(table) for name, table in tables.items()}


def size(rows: int, columns: int, width: int) -> tuple[int, int]:
    """Width and height in pixels of the picture of a matrix."""
    return width, round(width * min(max(rows / columns, 1 / _FLATTEST), 1))


def draw(values: Array, colours: ColourMap, width: int) -> bytes:
    """The PNG of a (rows, columns) matrix, its own least to its own greatest value, `width` pixels wide."""
    from PIL import Image  # a gateway that is asked for no picture starts without it

    steps = Image.fromarray(_steps(values[::-1]))
    # BOX is the mean on the way down and the nearest cell on the way up.
    image = steps.resize(size(steps.height, steps.width, width), Image.Resampling.BOX)
    image.putpalette(palettes()[colours])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _steps(values: Array) -> NDArray[np.uint8]:
    """0 for the least finite value to 255 for the greatest. In place: ten minutes of sound are eight million values."""
    grid = values.astype(np.float32)
    finite = np.isfinite(grid)
    low, high = 0.0, 0.0
    if finite.any():
        low, high = grid.min(where=finite, initial=np.inf), grid.max(where=finite, initial=-np.inf)
    np.nan_to_num(grid, copy=False, nan=low, posinf=high, neginf=low)
    grid -= low
    grid *= 255 / ((high - low) or 1.0)
    return np.rint(grid, out=grid).astype(np.uint8)
