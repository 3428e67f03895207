"""The methods of the public models."""

import pytest

from otoscope.errors import InvalidRequest
from otoscope.types import Layer, ModelCard, Prediction


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


def test_a_parent_has_the_largest_confidence_of_its_children() -> None:
    """Also over several levels and for a class with two parents; one that is an output itself keeps a larger one."""
    parents = {"Bark": ["Dog"], "Growling": ["Dog", "Cat"], "Dog": ["Animal"], "Cat": ["Animal"]}
    model = card().model_copy(update={"parents": parents})
    found = {"Bark": 0.7, "Growling": 0.4, "Dog": 0.2, "Animal": 0.1, "Cat": 0.5, "Rain": 0.6}
    rolled = model.rolled_up(Prediction(class_=name, confidence=confidence) for name, confidence in found.items())
    expected = {"Bark": 0.7, "Dog": 0.7, "Animal": 0.7, "Rain": 0.6, "Cat": 0.5, "Growling": 0.4}
    assert {one.class_: one.confidence for one in rolled} == expected
    assert [one.confidence for one in rolled] == sorted(expected.values(), reverse=True)


def test_predictions_without_an_ontology_stay() -> None:
    predictions = [Prediction(class_="dog", confidence=0.9), Prediction(class_="rain", confidence=0.1)]
    assert card().rolled_up(predictions) == predictions
