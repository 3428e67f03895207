"""Draws docs/inside.png, a plot of the arrays that a running service returns for one sound.

    python docs/picture.py              the synthesised alarm clock of `otoscope up`
    python docs/picture.py dog.ogg

Spectrogram, class activation drawn over it, and the channel mean of every stage, all on one time axis.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from otoscope import Client, demo_sound


def main(path: str | None) -> None:
    """OTOSCOPE_URL is the address of the service."""
    include = ["maps", "spectrogram", "cam"]
    with Client() as client:
        if path is None:
            job = client.classify(demo_sound.alarm_clock(), demo_sound.RATE, include=include)
        else:
            job = client.classify(Path(path), include=include)
        result = client.result(job.id)
        card = next(card for card in client.models().models if card.name == job.model)
    assert result.spectrogram is not None
    assert result.cam is not None
    seconds = card.window_seconds
    top = card.frontend["f_max"] / 1_000  # kHz
    stages = [layer.name for layer in card.layers if layer.kind in ("stem", "stage")]

    figure = plt.figure(figsize=(12, 5.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.25, 1])
    spectrogram, activation = left.subplots(2, 1, sharex=True)
    extent = (0, seconds, 0, 1)
    for axes, title in (
        (spectrogram, "log-mel spectrogram, dB"),
        (activation, f"class activation of the last stage for “{result.predictions[0][0]}”"),
    ):
        axes.imshow(result.spectrogram.astype(np.float32), origin="lower", aspect="auto", extent=extent, cmap="magma")
        axes.set_title(title, loc="left", fontsize=10)
        mel_top = 2_595 * np.log10(1 + top * 1_000 / 700)
        ticks = [kilohertz for kilohertz in (0.25, 0.5, 1, 2, 4, 8, 16) if kilohertz <= top]
        axes.set_yticks(
            [2_595 * np.log10(1 + tick * 1_000 / 700) / mel_top for tick in ticks], [f"{t:g}" for t in ticks]
        )
        axes.set_ylabel("kHz")
    activation.imshow(
        result.cam.astype(np.float32), origin="lower", aspect="auto", extent=extent, cmap="Greens",
        alpha=np.clip(result.cam.astype(np.float32), 0, 0.75), interpolation="bilinear",
    )  # fmt: skip
    activation.set_xlabel("seconds")

    rows = right.subplots(len(stages), 1, sharex=True)
    for axes, name in zip(rows, stages, strict=True):
        values = result.maps[name].astype(np.float32)
        axes.imshow(values, origin="lower", aspect="auto", extent=extent, cmap="viridis")
        axes.set_yticks([])
        shape = next(layer.shape for layer in card.layers if layer.name == name)
        axes.set_title(f"{name}: mean of {shape[0]} channels, {shape[1]}×{shape[2]}", loc="left", fontsize=9)
    rows[-1].set_xlabel("seconds")
    named = ", ".join(f"{name} {confidence:.0%}" for name, confidence in result.predictions[:3])
    figure.suptitle(f"{card.name}: {named}", fontsize=12)
    figure.savefig(Path(__file__).with_name("inside.png"), dpi=80)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
