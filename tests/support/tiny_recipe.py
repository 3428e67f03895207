"""A recipe that trains within a second on the data set of `tests/training/conftest.py`."""

from training.recipe import Recipe
from worker.model.frontend import FrontendConfig

TINY = Recipe.model_validate(
    {
        "name": "tiny",
        "frontend": {
            "sample_rate": 8_000, "n_fft": 256, "hop": 80, "n_mels": 24, "f_max": 4_000, "window_seconds": 1,
        },
        "network": {"depths": [1, 1], "widths": [8, 16], "dropout": [0.1]},
        "augment": {"frequency_mask_mels": 3, "time_mask_frames": 10},
        "optim": {"epochs": 4, "batch": 8, "max_lr": 0.01, "ema_decay": 0.5},
        "open_set": {"background": 30, "steps": 20},
    }
)  # fmt: skip


def windows_of(seconds: float, *, rate: int = 8_000, pause: float | None = None) -> FrontendConfig:
    """The front end of TINY with windows of that length; short sounds are repeated only with a pause, in seconds."""
    return TINY.frontend.model_copy(update={"window_seconds": seconds, "sample_rate": rate, "repeat_pause": pause})


def changed(recipe: Recipe, **optim: object) -> Recipe:
    """The recipe with other values in its section `optim`."""
    return recipe.model_copy(update={"optim": recipe.optim.model_copy(update=optim)})
