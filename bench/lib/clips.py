"""The sounds and the models of the benchmarks, generated so that they need no data.

The content of a clip has no effect on its cost, so every clip is noise with a slow envelope.
"""

import io
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from worker.model.architectures.resnet import ResidualCNN, ResNetConfig
from worker.model.checkpoint import ModelConfig, save_model
from worker.model.frontend import FrontendConfig

RATE, SECONDS = 16_000, 5.0
SHIPPED = Path(__file__).parents[2] / "models"
MODEL = "resnet-21m"


def clips(count: int = 32) -> list[NDArray[np.float32]]:
    """(samples,) each, all different, so that no cache can help."""
    made: list[NDArray[np.float32]] = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        noise = random.normal(scale=0.2, size=int(RATE * SECONDS))
        envelope = np.interp(np.linspace(0, 8, len(noise)), np.arange(9), random.uniform(size=9))
        made.append((noise * envelope).clip(-1, 1).astype(np.float32))
    return made


def encoded(kind: str = "WAV", count: int = 32) -> list[bytes]:
    """The clips as files: `WAV` (16 bits), `FLAC`, `OGG` or `MP3`."""
    files: list[bytes] = []
    for samples in clips(count):
        file = io.BytesIO()
        soundfile.write(file, samples, RATE, format=kind)
        files.append(file.getvalue())
    return files


def large_model(directory: Path) -> Path:
    """A model directory with the 21.3M-parameter network. Its weights are random, which has no effect on its cost."""
    torch.manual_seed(0)
    config = ResNetConfig(classes=50)
    names = tuple(f"class {number}" for number in range(config.classes))
    save_model(
        directory / MODEL,
        ResidualCNN(config),
        # Its logits are in the hundreds, of which a softmax would make nothing but zeros and ones.
        ModelConfig(
            name=MODEL, architecture=config, frontend=FrontendConfig(), classes=names, licence="none", temperature=70.0
        ),
    )
    return directory / MODEL


def model_directory(model: str, folder: Path) -> Path:
    """A models directory with that model only: one of models/, or the large one."""
    if model == MODEL:
        return large_model(folder).parent
    (folder / model).symlink_to(SHIPPED / model)
    return folder
