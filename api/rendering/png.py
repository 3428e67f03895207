"""A matrix as a PNG: time runs right, the first row is at the bottom, the minimum is dark and the maximum is light.

Cells are square, unless the image would then be higher than wide or lower than an eighth of its width. Where there are
more cells than pixels, a pixel shows the mean of its cells; where there are fewer, a cell is a plain rectangle, because
interpolation would show values that were never computed.
"""

import io
import json
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from api.static_files import STATIC
from otoscope.results import Array

Colormap = Literal["magma", "viridis", "cividis", "grey"]

_MAX_ASPECT = 8  # width over height


@cache
def colormaps() -> dict[str, bytes]:
    """256 RGB triples for each colormap, from the file that the page uses too.

    magma, viridis and cividis are matplotlib's, dedicated to the public domain (CC0); grey is linear in CIE lightness.
    """
    tables = json.loads((STATIC / "colormaps.json").read_text())
    return {name: bytes.fromhex(table) for name, table in tables.items()}


def image_size(rows: int, columns: int, width: int) -> tuple[int, int]:
    """(width, height) in pixels of the image of a matrix."""
    return width, round(width * min(max(rows / columns, 1 / _MAX_ASPECT), 1))


def render_png(values: Array, colormap: Colormap, width: int) -> bytes:
    """The PNG of a (rows, columns) matrix, scaled from its own minimum to its own maximum, `width` pixels wide."""
    from PIL import Image  # a gateway without requests for images starts without it

    cells = Image.fromarray(_quantize(values[::-1]))
    # BOX is the mean where the image is reduced, and the nearest cell where it is enlarged.
    image = cells.resize(image_size(cells.height, cells.width, width), Image.Resampling.BOX)
    image.putpalette(colormaps()[colormap])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _quantize(values: Array) -> NDArray[np.uint8]:
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
