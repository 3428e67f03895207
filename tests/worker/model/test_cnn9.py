"""CNN9: the layers it describes, its embedding, and the features of another front end as those of its own."""

import numpy as np
import pytest
import torch

from tests.support.mel import evenly
from tests.support.receptive_fields import changed_columns, changed_rows
from worker.model.activations import ActivationRecorder
from worker.model.architectures.cnn9 import Cnn9, Cnn9Config, MelPower
from worker.model.fake_quant import convolutions


def small(**options: object) -> Cnn9:
    torch.manual_seed(0)
    network = Cnn9(Cnn9Config.model_validate({"classes": 5, "width": 4, "mels": 64, **options})).eval()
    network.input.scale.fill_(1e3)
    return network


@torch.no_grad()
def test_the_layers_are_those_of_the_structure() -> None:
    """Two blocks a stage, of which the second one halves both axes but in the last stage; a hook changes no logits."""
    network, x = small(), torch.randn(2, 1, 64, 202)
    recorder = ActivationRecorder(network, maps=[0, 1], embedding=[0], cam=[1], channels={"layer2": [0]})
    logits = network(x, recorder)
    assert torch.equal(logits, network(x))
    assert list(recorder.maps) == list(network.structure())
    assert recorder.maps["layer1.block1"].shape == (2, 64, 101)
    assert recorder.maps["layer1"].shape == (2, 32, 50)
    assert recorder.maps["layer3"].shape == recorder.maps["layer4"].shape == (2, 8, 12)
    assert recorder.channels["layer2", "layer2"].shape == (1, 8, 16, 25)
    assert recorder.cam(evenly(64), logits[1:].argmax(dim=1)).shape == (1, 8, 12)
    assert recorder.embedding is not None
    torch.testing.assert_close(network.head(recorder.embedding), logits[:1])


@torch.no_grad()
def test_a_cell_depends_on_its_receptive_field() -> None:
    """Cells change where a frame or a mel band of their field changed, and no others do. A column is two frames."""
    network, x = small(), torch.rand(1, 1, 64, 640)
    assert {node.receptive_field.pooled_frames for node in network.structure().values()} == {2}
    for cells in (changed_columns(network, x, 300), changed_rows(network, x, 30)):
        for name, (changed, expected) in cells.items():
            assert set() < changed <= expected, name


def test_mel_magnitudes_become_powers() -> None:
    """log10(1 + scale · m²) over the largest value of the training data, of the mean over two frames."""
    magnitudes = np.abs(np.random.default_rng(0).normal(size=(1, 1, 3, 6))).astype(np.float32)
    layer = MelPower(Cnn9Config(classes=2, mels=3))
    layer.scale.copy_(torch.tensor([1e3, 1e4, 1e5]))
    found = layer(torch.from_numpy(np.log(magnitudes + 1e-3)))
    power = (magnitudes**2 * np.array([1e3, 1e4, 1e5])[:, None]).reshape(1, 1, 3, 3, 2).mean(axis=-1)
    np.testing.assert_allclose(found.numpy(), np.log10(1 + power) / 9.457798957824707, rtol=1e-4)


def test_all_but_the_first_convolution_can_be_of_8_bits() -> None:
    assert len(list(convolutions(small()))) == 7


def test_every_weight_belongs_to_trunk_or_head() -> None:
    """So that gradual unfreezing reaches all of them."""
    network = small()
    parts = [*network.trunk(), network.head]
    assert sum(len(list(part.parameters())) for part in parts) == len(list(network.parameters()))


def test_a_recipe_chooses_the_head_only() -> None:
    base = Cnn9Config(classes=78, head=(256, 128), dropout=(0.0, 0.0, 0.0), width=8)
    assert base.fine_tuned_as(Cnn9Config(classes=2, dropout=(0.1,), width=64)) == Cnn9Config(
        classes=78, dropout=(0.1,), width=8
    )


@pytest.mark.parametrize(
    ("width", "summary"), [(64, "convolutions"), (4, "convolutions, 4 channels in the first block")]
)
def test_it_is_described(width: int, summary: str) -> None:
    assert Cnn9Config(classes=2, width=width).summary == f"CNN9: four blocks of two 3×3 {summary}"
