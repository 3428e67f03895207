"""CNN14: the layers it describes, and its embedding."""

import pytest
import torch

from tests.support.mel import evenly
from tests.support.receptive_fields import changed_columns
from worker.model.activations import ActivationRecorder
from worker.model.architectures import build_network
from worker.model.architectures.cnn14 import Cnn14, Cnn14Config
from worker.model.fake_quant import convolutions


def small(**options: object) -> Cnn14:
    torch.manual_seed(0)
    return Cnn14(Cnn14Config.model_validate({"classes": 5, "width": 4, "mels": 64, **options})).eval()


@torch.no_grad()
def test_the_layers_are_those_of_the_structure() -> None:
    """Two blocks a stage, of which the second one halves both axes but in the last stage; a hook changes no logits."""
    network, x = small(), torch.randn(2, 1, 64, 101)
    recorder = ActivationRecorder(network, maps=[0, 1], embedding=[0], cam=[1], channels={"layer2": [0]})
    logits = network(x, recorder)
    assert torch.equal(logits, network(x))
    assert list(recorder.maps) == list(network.structure())
    assert recorder.maps["layer1.block1"].shape == (2, 64, 101)
    assert recorder.maps["layer1"].shape == (2, 32, 50)
    assert recorder.maps["layer5"].shape == recorder.maps["layer6"].shape == (2, 2, 3)
    assert recorder.channels["layer2", "layer2"].shape == (1, 8, 16, 25)
    assert recorder.cam(evenly(64), logits[1:].argmax(dim=1)).shape == (1, 2, 3)
    assert recorder.embedding is not None
    torch.testing.assert_close(network.head(recorder.embedding), logits[:1])


@torch.no_grad()
def test_a_cell_depends_on_its_receptive_field() -> None:
    """Cells change where a frame of their field changed, and no others do."""
    for name, (changed, expected) in changed_columns(small(), torch.rand(1, 1, 64, 640), 300).items():
        assert set() < changed <= expected, name
        assert len(changed) >= len(expected) - 1, name  # at the edge of a field the change may be lost by ReLU


@torch.no_grad()
def test_rows_are_normalised_one_by_one() -> None:
    """A level that the statistics of one row have is no level there, and any number of frames is accepted."""
    network, x = small(), torch.randn(1, 1, 64, 40)
    expected = network(x)
    assert network.norm.running_mean is not None
    network.norm.running_mean[7] += 3
    louder = x.clone()
    louder[:, :, 7] += 3
    torch.testing.assert_close(network(louder), expected)
    assert network(x[..., :32]).shape == (1, 5)


def test_dropout_is_only_in_training() -> None:
    network, x = small(), torch.randn(2, 1, 64, 64)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_all_but_the_first_convolution_can_be_of_8_bits() -> None:
    assert len(list(convolutions(build_network(Cnn14Config(classes=2, width=2))))) == 11


def test_every_weight_belongs_to_trunk_or_head() -> None:
    """So that gradual unfreezing reaches all of them."""
    network = small()
    parts = [*network.trunk(), network.head]
    assert sum(len(list(part.parameters())) for part in parts) == len(list(network.parameters()))


@pytest.mark.parametrize(
    ("options", "summary"),
    [({}, "CNN14: six blocks of two 3×3 convolutions, 4 channels in the first block"), ({"width": 64}, "CNN14: six")],
)
def test_it_is_described(options: dict[str, int], summary: str) -> None:
    assert Cnn14Config.model_validate({"classes": 2, "width": 4, **options}).summary.startswith(summary)
