"""The registry of network architectures: one module registers itself, and old configs without a `type` still load."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tests.conftest import shipped_models, write_tiny_model
from worker.model import architectures
from worker.model.architectures import build_network, parse, register
from worker.model.architectures.resnet import ResidualCNN, ResNetConfig
from worker.model.architectures.timm_backbone import TimmConfig
from worker.model.base import ActivationHook, ArchitectureConfig, Network, make_head
from worker.model.checkpoint import CONFIG, ModelConfig, ModelError, load_model, read_config, save_model
from worker.model.frontend import FrontendConfig

MODELS = shipped_models()


class MeanConfig(ArchitectureConfig):
    """The smallest architecture: a linear layer on the mean of each mel row."""

    type: Literal["mean"] = "mean"
    mels: int = 32
    dropout: tuple[float, ...] = (0.0,)


@pytest.fixture
def mean_network() -> Iterator[type[Network]]:
    """Registered for one test."""

    @register(MeanConfig)
    class MeanNetwork(Network):
        def __init__(self, config: MeanConfig) -> None:
            super().__init__()
            self.config = config
            self.head = make_head(config.mels, config)

        def forward(
            self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()
        ) -> Tensor:
            logits: Tensor = self.head(x.mean(dim=(1, 3)))  # (batch, mels) -> (batch, classes)
            return logits

        def trunk(self) -> list[nn.Module]:
            return []

    yield MeanNetwork
    del architectures._configs["mean"], architectures._networks["mean"]


def test_built_in_types_are_known() -> None:
    assert {"resnet", "timm"} <= set(architectures.names())


@torch.no_grad()
def test_one_registered_module_is_enough_for_a_new_architecture(mean_network: type[Network], tmp_path: Path) -> None:
    """It is parsed by its `type`, saved, and loaded again with the same logits."""
    config = parse({"type": "mean", "classes": 3})
    network = build_network(config).eval()
    assert type(config) is MeanConfig
    assert type(network) is mean_network
    save_model(
        tmp_path / "m", network,
        ModelConfig(name="m", architecture=config, frontend=FrontendConfig(), classes=("a", "b", "c")),
    )  # fmt: skip
    model, x = load_model(tmp_path / "m"), torch.randn(2, 1, 32, 40)
    assert model.config.architecture == config
    torch.testing.assert_close(model.network(x), network(x), rtol=5e-3, atol=5e-3)


def test_a_type_can_be_registered_once(mean_network: type[Network]) -> None:
    """A second architecture of the same name, or one without a name, is an error at import."""
    with pytest.raises(ValueError, match="two architectures are called 'mean'"):
        register(MeanConfig)

    class Nameless(ArchitectureConfig):
        pass

    with pytest.raises(ValueError, match="needs a default for its field `type`"):
        register(Nameless)


def test_saved_configs_name_their_type(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    assert json.loads((tmp_path / "tiny" / CONFIG).read_text())["architecture"]["type"] == "resnet"


@pytest.mark.parametrize(
    ("old", "kind"),
    [
        ({"classes": 5, "depths": [1, 1], "widths": [8, 16]}, ResNetConfig),
        ({"classes": 5}, ResNetConfig),
        ({"classes": 5, "backbone": "tf_efficientnet_lite0"}, TimmConfig),
    ],
)
def test_configs_without_a_type_are_recognised_by_their_keys(
    old: dict[str, object], kind: type[ArchitectureConfig]
) -> None:
    """As they were written before there was a `type` field."""
    assert type(parse(old)) is kind
    assert parse({**old, "type": parse(old).type}) == parse(old)


@pytest.mark.parametrize("directory", MODELS, ids=lambda directory: directory.name)
def test_the_models_of_the_repository_load(directory: Path) -> None:
    """Those that were saved before there was a `type` field are residual networks."""
    architecture = json.loads((directory / CONFIG).read_text())["architecture"]
    model = load_model(directory)
    assert (type(model.network) is ResidualCNN) == (architecture.get("type", "resnet") == "resnet")
    assert model.network.head[-1].out_features == len(model.config.classes)


def test_an_old_directory_gets_a_type_when_it_is_saved_again(tmp_path: Path) -> None:
    """And holds the same network."""
    old = load_model(MODELS[0])
    written = save_model(tmp_path / "again", old.network, old.config)
    assert json.loads((tmp_path / "again" / CONFIG).read_text())["architecture"]["type"] == "resnet"
    assert read_config(tmp_path / "again") == written
    assert written.architecture == old.config.architecture


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "transformer", "classes": 5}, "unknown architecture type 'transformer'; known: .*resnet.*timm"),
        ({"type": ["resnet"], "classes": 5}, "unknown architecture type"),
        ({"type": None, "classes": 5}, "unknown architecture type None"),
        ({"type": "timm", "classes": 5, "depths": [1]}, r"backbone(.|\n)*Field required(.|\n)*depths"),
        ("resnet", "a mapping of keys to values"),
    ],
)
def test_what_is_wrong_with_an_architecture_is_named(value: object, message: str) -> None:
    """The known types for an unknown one, the keys for a known one."""
    with pytest.raises(ValueError, match=message):
        parse(value)


def test_errors_name_the_key_within_the_config(tmp_path: Path) -> None:
    """With its path from the root of config.json, not as one text."""
    write_tiny_model(tmp_path / "tiny")
    config = json.loads((tmp_path / "tiny" / CONFIG).read_text())
    config["architecture"]["widths"] = [0, 16]
    with pytest.raises(ValidationError) as raised:
        ModelConfig.model_validate(config)
    assert [error["loc"] for error in raised.value.errors()] == [("architecture", "widths", 0)]
    (tmp_path / "tiny" / CONFIG).write_text(json.dumps({**config, "architecture": {"type": "none"}}))
    with pytest.raises(ModelError, match="unknown architecture type 'none'"):
        read_config(tmp_path / "tiny")


def test_the_number_of_classes_can_be_changed() -> None:
    """What a recipe describes fits any data set with at least two classes."""
    config = ResNetConfig(classes=2, depths=(1, 1), widths=(8, 16))
    assert config.with_classes(7) == ResNetConfig(classes=7, depths=(1, 1), widths=(8, 16))
    with pytest.raises(ValidationError, match="classes"):
        config.with_classes(1)
