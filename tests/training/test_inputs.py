"""Data folders, recipes and augmentation."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import REAL_SOUNDS
from training.augment import augment_waveforms, levels, mask_spectrograms, mix
from training.dataset import ESC50, load_esc50, load_waveforms
from training.errors import DatasetError, RecipeError
from training.recipe import AugmentRecipe, differences, load_recipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "copy"))


def rewrite(root: Path, column: str, value: str, row: int = 0) -> None:
    table = root / "meta" / "esc50.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row][column] = value
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_dataset_is_read_with_its_folds_and_classes(data: Path) -> None:
    """Clips, classes in label order, folds; cut or padded to the window."""
    dataset = load_esc50(data)
    assert dataset.classes == ("low", "high", "noise")
    assert dataset.folds == (1, 2, 3)
    train, test = dataset.split(3)
    assert (len(train), len(test)) == (24, 12)
    waves, labels = load_waveforms(test, 8_000, 12_000)
    assert waves.shape == (12, 12_000)
    assert waves[:, 8_000:].abs().max() == 0
    assert labels.tolist() == [0, 1, 2] * 4
    with pytest.raises(DatasetError, match="no fold 9"):
        dataset.split(9)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("target", "x", "line 2: fold and target must be whole numbers"),
        ("target", "7", "the targets are not 0 to"),
        ("category", "", "line 2: no category"),
        ("filename", "gone.wav", r"1 of 36 clips are missing, .*gone\.wav"),
        ("category", "high", "further up"),
    ],
)
def test_bad_table_is_told_with_its_line(copy: Path, column: str, value: str, message: str) -> None:
    """What is wrong, and where."""
    rewrite(copy, column, value)
    with pytest.raises(DatasetError, match=message):
        load_esc50(copy)


def test_folder_that_is_none_and_sound_that_is_none(copy: Path, tmp_path: Path) -> None:
    """A missing table, and a file that cannot be decoded, are named."""
    with pytest.raises(DatasetError, match=r"esc50\.csv is missing"):
        load_esc50(tmp_path)
    dataset = load_esc50(copy)
    dataset.clips[0].path.write_text("text")
    with pytest.raises(DatasetError, match=dataset.clips[0].path.name):
        load_waveforms(dataset.clips[:1], 8_000, 8_000)


@pytest.mark.data
def test_the_real_esc50_is_recognised() -> None:
    """2,000 clips, 50 classes, five folds, its licence; and the clips whose recording crosses the folds."""
    dataset = load_esc50(REAL_SOUNDS / "esc50-16k")
    assert (len(dataset.clips), len(dataset.classes), dataset.folds) == (2_000, 50, (1, 2, 3, 4, 5))
    assert dataset.origin == ESC50


def test_bundled_recipe_and_overrides() -> None:
    """`--set` changes one value; unknown keys and impossible values are errors that name the key."""
    recipe = load_recipe("esc50", {"optim.epochs": "3", "augment.roll": "false"})
    assert (recipe.optim.epochs, recipe.augment.roll) == (3, False)
    assert differences(recipe, load_recipe("esc50")) == {"optim.epochs": "3", "augment.roll": "false"}
    for key, value, message in (
        ("optim.speed", "1", "unknown key optim.speed"),
        ("optim.epochs", "0", "optim.epochs"),
        ("name.x", "1", "is a value"),
        ("network.depths", "[1]", "depths for"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe("esc50", {key: value})
    with pytest.raises(RecipeError, match="bundled: esc50"):
        load_recipe("nothing")


def test_mixing_keeps_energy_and_label_mass() -> None:
    """The ratio is one of loudness: a loud and a quiet clip mixed evenly are heard evenly, and the level stays."""
    waves = torch.randn(64, 16_000) * torch.logspace(-2, 0, 64)[:, None]
    targets = torch.eye(64)
    mixed, labels = mix(waves, targets, 16_000, 0.4, seeded())
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(64))
    assert (labels.diagonal() >= 0.5).all()
    assert (labels.max(dim=1).values < 1 + 1e-6).all()
    change = levels(mixed, 16_000) - levels(waves, 16_000)
    assert change.max() < 25


def test_every_draw_is_a_clips_own_and_seeded() -> None:
    """The same generator gives the same batch; equal clips become different ones."""
    waves, targets = torch.randn(1, 8_000).repeat(8, 1), torch.eye(8)
    recipe = AugmentRecipe(mix_alpha=0)
    first, labels = augment_waveforms(waves, targets, 8_000, recipe, seeded())
    again, _ = augment_waveforms(waves, targets, 8_000, recipe, seeded())
    assert torch.equal(first, again)
    assert torch.equal(labels, targets)
    assert len({tuple(row.tolist()) for row in first[:, :50]}) == 8


def test_turned_off_augmentation_changes_nothing() -> None:
    """Zeros in the recipe mean what they say."""
    off = AugmentRecipe(
        roll=False, speed=1, gain_db=0, mix_alpha=0, frequency_masks=0, time_masks=0
    )  # fmt: skip
    waves, targets = torch.randn(4, 8_000), torch.eye(4)
    same, labels = augment_waveforms(waves, targets, 8_000, off, seeded())
    assert torch.equal(same, waves)
    assert torch.equal(labels, targets)
    features = torch.randn(4, 1, 24, 50)
    assert torch.equal(mask_spectrograms(features, off, seeded()), features)


def test_masks_are_set_to_the_mean_and_no_wider_than_said() -> None:
    """Zero after normalisation is the training mean, not silence and not loudness."""
    recipe = AugmentRecipe(frequency_masks=1, frequency_mask_mels=6, time_masks=1, time_mask_frames=9)
    features = torch.full((200, 1, 24, 50), 7.0)
    masked = mask_spectrograms(features, recipe, seeded())
    assert set(masked.unique().tolist()) == {0.0, 7.0}
    rows = (masked == 0).all(dim=3).sum(dim=2)
    columns = (masked == 0).all(dim=2).sum(dim=2)
    assert rows.max() <= 7
    assert columns.max() <= 10
    assert rows.unique().numel() > 3  # each clip its own
