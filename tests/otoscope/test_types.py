"""What the public models say beyond their fields."""

import pytest

from otoscope.errors import InvalidRequest
from otoscope.types import Layer, ModelCard


def card(*layers: str) -> ModelCard:
    """A model with those layers."""
    return ModelCard(
        name="tiny", description="", classes=["dog", "rain"], sample_rate=16_000, window_seconds=1.0, architecture={},
        frontend={}, parameters=1, layers=[Layer(name=name, shape=[1, 2, 3]) for name in layers], accuracy=[],
        licence="CC0", version="0",
    )  # fmt: skip


def test_a_layer_that_there_is_may_be_asked_for() -> None:
    """By its exact name."""
    card("stem", "layer1.block1", "layer1").require_layer("layer1.block1")


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (("stem", "layer1.block1", "layer1"), "it has stem, layer1, layer1.block1."),
        ([f"layer{n}" for n in range(9)], "it has layer0, layer1, layer2, layer3, layer4, layer5 and so on."),
        ((), "it has none."),
    ],
)
def test_a_layer_that_there_is_not_is_refused_with_some_that_there_are(layers: tuple[str, ...], told: str) -> None:
    """Stages first; never a list without an end."""
    with pytest.raises(InvalidRequest) as caught:
        card(*layers).require_layer("layer1.residual")
    assert caught.value.detail == f"Model tiny has no layer 'layer1.residual'; {told}"
