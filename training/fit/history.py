"""The learning curve of a run: one row of `history.csv` for each epoch, as text in a terminal, as a picture."""

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from training.errors import RunError, cause

HISTORY = "history.csv"
CURVE = "learning_curve.png"
COLUMNS = ("epoch", "loss", "accuracy", "lr", "val_loss", "val_accuracy")
"""`accuracy` is that of the augmented, mixed training windows, `val_*` those of the held-out ones, where there are."""

Row = Mapping[str, float]

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 40  # characters of a curve in the terminal
_SHOWN = {"loss": "loss", "val_loss": "loss, held out", "accuracy": "accuracy", "val_accuracy": "accuracy, held out"}


class History:
    """Writes the epochs of a run; a resumed run goes on behind those that its checkpoint has."""

    def __init__(self, out: Path, done: int) -> None:
        self._path = out / HISTORY
        self.rows: list[Row] = [row for row in read_history(out) if row["epoch"] <= done]

    def add(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Append an epoch and write the file. Raises RunError, for example for a full disk."""
        self.rows.append({"epoch": float(epoch), **metrics})
        try:
            with self._path.open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(COLUMNS)
                for row in self.rows:
                    values = [f"{row[name]:.6g}" if name in row else "" for name in COLUMNS[1:]]
                    table.writerow([int(row["epoch"]), *values])
        except OSError as error:
            raise RunError(f"{self._path} cannot be written: {cause(error)}") from error


def read_history(out: Path) -> list[Row]:
    """The epochs of a run so far; none for a run without a readable history."""
    try:
        with (out / HISTORY).open(newline="", encoding="utf-8") as file:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, csv.Error):
        return []


def curve_lines(history: Sequence[Row]) -> list[str]:
    """The curves as text, one line each: `accuracy, held out  ▁▃▅▇██  31 % -> 94 %`."""
    lines: list[str] = []
    for name, title in _SHOWN.items():
        values = [row[name] for row in history if name in row]
        if len(values) > 1:
            first, last = (
                f"{one:.0%}" if name.endswith("accuracy") else f"{one:.2f}" for one in (values[0], values[-1])
            )
            lines.append(f"{title:18}  {sparkline(values)}  {first} -> {last}")
    return lines


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """At most `width` blocks whose heights are the means of that many parts of the values."""
    parts = min(width, len(values))
    edges = [len(values) * part // parts for part in range(parts + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in means)
