"""What the parts of bench/gpu.py have in common: rows of results, and the models that are measured."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.lib.clips import SHIPPED, large_model

Write = Callable[..., None]
"""Writes a row; its columns are keywords."""

TREE = Path(__file__).parents[2]


@contextmanager
def model_folders() -> Iterator[list[Path]]:
    """Model directories: the large network, then the shipped ones."""
    with tempfile.TemporaryDirectory() as name:
        shipped = sorted(path.parent for path in SHIPPED.glob("*/config.json"))
        yield [large_model(Path(name)), *sorted(shipped, key=lambda folder: folder.name != "esc50-light")]


@contextmanager
def row_of_error(write: Write, **labels: object) -> Iterator[None]:
    """An exception inside becomes a row with these labels."""
    try:
        yield
    except Exception as error:
        print(f"{labels}: {error!r}", file=sys.stderr)
        write(**labels, error=f"{type(error).__name__}: {error}"[:300])
