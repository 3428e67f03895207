"""Losses, optimizers and augmentations of a package of one's own are found by their entry points."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.tiny_recipe import TINY
from training.data.esc50 import load_esc50
from training.errors import RecipeError
from training.fit import parts
from training.fit.loop import train
from training.recipe import Recipe, with_changes
from worker.model import architectures
from worker.model.checkpoint import read_config

PACKAGE = """
import torch

CALLS = []


def focal(logits, targets, recipe):
    CALLS.append("loss")
    log = torch.log_softmax(logits, dim=1)
    return -((1 - log.exp()) ** 2 * log * targets).sum(dim=1)


def plain(groups, recipe):
    CALLS.append("optimizer")
    return torch.optim.RMSprop(groups, lr=recipe.max_lr)


def flip(waves, rate, generator):
    CALLS.append(rate)
    return -waves
"""
ENTRIES = """[otoscope.losses]
focal = mine_of_tests:focal
broken = mine_of_tests:nothing
[otoscope.optimizers]
plain = mine_of_tests:plain
[otoscope.augmentations]
flip = mine_of_tests:flip
[otoscope.architectures]
flat = flat_network_of_tests
"""
NETWORK = """
from typing import Literal
from torch import nn
from worker.model.architectures import register
from worker.model.base import ArchitectureConfig, Network

class FlatConfig(ArchitectureConfig):
    type: Literal["flat"] = "flat"

@register(FlatConfig)
class Flat(Network):
    def __init__(self, config):
        super().__init__()
        self.config, self.head = config, nn.Sequential(nn.Linear(3, config.classes))

    def forward(self, x, hook=None, expanded_blocks=()):
        return self.head(x)

    def structure(self): return {}
    def pool(self, levels): return levels[-1]
    def trunk(self): return []
    @property
    def pooled_layers(self): return ()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package: a module and the metadata that pip writes."""
    (tmp_path / "mine_of_tests.py").write_text(PACKAGE)
    (tmp_path / "flat_network_of_tests.py").write_text(NETWORK)
    info = tmp_path / "mine_of_tests-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine-of-tests\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = (parts._declared, architectures._import_all)
    for cached in found:
        cached.cache_clear()
    yield
    for cached in found:
        cached.cache_clear()
    for registered in (architectures._configs, architectures._networks):
        registered.pop("flat", None)
    for module in ("mine_of_tests", "flat_network_of_tests"):
        sys.modules.pop(module, None)


@pytest.mark.training
@pytest.mark.usefixtures("package")
def test_a_recipe_names_them(data: Path, tmp_path: Path) -> None:
    """A whole run uses all three, and its model states them."""
    changes = {"optim.loss": "focal", "optim.optimizer": "plain", "augment.extra": ["flip"], "optim.epochs": 1}
    train(with_changes(TINY, changes), load_esc50(data), 2, tmp_path / "model")
    import mine_of_tests  # type: ignore[import-not-found]

    assert {"loss", "optimizer", TINY.frontend.sample_rate} <= set(mine_of_tests.CALLS)
    assert read_config(tmp_path / "model").training["recipe"]["optim"]["loss"] == "focal"


@pytest.mark.usefixtures("package")
def test_a_recipe_names_a_network() -> None:
    """A module that an entry point names registers its network, for recipes and model directories alike."""
    recipe = Recipe.model_validate({"name": "flat", "network": {"type": "flat", "dropout": [0.0]}})
    network = architectures.build_network(recipe.network.with_classes(5))
    assert network(torch.zeros(2, 3)).shape == (2, 5)


@pytest.mark.usefixtures("package")
def test_unknown_and_broken_names() -> None:
    with pytest.raises(RecipeError, match="no 'x' among the losses; there are: binary_cross_entropy, broken"):
        parts.find_loss("x")
    with pytest.raises(RecipeError, match="'broken' of the losses cannot be loaded"):
        parts.find_loss("broken")
    with pytest.raises(RecipeError, match="among the augmentations; there are: flip"):
        parts.find_augmentation("flop")


def test_losses_of_each_clip() -> None:
    """Both are means over the batch of torch's own losses."""
    logits, targets = torch.randn(6, 4), torch.eye(4)[[0, 1, 2, 3, 0, 1]]
    recipe = TINY.optim.model_copy(update={"label_smoothing": 0.1})
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    assert torch.isclose(parts.find_loss("cross_entropy")(logits, targets, recipe).mean(), expected)
    soft = targets * 0.9 + 0.05
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, soft)
    assert torch.isclose(parts.find_loss("binary_cross_entropy")(logits, targets, recipe).mean(), expected)
