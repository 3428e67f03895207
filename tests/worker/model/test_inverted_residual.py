"""MobileNetV2 and MobileNetV3: the layers they describe."""

import pytest
import torch

from tests.support.mel import evenly
from tests.support.receptive_fields import changed_columns
from worker.model.activations import ActivationRecorder
from worker.model.architectures.mobilenet_v2 import MobileNetV2, MobileNetV2Config
from worker.model.architectures.mobilenet_v3 import MobileNetV3, MobileNetV3Config
from worker.model.inverted_residual import InvertedResidualNetwork, rounded


def small(name: str) -> InvertedResidualNetwork:
    torch.manual_seed(0)
    if name == "v2":
        return MobileNetV2(MobileNetV2Config(classes=5, width=0.25)).eval()
    return MobileNetV3(MobileNetV3Config(classes=5, width=0.25)).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["v2", "v3"])
def test_the_layers_are_those_of_the_structure(name: str) -> None:
    """In the order of computation; a hook changes no logits."""
    network, x = small(name), torch.randn(2, 1, 64, 100)
    recorder = ActivationRecorder(network, maps=[0, 1], embedding=[0], cam=[1], channels={"layer2": [0]})
    logits = network(x, recorder)
    assert torch.equal(logits, network(x))
    assert list(recorder.maps) == list(network.structure())
    assert recorder.maps["stem"].shape == (2, 32, 50)
    assert recorder.channels["layer2", "layer2"].shape == (1, 8, 16, 25)
    assert recorder.maps["layer5"].shape[1] == 2
    assert recorder.cam(evenly(64), logits[1:].argmax(dim=1)).shape == (1, *recorder.maps["layer5"].shape[1:])
    assert recorder.embedding is not None
    torch.testing.assert_close(network.head(recorder.embedding), logits[:1])
    parts = [*network.trunk(), network.head]
    assert sum(len(list(part.parameters())) for part in parts) == len(list(network.parameters()))


@torch.no_grad()
@pytest.mark.parametrize("name", ["v2", "v3"])
def test_a_cell_depends_on_its_receptive_field(name: str) -> None:
    """Without gates, which depend on the whole spectrogram, no cell outside of its field changes with a frame."""
    network = small(name)
    for module in network.modules():
        if hasattr(module, "gates"):
            module.gates = torch.nn.Identity()
    for layer, (changed, expected) in changed_columns(network, torch.rand(1, 1, 64, 1_280), 640).items():
        assert set() < changed <= expected, layer
    assert len(changed) > len(expected) // 4


def test_widths_are_multiples_of_eight() -> None:
    """Rounded to the nearest, but not down by more than a tenth."""
    assert [rounded(channels) for channels in (3, 16, 18, 19, 20, 30, 100)] == [8, 16, 24, 24, 24, 32, 104]


def test_they_are_described() -> None:
    assert MobileNetV3Config(classes=2).summary == "MobileNetV3-Large, 15 inverted residual blocks"
    assert MobileNetV2Config(classes=2, width=0.5).summary.startswith("MobileNetV2 of 0.5 × the channels")
