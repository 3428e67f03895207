"""The mean of the weights of several fine-tunings, and networks side by side."""

from pathlib import Path

import pytest
import torch

from training.data.fingerprint import has_digests, save_training_sounds, seen_windows
from training.errors import RunError
from training.fit.combine import average_models, join_models
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


def other_network(directory: Path, **changes: object) -> Path:
    """A small residual network for the same sounds and classes."""
    network = parse({"type": "resnet", "classes": 2, "depths": [1], "widths": [4], "dropout": [0.0]})
    config = ModelConfig(
        name=directory.name, architecture=network, frontend=FrontendConfig(), classes=("a", "b"), licence="CC BY 4.0",
        training={"started_from": {"name": "other", "weights": "3"}, "test_fold": 5, "recipe": {"name": "other"}},
    ).model_copy(update=changes)  # fmt: skip
    torch.manual_seed(7)
    save_model(directory, build_network(network), config)
    return directory


@torch.no_grad()
def test_logits_of_networks_side_by_side_are_the_mean(tmp_path: Path) -> None:
    """Of networks of different types, some of them twice."""
    runs = [fine_tuned(tmp_path / "first", 0), other_network(tmp_path / "second"), fine_tuned(tmp_path / "third", 1)]
    config = join_models(runs, tmp_path / "joined")
    x = torch.randn(3, 1, 128, 100, generator=torch.Generator().manual_seed(0))
    first, second, third, joined = (load_model(path).network(x) for path in (*runs, tmp_path / "joined"))
    torch.testing.assert_close(joined, (first + second + third) / 3, rtol=2e-3, atol=2e-3)
    assert list(config.architecture.parts) == ["mobilenet-v1-1", "resnet", "mobilenet-v1-2"]  # type: ignore[attr-defined]
    assert (config.temperature, config.answers, config.licence) == (1.0, AnswerConfig(), "CC BY 4.0")
    assert config.description == "MobileNet-v1 and Residual CNN and MobileNet-v1 side by side for 2 classes of sound"
    assert [one["started_from"]["name"] for one in config.training["joined"]] == ["base", "other", "base"]


def test_a_mean_of_models_can_be_one_of_the_joined(tmp_path: Path) -> None:
    """The config says how the model itself was made."""
    runs = [fine_tuned(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))]
    average_models(runs, tmp_path / "mean")
    config = join_models([tmp_path / "mean", other_network(tmp_path / "third")], tmp_path / "joined")
    assert [one["name"] for one in config.training["joined"]] == ["mean", "third"]
    assert "averaged" not in config.training


@torch.no_grad()
def test_networks_side_by_side_can_have_weights(tmp_path: Path) -> None:
    runs = [fine_tuned(tmp_path / "first", 0), other_network(tmp_path / "second")]
    config = join_models(runs, tmp_path / "joined", [3, 1])
    x = torch.randn(3, 1, 128, 100, generator=torch.Generator().manual_seed(0))
    first, second, joined = (load_model(path).network(x) for path in (*runs, tmp_path / "joined"))
    torch.testing.assert_close(joined, first * 0.75 + second * 0.25, rtol=2e-3, atol=2e-3)
    assert [one["weight"] for one in config.training["joined"]] == [3, 1]
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(RunError, match="as many weights above 0"):
            join_models(runs, tmp_path / "other", weights)


@torch.no_grad()
def test_each_network_keeps_its_own_normalisation(tmp_path: Path) -> None:
    """Of networks that were trained with another mean and standard deviation of the log-mels."""
    normalised = FrontendConfig(mean=-20.0, std=10.0)
    runs = [fine_tuned(tmp_path / "first", 0), other_network(tmp_path / "second", frontend=normalised)]
    join_models(runs, tmp_path / "joined")
    wave = torch.randn(2, 80_000, generator=torch.Generator().manual_seed(0))
    first, second, joined = (
        model.network(model.frontend(wave)) for model in map(load_model, (*runs, tmp_path / "joined"))
    )
    torch.testing.assert_close(joined, (first + second) / 2, rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_each_network_keeps_its_own_spectrogram(tmp_path: Path) -> None:
    """Those of networks that were trained with other ones are stacked; the last frames may be missing."""
    wide = FrontendConfig(hop=640, n_mels=64, mean=-20.0, std=10.0, level_dbfs=-20, repeat_pause=0.25)
    runs = [
        fine_tuned(tmp_path / "first", 0),
        other_network(tmp_path / "second", frontend=wide),
        other_network(tmp_path / "third", frontend=wide.model_copy(update={"mean": -10.0})),
    ]
    config = join_models(runs, tmp_path / "joined")
    assert [front.hop for front in (config.frontend, *config.frontend.stacked)] == [320, 640]
    assert config.frontend.stacked[0].repeat_pause is None
    wave = torch.randn(2, 80_000, generator=torch.Generator().manual_seed(0))
    first, second, third, joined = (
        model.network(model.frontend(wave)) for model in map(load_model, (*runs, tmp_path / "joined"))
    )
    torch.testing.assert_close(joined, (first + second + third) / 3, rtol=2e-3, atol=2e-3)
    with pytest.raises(RunError, match="different front ends"):
        average_models(runs[:2], tmp_path / "mean")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "c")}, "different classes"),
        ({"multi_label": True}, "different kinds of answers"),
        ({"frontend": FrontendConfig(hop=300)}, "front ends cannot be stacked: .* no multiple of 320"),
        ({"frontend": FrontendConfig(window_seconds=2)}, "front ends cannot be stacked"),
        ({"frontend": FrontendConfig(stacked=(FrontendConfig(),))}, "has several spectrograms"),
        ({"training": {"test_fold": 4, "recipe": {}}}, "different held-out folds"),
    ],
)
def test_models_for_other_sounds_are_not_joined(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    runs = [fine_tuned(tmp_path / "first", 0), other_network(tmp_path / "second", **changes)]
    with pytest.raises(RunError, match=message):
        join_models(runs, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_training_sounds_of_all_parts_are_kept(tmp_path: Path) -> None:
    """A report says of how many sounds the model was trained on them: of those of the second network, too."""
    runs = [fine_tuned(tmp_path / "first", 0), fine_tuned(tmp_path / "second", 1)]
    sounds = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0)) / 10
    for run, sound in zip(runs, sounds, strict=True):
        save_training_sounds(run, sound[None], 16_000)
    join_models(runs, tmp_path / "joined")
    assert seen_windows(tmp_path / "joined", sounds, 16_000).all()
    join_models([other_network(tmp_path / "third"), other_network(tmp_path / "fourth")], tmp_path / "none")
    assert not has_digests(tmp_path / "none")
