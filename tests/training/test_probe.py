"""Fine-tuning that starts from a linear probe."""

from pathlib import Path

import pytest
import torch

from tests.support.tiny_recipe import TINY, changed
from training.data.esc50 import load_esc50
from training.errors import RunError
from training.eval.evaluate import evaluate
from training.fit.loop import train
from training.fit.pretrained import load_pretrained, load_trunk_weights
from training.fit.probe import logistic_regression
from training.recipe import AugmentRecipe, Recipe, TransferRecipe
from worker.model.architectures import build_network, parse
from worker.model.architectures.mobilenet_v1 import MobileNetConfig, MobileNetV1
from worker.model.checkpoint import Model, ModelConfig, load_model, save_model
from worker.model.frontend import FrontendConfig


def test_logistic_regression_separates_classes() -> None:
    """Of features with other means and scales. One that hardly varies gets no large weights."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    x = torch.randn(90, 5, generator=generator)
    x[:, :3] += 4 * torch.nn.functional.one_hot(labels, 3)
    x = x * torch.tensor([1.0, 4.0, 1.0, 1.0, 0.001]) + torch.tensor([0.0, 10.0, -5.0, 2.0, 0.0])
    weight, bias = logistic_regression(x, labels, 3, None)
    assert weight.abs().amax(dim=0)[4] < weight.abs().amax(dim=0)[0]
    assert ((x @ weight.T + bias).argmax(dim=1) == labels).float().mean() > 0.95


@pytest.fixture
def pretrained(tmp_path: Path) -> Model:
    """A multi-label network of random weights with an offset in its front end, as those of AudioSet have."""
    torch.manual_seed(0)
    config = parse({"type": "mobilenet-v1", "classes": 4, "width": 0.25, "patch_frames": 32, "patch_hop": 32})
    frontend = FrontendConfig(
        sample_rate=8_000, n_fft=256, win_length=200, center=False, hop=80, n_mels=32, f_max=4_000,
        spectrum="magnitude", log_offset=1e-3, floor_db=-60, std=8.686, window_seconds=0.5,
    )  # fmt: skip
    save_model(
        tmp_path / "base", build_network(config),
        ModelConfig(
            name="base", architecture=config, frontend=frontend, classes=("a", "b", "c", "d"), multi_label=True,
            licence="CC0",
        ),
    )  # fmt: skip
    return load_pretrained(tmp_path / "base")


def recipe(**start: object) -> Recipe:
    changes = {
        "network": MobileNetConfig(classes=2, dropout=(0.1,), patch_frames=32, patch_hop=32),
        "start": TransferRecipe.model_validate(start),
        "augment": AugmentRecipe(mix_alpha=0, frequency_masks=1, frequency_mask_mels=4, time_masks=0),
    }
    return changed(TINY.model_copy(update=changes), epochs=1, max_lr=1e-5)


@pytest.mark.slow
def test_fine_tuning_starts_at_the_accuracy_of_the_probe(pretrained: Model, data: Path, tmp_path: Path) -> None:
    """After one epoch that hardly changes anything; the model has one label, its own classes and both licences."""
    config = train(recipe(probe=True), load_esc50(data), 3, tmp_path / "run", pretrained=pretrained)
    evaluation = evaluate(tmp_path / "run", load_esc50(data))
    assert (evaluation.predicted == evaluation.truth).mean() > 0.8
    assert isinstance(config.architecture, MobileNetConfig)
    assert (config.architecture.dropout, config.multi_label) == ((0.1,), False)
    assert "CC0" in config.licence
    assert load_model(tmp_path / "run").open_set is not None


def test_the_first_layers_of_a_base_model_make_a_smaller_network(pretrained: Model) -> None:
    """The recipe says how many; their weights are those of the base model."""
    wanted = MobileNetConfig(classes=2, layers=5, patch_frames=32, patch_hop=32)
    architecture = pretrained.config.architecture.fine_tuned_as(wanted).with_classes(2)
    network = build_network(architecture)
    load_trunk_weights(network, pretrained)
    assert isinstance(network, MobileNetV1)
    assert len(network.layers) == 5
    for name, weight in network.state_dict().items():
        assert name.startswith("head.") or torch.equal(weight, pretrained.network.state_dict()[name])


def test_a_base_model_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of the models, or where the command that adds it writes it; the error names that command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTOSCOPE_MODELS_DIR", "models")
    with pytest.raises(RunError, match=r"models/yamnet does not exist: otoscope models add yamnet"):
        load_pretrained(Path("yamnet"))
    with pytest.raises(RunError, match=r"runs/aisfx does not exist: otoscope models add aisfx"):
        load_pretrained(Path("aisfx"))
    with pytest.raises(RunError, match=r"models/mine does not exist$"):
        load_pretrained(Path("mine"))
    for name in ("one", "other", ".partial"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").touch()
    with pytest.raises(RunError, match=r"models/mine does not exist; the models in models are one, other$"):
        load_pretrained(Path("mine"))
    Path("models/note").touch()
    with pytest.raises(RunError, match=r"models/note is no directory; the models in models are one, other$"):
        load_pretrained(Path("models/note"))


def test_features_that_stay_are_standardised_however_little_they_vary() -> None:
    """Two of three features tell the classes apart, with deviations of a thousandth of the third; a constant one has no
    weight."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    x = torch.randn(300, 4, generator=generator)
    x[:, :2] = (torch.nn.functional.one_hot(labels, 3)[:, :2] + 0.1 * x[:, :2]) * 1e-3
    x[:, 3] = 5.0
    rights = []
    for frozen in (False, True):
        weight, bias = logistic_regression(x, labels, 3, None, frozen=frozen)
        rights.append(float(((x @ weight.T + bias).argmax(dim=1) == labels).float().mean()))
    assert rights[1] == 1.0
    assert rights[0] < 0.9
    assert weight[:, 3].abs().max() < 1e-3
