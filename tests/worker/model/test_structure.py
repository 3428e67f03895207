"""The structure of a network's layers, and the activations of an expanded block."""

import pytest
import torch
from torch import Tensor

from otoscope.types import ReceptiveField
from tests.worker.model.test_base import small
from worker.model.activations import ActivationRecorder
from worker.model.architectures.resnet import ResidualCNN
from worker.model.base import receptive_field

KINDS = [
    {},
    {"stem": False},
    {"depths": (1, 1, 1), "widths": (4, 8, 16)},
    {"stem": False, "block": "plain", "depths": (1, 1, 1), "widths": (4, 8, 16)},
    {"feature_pyramid": True},
]


def test_receptive_fields_grow_with_each_sliding_window() -> None:
    """Each adds its size minus one, and starts earlier by its padding, both times the product of the strides before."""
    assert receptive_field([]) == ReceptiveField(start=0, stride=1, size=1)
    assert receptive_field([(3, 1, 1), (3, 1, 1)]) == ReceptiveField(start=-2, stride=1, size=5)
    assert receptive_field([(7, 2, 3), (3, 2, 1), (3, 1, 1)]) == ReceptiveField(start=-9, stride=4, size=19)
    assert receptive_field([(2, 2, 0), (2, 2, 0)]) == ReceptiveField(start=0, stride=4, size=4)


@pytest.mark.slow
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_receptive_field_is_what_gradients_reach(options: dict[str, object]) -> None:
    """From one cell of each layer back to the spectrogram, in a network with positive weights only."""
    network = small(**options).double()
    for parameter in network.parameters():
        parameter.data.abs_()
    for name, node in network.structure().items():
        gradients = [influence(network, name, seed) for seed in range(4)]
        (row, column), field = gradients[0][0], node.receptive_field
        reached = sum(gradient for _, gradient in gradients)
        assert isinstance(reached, Tensor)
        for at, side in ((row, reached.sum(dim=1)), (column, reached.sum(dim=0))):
            cells, first = side.nonzero().flatten(), field.start + at * field.stride
            expected = range(max(first, 0), min(first + field.size, len(side)))
            assert (int(cells[0]), int(cells[-1])) == (expected[0], expected[-1]), name


def influence(network: ResidualCNN, layer: str, seed: int) -> tuple[tuple[int, int], Tensor]:
    """(row, column) of the cell in the middle of a layer, and (mels, frames): the absolute gradient of each input."""
    x = torch.rand(1, 1, 128, 144, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x.requires_grad_()
    found: dict[str, Tensor] = {}
    network(x, lambda name, activation: found.__setitem__(name, activation))
    row, column = (size // 2 for size in found[layer].shape[2:])
    (gradient,) = torch.autograd.grad(found[layer][0, :, row, column].sum(), x)
    return (row, column), gradient[0, 0].abs()


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_structure_lists_the_layers_in_order(options: dict[str, object]) -> None:
    """The input of each is one that came before it; of the first, the spectrogram; of a stage, its last block."""
    network = small(**options)
    nodes = network.structure()
    layers: list[str] = []
    network(torch.randn(1, 1, 32, 40), lambda name, _: layers.append(name))
    assert [*nodes, "embedding"] == layers
    assert [name for name, node in nodes.items() if not node.inputs] == layers[:1]
    before: set[str] = set()
    for name, node in nodes.items():
        assert set(node.inputs) <= before
        before.add(name)
        expected = "stem" if name == "stem" else network.config.block if "." in name else "stage"
        assert node.kind == expected
    assert nodes["layer1"].inputs == (f"layer1.block{network.config.depths[0]}",)
    assert nodes["layer2.block1"].inputs == ("layer1",)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"squeeze_excitation": True}], ids=str)
def test_an_expanded_block_has_its_residual_and_shortcut(options: dict[str, object]) -> None:
    """Their rectified sum is the output of the block; an identity shortcut is the unchanged input of the block."""
    network, x = small(**options), torch.randn(2, 1, 32, 40)
    activations: dict[str, Tensor] = {}
    expanded_blocks = {"layer1.block2", "layer2.block1"}
    logits = network(x, lambda name, activation: activations.__setitem__(name, activation.clone()), expanded_blocks)
    assert torch.equal(logits, network(x))
    assert set(activations) - {"embedding", *network.structure()} == {
        f"{block}.{part}" for block in expanded_blocks for part in ("residual", "shortcut")
    }
    for block in expanded_blocks:
        total = activations[f"{block}.residual"] + activations[f"{block}.shortcut"]
        assert torch.equal(total.relu(), activations[block])
    assert torch.equal(activations["layer1.block2.shortcut"], activations["layer1.block1"])
    assert activations["layer1.block2.residual"].min() < 0


@torch.no_grad()
def test_a_recorder_keeps_the_channels_of_the_requested_rows() -> None:
    """Of several layers in one pass, under the requested names; there are maps of layers only, not of block parts."""
    network, x = small(), torch.randn(4, 1, 32, 40)
    recorder = ActivationRecorder(
        network, maps=[0], embedding=[], cam=[], channels={"layer1": [3, 1], "layer1.block2": [0], "stem": [2]}
    )
    network(x, recorder, recorder.expanded_blocks)
    everything: dict[str, Tensor] = {}
    network(x, lambda name, activation: everything.__setitem__(name, activation.clone()), recorder.expanded_blocks)
    rows = {"layer1": [3, 1], "layer1.block2": [0], "stem": [2]}
    assert {name: layer for layer, name in recorder.channels} == {
        "stem": "stem",
        **{f"layer1{part}": "layer1" for part in ("", ".residual", ".shortcut")},
        **{f"layer1.block2{part}": "layer1.block2" for part in ("", ".residual", ".shortcut")},
    }
    for (layer, name), values in recorder.channels.items():
        source = name.replace("layer1.block2", "layer1").replace("layer1", "layer1.block2")
        torch.testing.assert_close(values, everything[source][rows[layer]])
    assert list(recorder.maps) == list(network.structure())
