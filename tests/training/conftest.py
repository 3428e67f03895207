"""A tiny data set in the layout of ESC-50, and a recipe that trains on it within a second."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.sounds import encode

if TYPE_CHECKING:
    from training.recipe import Recipe

CLASSES = ("low", "high", "noise")


def write_dataset(root: Path, *, folds: int = 3, takes: int = 4, rate: int = 8_000) -> Path:
    """Clips of one second: a low tone, a high tone, noise; the recording number starts with the fold."""
    random = np.random.default_rng(0)
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    time = np.arange(rate) / rate
    with (root / "meta" / "esc50.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        for fold in range(1, folds + 1):
            for take in range(takes):
                for target, name in enumerate(CLASSES):
                    frequency = {0: 300, 1: 2_500}.get(target, 0) * random.uniform(0.9, 1.1)
                    wave = 0.3 * np.sin(2 * np.pi * frequency * time) if target < 2 else random.normal(size=rate) * 0.1
                    filename = f"{fold}-{take}{target}-A-{target}.wav"
                    (root / "audio" / filename).write_bytes(
                        encode(wave.astype(np.float32)[:, None], rate, "WAV", "PCM_16")
                    )
                    table.writerow([filename, fold, target, name, False, f"{fold}{take}{target}", "A"])
    return root


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """An engine that an earlier test has made may use more; for tensors this small, two threads mostly wait."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def recipe() -> "Recipe":
    """A recipe that trains within a second."""
    from tests.support.tiny_recipe import TINY  # imports torch, which the process that only distributes tests needs not

    return TINY
