"""Networks side by side: layers, embedding and class activations are those of the parts."""

import pytest
import torch
from pydantic import ValidationError

from tests.support.mel import evenly
from worker.model.activations import ActivationRecorder
from worker.model.architectures import build_network, parse
from worker.model.architectures.parallel import Parallel, ParallelConfig
from worker.model.base import Network

PARTS = {
    "patches": {"type": "mobilenet-v1", "classes": 9, "width": 0.25, "layers": 4},
    "columns": {"type": "resnet", "classes": 9, "depths": [1, 1], "widths": [4, 8], "head": [6], "dropout": [0.1, 0.1]},
}


def small(**options: object) -> Parallel:
    torch.manual_seed(0)
    config = ParallelConfig.model_validate({"classes": 5, "parts": PARTS, **options})
    return Parallel(config).eval()


@torch.no_grad()
def test_the_layers_are_those_of_the_parts() -> None:
    """A hook changes no logits; a block can be expanded; the head classifies both embeddings together."""
    network, x = small(), torch.randn(2, 1, 64, 192)
    recorder = ActivationRecorder(
        network, maps=[0, 1], embedding=[0], cam=[1], channels={"columns.layer1.block1": [0], "patches.layer1": [1]}
    )
    logits = network(x, recorder, recorder.expanded_blocks)
    assert torch.equal(logits, network(x))
    structure = network.structure()
    assert list(recorder.maps) == list(structure)
    assert structure["patches.stem"].inputs == ()
    assert structure["patches.layer1.block1"].inputs == ("patches.stem",)
    assert ("columns.layer1.block1", "columns.layer1.block1.residual") in recorder.channels
    assert recorder.channels["patches.layer1", "patches.layer1"].shape[:2] == (1, 16)
    assert recorder.cam(evenly(64), logits[1:].argmax(dim=1)).shape == (1, 8, 24)  # that of the finest last stage
    assert recorder.embedding is not None
    torch.testing.assert_close(network.head(recorder.embedding), logits[:1])


@torch.no_grad()
def test_class_activation_is_the_sum_of_the_evidence_of_the_parts() -> None:
    """Each at the frequencies of its own rows, and a cell of a coarser map counts as the larger part that it is."""
    part = {"type": "mobilenet-v1", "width": 0.25, "patch_frames": 96}
    parts = {"coarse": {**part, "layers": 6}, "fine": {**part, "layers": 2}}
    rows = {"coarse": {"first": 0, "count": 64}, "fine": {"first": 64, "count": 32}}
    network, x = small(parts=parts, spectrograms=rows), torch.randn(2, 1, 96, 96)
    recorder = ActivationRecorder(network, maps=[], embedding=[], cam=[0, 1])
    levels: dict[str, torch.Tensor] = {}
    network(x, recorder)
    network(x, levels.__setitem__)
    coarse, fine = (levels[layer] for layer in network.last_stages)
    assert coarse.shape[2:] != fine.shape[2:]
    of_coarse, of_fine = network.head[-1].weight[3].split([coarse.shape[1], fine.shape[1]])
    coarse_evidence, fine_evidence = (
        torch.einsum("bchw,c->bhw", level, weights) for level, weights in ((coarse, of_coarse), (fine, of_fine))
    )
    higher = 0.5 + 0.5 * evenly(32)  # the rows of the second spectrogram are in the upper half of the first one
    height, width = fine.shape[2:]
    placed = torch.nn.functional.interpolate(coarse_evidence[:, None], (height, width), mode="bilinear")[:, 0]
    lower_half = fine_evidence[:, :1].expand(-1, height // 2, -1)
    upper_half = torch.nn.functional.interpolate(fine_evidence[:, None], (height // 2, width), mode="bilinear")[:, 0]
    expected = (placed + torch.cat([lower_half, upper_half], dim=1)).relu()
    found = recorder.cam(torch.cat([evenly(64), higher]), torch.tensor([3, 3]))
    torch.testing.assert_close(found, expected / expected.amax(dim=(1, 2), keepdim=True), rtol=0, atol=1e-5)
    assert found.std() > 0


@torch.no_grad()
def test_embedding_is_that_of_the_parts_side_by_side() -> None:
    network, x = small(), torch.randn(1, 1, 64, 96)
    found: dict[str, torch.Tensor] = {}
    network(x, found.__setitem__)
    of_parts: list[torch.Tensor] = []
    for part in network.parts.values():
        assert isinstance(part, Network)
        part(x, lambda name, value: of_parts.append(value) if name == "embedding" else None)
    assert torch.equal(found["embedding"], torch.cat(of_parts, dim=1))


def test_every_weight_belongs_to_trunk_or_head() -> None:
    """So that gradual unfreezing reaches all of them; the last stages of both parts are the first to be trained."""
    network = small()
    parts = [*network.trunk(), network.head]
    assert sum(len(list(part.parameters())) for part in parts) == len(list(network.parameters()))
    last = {id(each) for each in network.trunk()[-1].modules()}
    assert all(id(part.trunk()[-1]) in last for part in network.parts.values() if isinstance(part, Network))


def test_the_config_is_read_back() -> None:
    """With other classes as well, which the parts have no say in."""
    config = small().config
    assert parse(config.model_dump(mode="json")) == config
    more = config.with_classes(7)
    assert {part.classes for part in more.parts.values()} == {7}
    assert build_network(more)(torch.zeros(1, 1, 64, 96)).shape == (1, 7)
    assert config.summary.startswith("MobileNet-v1 of 0.25 × the channels")


@pytest.mark.parametrize("parts", [{}, {"one": PARTS["patches"]}, {"a.b": PARTS["patches"], "c": PARTS["columns"]}, 3])
def test_what_is_no_set_of_networks_is_refused(parts: object) -> None:
    with pytest.raises(ValidationError):
        ParallelConfig.model_validate({"classes": 5, "parts": parts})


STACKED = {"patches": {"first": 0, "count": 64}, "columns": {"first": 64, "count": 32, "every": 2}}


@torch.no_grad()
def test_each_part_can_have_a_spectrogram_of_its_own() -> None:
    """Of those that are stacked. The one that is not the first is a layer in front of the others of its part."""
    plain, x = small(), torch.randn(2, 1, 96, 192)
    network = small(spectrograms=STACKED, inputs={"columns": (2.0, -1.0)})
    network.load_state_dict(plain.state_dict())
    patches, columns = (part for part in plain.parts.values() if isinstance(part, Network))
    own = x[:, :, 64:, ::2] * 2.0 - 1.0
    found: dict[str, torch.Tensor] = {}
    logits = network(x, found.__setitem__)
    torch.testing.assert_close(logits, plain.head(torch.cat([patches(x[:, :, :64]), columns(own)], dim=1)))
    assert torch.equal(found["columns.spectrogram"], own)
    structure = network.structure()
    assert list(structure) == [name for name in found if name != "embedding"]
    assert structure["columns.spectrogram"].kind == "input"
    assert structure["columns.stem"].inputs == ("columns.spectrogram",)
    assert structure["patches.stem"].inputs == ()
    assert structure["columns.stem"].receptive_field == plain.structure()["columns.stem"].receptive_field
    assert parse(network.config.model_dump(mode="json")) == network.config
    with pytest.raises(ValidationError, match="all of the parts"):
        small(spectrograms={"columns": STACKED["columns"]})


@torch.no_grad()
def test_the_input_of_a_part_can_be_rescaled() -> None:
    plain, x = small(), torch.randn(1, 1, 64, 96)
    rescaled = small(inputs={"columns": (2.0, -1.0)})
    rescaled.load_state_dict(plain.state_dict())
    patches, columns = (part for part in plain.parts.values() if isinstance(part, Network))
    expected = plain.head(torch.cat([patches(x), columns(x * 2.0 - 1.0)], dim=1))
    torch.testing.assert_close(rescaled(x), expected)
    assert parse(rescaled.config.model_dump(mode="json")) == rescaled.config
    with pytest.raises(ValidationError, match="inputs of other"):
        small(inputs={"other": (1.0, 0.0)})
