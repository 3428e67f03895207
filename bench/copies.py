"""How often re-encoded copies of clips are found, and whether other clips are taken for copies.

    python -m bench.copies ESC-50 [--every N] [--copies N]

Every N-th clip is compared with copies of some of them and with each other. Clips of one source are not counted as
others: they may overlap. The last line is JSON.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.audio.decode import decode
from training.data.copies import FINE, best_copies, copied_pairs, fingerprints
from training.data.esc50 import load_esc50

RATE = 16_000  # Hz
SECONDS = 5.0
ENCODINGS: dict[str, dict[str, object]] = {
    "MP3": {"format": "MP3", "compression_level": 0.5},
    "MP3, lowest quality": {"format": "MP3", "compression_level": 0.95},
    "Ogg Vorbis, lowest quality": {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.95},
    "Opus": {"format": "OGG", "subtype": "OPUS"},
    "WAV at 8 kHz": {"format": "WAV", "subtype": "PCM_16", "samplerate": 8_000},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--copies", type=int, default=200)
    options = parser.parse_args()
    clips = load_esc50(options.data).clips[:: options.every]
    waves = torch.stack([_window(clip.path.read_bytes()) for clip in clips])
    fine = fingerprints(waves, RATE, fine=True)
    stored = np.ascontiguousarray(fine[:, ::FINE])
    rows = np.linspace(0, len(clips) - 1, min(options.copies, len(clips))).astype(int)
    found = {}
    for name, settings in ENCODINGS.items():
        copies = torch.stack([_window(_encode(waves[row].numpy(), **settings)) for row in rows])
        best = best_copies(fingerprints(copies, RATE, fine=True), stored)
        found[name] = {"found": int((best == rows).sum()), "wrong": int(((best != rows) & (best >= 0)).sum())}
        print(
            f"{name}: {found[name]['found']} of {len(rows)} found, {found[name]['wrong']} taken for another", flush=True
        )
    pairs = [
        (clips[a].path.name, clips[b].path.name) for a, b in copied_pairs(fine) if clips[a].source != clips[b].source
    ]
    print(f"pairs of {len(clips)} clips of different sources that are called copies: {len(pairs)}")
    print(json.dumps({"clips": len(clips), "copies": len(rows), "encodings": found, "others": pairs}))


def _window(data: bytes) -> Tensor:
    """(samples,)"""
    wave = torch.from_numpy(decode(data, RATE).waveform)[: round(SECONDS * RATE)]
    return torch.nn.functional.pad(wave, (0, round(SECONDS * RATE) - len(wave)))


def _encode(wave: NDArray[np.float32], *, samplerate: int = RATE, **settings: object) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(wave, RATE, samplerate), samplerate, **settings)
    return file.getvalue()


if __name__ == "__main__":
    main()
