"""The methods of the public models."""

import pytest

from otoscope.errors import InvalidRequest
from otoscope.types import Layer, ModelCard


def card(*layers: str) -> ModelCard:
    """A model with the given layers."""
    return ModelCard(
        name="tiny", description="", classes=["dog", "rain"], sample_rate=16_000, window_seconds=1.0, architecture={},
        frontend={}, parameters=1, layers=[Layer(name=name, shape=[1, 2, 3]) for name in layers], accuracy=[],
        licence="CC0", version="0",
    )  # fmt: skip


def test_an_existing_layer_is_accepted() -> None:
    """By its exact name."""
    card("stem", "layer1.block1", "layer1").require_layer("layer1.block1")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("stem", "layer1.block1", "layer1"), "it has stem, layer1, layer1.block1."),
        ([f"layer{n}" for n in range(9)], "it has layer0, layer1, layer2, layer3, layer4, layer5 and so on."),
        ((), "it has none."),
    ],
)
def test_an_unknown_layer_is_refused_with_known_ones(layers: tuple[str, ...], message: str) -> None:
    """Stages first; a long list is cut."""
    with pytest.raises(InvalidRequest) as caught:
        card(*layers).require_layer("layer1.residual")
    assert caught.value.detail == f"Model tiny has no layer 'layer1.residual'; {message}"
