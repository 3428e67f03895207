"""A larger network that starts as the function of a trained one."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.tiny_recipe import TINY, changed
from training.data.esc50 import load_esc50
from training.errors import RunError
from training.fit.growth import grow
from training.fit.loop import train
from training.recipe import TransferRecipe, for_fine_tuning
from worker.model.architectures.resnet import ResidualCNN, ResNetConfig
from worker.model.checkpoint import load_model

SMALL = ResNetConfig(classes=3, depths=(1, 2), widths=(8, 12), dropout=(0.0,))


def trained(config: ResNetConfig = SMALL) -> ResidualCNN:
    """A network with batch normalisations as after a training."""
    torch.manual_seed(0)
    network = ResidualCNN(config)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight, layer.running_var):
                nn.init.uniform_(values, 0.5, 2)
            for values in (layer.bias, layer.running_mean):
                nn.init.normal_(values)
    return network.eval()


def embedding(network: ResidualCNN, x: torch.Tensor) -> torch.Tensor:
    """Log-mels (batch, 1, mels, frames) -> mean of the last stage (batch, channels)."""
    layers: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        network(x, layers.__setitem__)
    return layers["layer2"].mean(dim=(2, 3))


@pytest.mark.parametrize(("depths", "widths"), [((1, 2), (16, 24)), ((3, 4), (8, 12)), ((2, 3), (20, 30))])
def test_a_grown_network_computes_the_same(depths: tuple[int, ...], widths: tuple[int, ...]) -> None:
    small, large = trained(), ResidualCNN(SMALL.model_copy(update={"depths": depths, "widths": widths})).eval()
    x = torch.randn(2, 1, 64, 80)
    grow(large, small, noise=0)
    expected = embedding(small, x)[:, torch.arange(widths[-1]) % 12]
    torch.testing.assert_close(embedding(large, x), expected, rtol=1e-4, atol=1e-4)
    grow(large, small)
    found = embedding(large, x)
    assert 0 < (found - expected).norm() < 0.5 * expected.norm()
    for layer in large.modules():
        if isinstance(layer, nn.Conv2d):
            assert len(layer.weight.flatten(1).unique(dim=0)) == layer.out_channels, "copies learn the same"


@pytest.mark.parametrize(
    "change",
    [
        {"depths": (1, 1)},
        {"widths": (8, 10)},
        {"widths": (12, 12)},
        {"squeeze_excitation": True},
        {"stem": False},
        {"depths": (1, 2, 1), "widths": (8, 12, 12)},
    ],
)
def test_another_network_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(RunError, match="differ in depths and widths alone"):
        grow(ResidualCNN(SMALL.model_copy(update=change)), trained())
    plain = SMALL.model_copy(update={"block": "plain"})
    with pytest.raises(RunError, match="without squeeze-and-excitation"):
        grow(ResidualCNN(plain), trained(plain))


def test_training_grows_a_model(data: Path, tmp_path: Path) -> None:
    dataset = load_esc50(data)
    train(changed(TINY, epochs=1), dataset, 3, tmp_path / "small")
    small = load_model(tmp_path / "small")
    assert isinstance(small.config.architecture, ResNetConfig)
    larger = small.config.architecture.model_copy(update={"depths": (2, 2), "classes": 2})
    recipe = changed(TINY, epochs=1).model_copy(
        update={"network": larger, "start": TransferRecipe(grow=True, probe=True)}
    )
    assert for_fine_tuning(recipe, small.config).network == larger
    with pytest.raises(RunError, match=r"start\.grow needs a trained model: --from"):
        train(recipe, dataset, 3, tmp_path / "none")
    train(recipe, dataset, 3, tmp_path / "large", pretrained=small)
    architecture = load_model(tmp_path / "large").config.architecture
    assert isinstance(architecture, ResNetConfig)
    assert architecture.depths == (2, 2)
