"""The mean of the weights of several fine-tunings."""

from pathlib import Path

import pytest
import torch

from training.errors import RunError
from training.fit.model_soup import average_models
from worker.model.answers import AnswerConfig
from worker.model.architectures import build_network, parse
from worker.model.checkpoint import ModelConfig, load_model, save_model
from worker.model.frontend import FrontendConfig

CONFIG = parse({"type": "mobilenet-v1", "classes": 2, "width": 0.25, "patch_frames": 32, "patch_hop": 32})


def fine_tuned(directory: Path, seed: int, **training: object) -> Path:
    torch.manual_seed(seed)
    trained = {"started_from": {"name": "base", "weights": "1"}, "test_fold": 5, "recipe": {"name": str(seed)}}
    config = ModelConfig(
        name=directory.name, architecture=CONFIG, frontend=FrontendConfig(), classes=("a", "b"),
        answers=AnswerConfig(unknown_threshold=0.5), temperature=2.0, training={**trained, **training},
    )  # fmt: skip
    save_model(directory, build_network(CONFIG), config)
    return directory


def test_the_weights_are_the_mean_and_nothing_measured_is_kept(tmp_path: Path) -> None:
    runs = [fine_tuned(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))]
    config = average_models(runs, tmp_path / "Mean")
    first, second, mean = (load_model(path).network.state_dict() for path in (*runs, tmp_path / "Mean"))
    for name, weight in mean.items():
        torch.testing.assert_close(weight, (first[name] + second[name]) / 2, rtol=1e-3, atol=1e-3)
    assert (config.name, config.temperature, config.answers) == ("mean", 1.0, AnswerConfig())
    assert [one["name"] for one in config.training["averaged"]] == ["first", "second"]


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"started_from": None}, "same pretrained weights"),
        ({"started_from": {"name": "base", "weights": "2"}}, "same pretrained weights"),
        ({"test_fold": 4}, "different held-out folds"),
    ],
)
def test_other_models_are_refused(training: dict[str, object], message: str, tmp_path: Path) -> None:
    """Networks of other initial weights, whose mean is no network, and those that were trained on the test fold."""
    runs = [fine_tuned(tmp_path / "first", 0), fine_tuned(tmp_path / "second", 1, **training)]
    with pytest.raises(RunError, match=message):
        average_models(runs, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
