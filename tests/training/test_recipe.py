"""Recipes: bundled ones, overrides and errors."""

import pytest
import torch

from training.errors import RecipeError
from training.recipe import BUNDLED, differences, load_recipe, parse_changes
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


DOCUMENTED = {
    "audio-cnn-visualizer": {
        "frontend": {"sample_rate": 44_100, "n_fft": 2_048, "hop": 512, "n_mels": 128, "f_min": 0, "f_max": 22_050},
        "network": {"depths": (3, 4, 6, 3), "widths": (64, 128, 256, 512), "dropout": (0.5,)},
        "augment": {"mix_alpha": 0.2},
        "optim": {
            "optimizer": "adamw", "schedule": "one_cycle", "max_lr": 2e-3, "initial_lr": 5e-4 / 2e-3,
            "weight_decay": 0.01, "label_smoothing": 0.1, "batch": 32, "epochs": 100,
        },
    },
    "audiospecnet": {
        "frontend": {"sample_rate": 22_050, "n_fft": 1_024, "hop": 512, "n_mels": 128, "f_min": 0, "f_max": 11_025},
        "network": {"depths": (3, 4, 6, 3), "widths": (64, 128, 256, 512), "dropout": (0.5,)},
        "augment": {
            "mix_alpha": 0.2, "mix_batches": 0.3, "mix_share": 1.0, "frequency_mask_mels": 30, "time_mask_frames": 80,
        },
        "optim": {
            "optimizer": "adamw", "schedule": "one_cycle", "max_lr": 2e-3, "initial_lr": 5e-4 / 2e-3, "warmup": 0.1,
            "weight_decay": 0.01, "label_smoothing": 0.1, "batch": 32, "epochs": 100,
        },
    },
    "audio-cnn-se-fpn": {
        "frontend": {"sample_rate": 22_050},
        "network": {"squeeze_excitation": True, "feature_pyramid": True},
        "augment": {"mix_alpha": 0.4, "frequency_masks": 2, "time_masks": 2},
        "optim": {"schedule": "cosine", "label_smoothing": 0.15, "epochs": 150},
    },
    "small-cnn": {
        "frontend": {"window_seconds": 2.0},
        "augment": {"time_mask_frames": 8},
        "optim": {"optimizer": "adamw", "batch": 32},
    },
    "pictures": {"start": {"weights": "imagenet", "thaw_epochs": 1}},
}  # fmt: skip
"""What the documents of the five older systems state (drone-car-speech is `small-cnn`, SonicSight is `pictures`)."""


@pytest.mark.parametrize("name", DOCUMENTED)
def test_recipe_has_the_documented_values(name: str) -> None:
    """A recipe after an older system has every value that its document gives."""
    recipe = load_recipe(name).model_dump()
    for section, values in DOCUMENTED[name].items():
        assert {key: recipe[section][key] for key in values} == values, section
    stops = {"audio-cnn-se-fpn", "small-cnn"}
    assert bool(recipe["optim"]["patience"]) == (name in stops), "early stopping"


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
    assert parse_changes(["optim.epochs=3", "name=a=b"]) == {"optim.epochs": "3", "name": "a=b"}
    with pytest.raises(RecipeError, match="'optim' is not KEY=VALUE"):
        parse_changes(["optim"])
