"""Draws log-mel spectrograms of every class of a custom data set, as the network receives them."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from otoscope.errors import AudioError
from shared.audio.decode import SoundStream
from training.data.custom.manifest import IMPORT_LIMITS
from worker.model.frontend import FrontendConfig, LogMel

_FRONTEND = FrontendConfig()  # 16 kHz, 128 mels
_SECONDS = 5.0  # shown of each sound
_FEW = 12  # up to this many classes, several sounds of each are shown in a row; beyond it, one sound each


def save_spectrograms(path: Path, sounds: Mapping[str, Sequence[Path]]) -> None:
    """Save a PNG with sounds of every class, chosen evenly from its files."""
    few = len(sounds) <= _FEW
    columns = 4 if few else 6
    cells: list[tuple[str, Path | None]] = []
    for label, paths in sounds.items():
        shown = min(columns if few else 1, len(paths))
        cells += [(label, paths[at * len(paths) // shown]) for at in range(shown)]
        cells += [(label, None)] * (columns - shown if few else 0)
    rows = -(-len(cells) // columns)
    figure = Figure(figsize=(2.6 * columns, 0.6 + 1.7 * rows), layout="constrained")  # inches
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    front = LogMel(_FRONTEND)
    for at, axes in enumerate(grid.flat):
        axes.set_axis_off()
        label, sound = cells[at] if at < len(cells) else ("", None)
        if sound is None or (mels := _mels(front, sound)) is None:
            continue
        end = mels.shape[1] * _FRONTEND.hop / _FRONTEND.sample_rate
        axes.imshow(
            mels.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=_FRONTEND.floor_db, vmax=45,
            extent=(0, end, 0, _FRONTEND.n_mels),
        )  # fmt: skip
        # Matplotlib would read a dollar sign as the start of a formula.
        axes.set_title(f"{label.replace('_', ' ').replace('$', chr(92) + '$')[:40]}, {end:.1f} s", fontsize=7, pad=2)
    figure.suptitle("Log-mel spectrograms, 0 to 8 kHz upwards", fontsize=9)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # characters missing from the font are drawn as boxes
        figure.savefig(path, dpi=100, format="png")


def _mels(front: LogMel, path: Path) -> torch.Tensor | None:
    """Log-mel (mels, frames) in dB; None if the file has become unreadable in the meantime."""
    try:
        wave = next(iter(SoundStream(path.read_bytes(), _FRONTEND.sample_rate, IMPORT_LIMITS)))
    except (AudioError, OSError, StopIteration):
        return None
    wave = wave[: round(_SECONDS * _FRONTEND.sample_rate)]
    with torch.no_grad():
        return front.decibels(torch.from_numpy(wave)[None])[0, 0]
