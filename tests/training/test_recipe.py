"""Recipes: bundled ones, overrides and errors."""

import pytest
import torch

from training.errors import RecipeError
from training.recipe import BUNDLED, differences, load_recipe
from worker.model.architectures import build_network


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in BUNDLED.glob("*.yaml")))
def test_bundled_recipe_builds_its_network(name: str) -> None:
    """Every bundled recipe is valid, has the name of its file, and its network accepts the output of its front end."""
    recipe = load_recipe(name)
    assert recipe.name == name
    network = build_network(recipe.network.with_classes(3)).eval()
    features = torch.randn(2, 1, recipe.frontend.n_mels, recipe.frontend.window_frames)
    with torch.no_grad():
        assert network(features).shape == (2, 3)


def test_bundled_recipe_and_overrides() -> None:
    """`--set` changes one value; unknown keys and invalid values raise errors that name the key."""
    recipe = load_recipe("audiospecnet", {"optim.epochs": "3", "augment.roll": "true"})
    assert (recipe.optim.epochs, recipe.augment.roll) == (3, True)
    assert differences(recipe, load_recipe("audiospecnet")) == {"optim.epochs": "3", "augment.roll": "true"}
    for key, value, message in (
        ("optim.speed", "1", "unknown key optim.speed"),
        ("optim.epochs", "0", "optim.epochs"),
        ("augment.crop_seconds", "7", "7 s is not between"),
        ("name.x", "1", "is a value"),
        ("network.depths", "[1]", "depths for"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe("audiospecnet", {key: value})
    with pytest.raises(RecipeError, match=r"bundled: .*esc50-best"):
        load_recipe("nothing")
