"""Figures for reports, drawn without a display and without the global state of matplotlib."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from otoscope.types import ReliabilityBin


@contextmanager
def _any_characters() -> Iterator[None]:
    """Characters that the font lacks, such as emoji in the name of a class, are drawn as boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


def _plain(text: str) -> str:
    """A text without formulas: matplotlib would take what is between dollar signs for one, and could refuse it."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path, dpi: int = 120) -> None:
    with _any_characters():
        figure.savefig(path, dpi=dpi, format="png")  # else a name without an extension would get one


def save_confusion_matrix(path: Path, matrix: NDArray[np.int64], names: Sequence[str], title: str) -> None:
    """Save `draw_confusion_matrix` as a PNG."""
    _save(draw_confusion_matrix(matrix, names, title), path)


def confusion_image(matrix: NDArray[np.int64], names: Sequence[str], title: str) -> NDArray[np.uint8]:
    """`draw_confusion_matrix` as an image (height, width, RGB)."""
    canvas = FigureCanvasAgg(draw_confusion_matrix(matrix, names, title))
    with _any_characters():
        canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def draw_confusion_matrix(matrix: NDArray[np.int64], names: Sequence[str], title: str) -> Figure:
    """A confusion matrix (classes, classes): colours are normalised by row, numbers are clips; small classes stay
    legible."""
    classes = len(names)
    side = max(5.0, 1.5 + 0.24 * classes)  # inches; labels of 7 points do not overlap
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, label="share of the class's clips", fraction=0.04, pad=0.02)
    words = [_plain(name.replace("_", " ")) for name in names]
    axes.set_xticks(range(classes), words, rotation=90, fontsize=7)
    axes.set_yticks(range(classes), words, fontsize=7)
    axes.set(xlabel="predicted", ylabel="true class", title=_plain(title))
    for row, column in np.argwhere(matrix):
        ink = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=6, color=ink)
    return figure


def save_reliability_diagram(path: Path, bins: Sequence[ReliabilityBin], title: str) -> None:
    """Save a reliability diagram: accuracy over confidence, with the number of sounds of each bin (Niculescu-Mizil and
    Caruana, 2005)."""
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    left, width = [one.low for one in bins], [one.high - one.low for one in bins]
    axes.bar(left, [one.accuracy for one in bins], width, align="edge", edgecolor="white", label="share that is right")
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="calibrated")
    axes.plot([one.confidence for one in bins], [one.accuracy for one in bins], "o", color="black", markersize=4)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right", title=_plain(title))
    axes.legend(loc="upper left")
    counts.bar(left, [one.sounds for one in bins], width, align="edge", color="grey", edgecolor="white")
    counts.set(xlabel="confidence", ylabel="sounds")
    _save(figure, path)


def save_lr_curve(path: Path, rates: Sequence[float], losses: Sequence[float], chosen: float) -> None:
    """Save a plot of the loss over the learning rate, with its steepest descent."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.semilogx(rates, losses)
    axes.axvline(chosen, color="grey", linestyle="--", label=f"steepest: {chosen:.1e}")
    axes.set(xlabel="learning rate", ylabel="loss (smoothed)", title="Learning rate finder")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def save_learning_curves(path: Path, runs: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Save loss and accuracy over the epochs of runs: `loss`, `accuracy`, and with `val_` those of held-out clips,
    where a run has them."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for number, (name, rows) in enumerate(runs.items()):
            colour = f"C{number % 10}"
            for key, style in ((metric, ":"), (f"val_{metric}", "-")):
                points = [(row["epoch"], row[key]) for row in rows if key in row]
                label = f"{name}, held out" if key != metric else f"{name}, training (augmented)"
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=colour, label=label, linewidth=1.5)
        axes.set(xlabel="epoch", ylabel=metric)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    _save(figure, path)


def save_batch(path: Path, features: NDArray[np.float32], titles: Sequence[str], columns: int = 4) -> None:
    """Save the log-mels of a batch (batch, mels, frames) as one picture, low frequencies at the bottom."""
    rows = -(-len(features) // columns)
    figure = Figure(figsize=(3 * columns, 2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, mels, title in zip(grid, features, titles, strict=False):
        axes.imshow(mels, origin="lower", aspect="auto", cmap="magma", vmin=-2, vmax=3)
        axes.set_title(_plain(title.replace("_", " ")[:40]), fontsize=7, pad=2)
    _save(figure, path, dpi=100)
