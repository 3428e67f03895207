"""What the shipped models answer to real sounds of none of their classes."""

from collections import Counter

import numpy as np
import pytest

from tests.conftest import REAL_SOUNDS, ROOT, shipped_models
from training.data.background import noise
from training.data.esc50 import load_esc50
from training.eval.answers import Sound, Thresholds, answer, clip_sounds, listen, verdict
from worker.model.checkpoint import load_model

MODELS = [path.name for path in shipped_models()]


def verdicts(name: str, sounds: list[Sound]) -> Counter[str]:
    """The verdicts of a shipped model with its own thresholds."""
    model = load_model(ROOT / "models" / name)
    own = Thresholds(model.config.answers.unknown_threshold, model.config.answers.min_confidence)
    return Counter(verdict(one, model, own) for one in answer(model, model.open_set, listen(model, sounds)))


@pytest.mark.usefixtures("real_sounds")
def test_cat_dog_answers_unknown_to_a_car() -> None:
    """All engines and horns of fold 5; cats and dogs are named."""
    esc50 = load_esc50(REAL_SOUNDS / "esc50-16k")
    clips = [clip for clip in esc50.clips if clip.fold == 5]
    cars = [clip for clip in clips if esc50.classes[clip.label] in ("engine", "car_horn")]
    animals = [clip for clip in clips if esc50.classes[clip.label] in ("cat", "dog")]
    assert verdicts("cat-dog", clip_sounds(cars, esc50.classes, 16_000)) == {"unknown": 16}
    assert verdicts("cat-dog", clip_sounds(animals, esc50.classes, 16_000))["named"] >= 14


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_no_model_names_silence_or_noise(name: str) -> None:
    """Digital silence and noise floors below -52 dBFS are silent, loud noise is unknown."""
    assert len(MODELS) == 6
    rng = np.random.default_rng(0)

    def at(dbfs: float) -> Sound:
        wave = noise(rng, 48_000, 16_000)
        samples = (wave / wave.std() * 10 ** (dbfs / 20)).astype(np.float32)
        return Sound(lambda: [samples], "noise", str(dbfs))

    silences = [Sound(lambda: [np.zeros(48_000, np.float32)], "silence", "")] + [
        at(-90 + 4 * step) for step in range(8)
    ]
    assert verdicts(name, silences) == {"silent": 9}
    assert verdicts(name, [at(-20) for _ in range(8)])["named"] == 0
