"""The folder of the models for commands, which are run in any folder."""

import os
from pathlib import Path

_SOURCE = Path(__file__).resolve().parents[2]
"""The folder of the packages `shared`, `worker` and `api`, in a clone also of `models`."""


def models_dir() -> Path:
    """`OTOSCOPE_MODELS_DIR`, else `models` in the working directory, else the one that was installed."""
    if given := os.environ.get("OTOSCOPE_MODELS_DIR"):
        return Path(given)
    here, installed = Path("models"), _SOURCE / "models"
    return installed if installed.is_dir() and not here.is_dir() else here
