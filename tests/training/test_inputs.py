"""Data folders, recipes and augmentation."""

import csv
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from shared.audio.decode import decode
from tests.conftest import REAL_SOUNDS
from tests.support.sounds import encode, tone
from tests.training.conftest import TINY, write_dataset
from training.data.esc50 import ESC50, Clip, hold_out, load_esc50, load_windows
from training.errors import DatasetError, RecipeError
from training.fit.augment import audibility, augment_spectrograms, augment_waveforms, cut, levels, mix, stretch
from training.fit.setup import load_sounds
from training.recipe import BUNDLED, AugmentRecipe, differences, load_recipe
from worker.model.checkpoint import build_network
from worker.pipeline.windows import split_windows


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
    waves, of = load_windows(test, 8_000, 12_000)
    assert waves.shape == (12, 12_000)
    assert waves[:, 8_000:].abs().max() == 0
    assert of.tolist() == list(range(12))
    assert [clip.label for clip in test] == [0, 1, 2] * 4
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
        load_windows(dataset.clips[:1], 8_000, 8_000)


@pytest.mark.data
def test_the_real_esc50_is_recognised() -> None:
    """2,000 clips, 50 classes, five folds, its licence; and the clips whose recording crosses the folds."""
    dataset = load_esc50(REAL_SOUNDS / "esc50-16k")
    assert (len(dataset.clips), len(dataset.classes), dataset.folds) == (2_000, 50, (1, 2, 3, 4, 5))
    assert dataset.origin == ESC50


@pytest.mark.parametrize("name", sorted(path.stem for path in BUNDLED.glob("*.yaml")))
def test_every_bundled_recipe_builds_its_network(name: str) -> None:
    """Each of them is valid, named like its file, and gives a network that takes its own front end's output."""
    recipe = load_recipe(name)
    assert recipe.name == name
    network = build_network(recipe.network.architecture(classes=3)).eval()
    features = torch.randn(2, 1, recipe.frontend.n_mels, recipe.frontend.window_frames)
    with torch.no_grad():
        assert network(features).shape == (2, 3)


def test_bundled_recipe_and_overrides() -> None:
    """`--set` changes one value; unknown keys and impossible values are errors that name the key."""
    recipe = load_recipe("audiospecnet", {"optim.epochs": "3", "augment.roll": "true"})
    assert (recipe.optim.epochs, recipe.augment.roll) == (3, True)
    assert differences(recipe, load_recipe("audiospecnet")) == {"optim.epochs": "3", "augment.roll": "true"}
    for key, value, message in (
        ("optim.speed", "1", "unknown key optim.speed"),
        ("optim.epochs", "0", "optim.epochs"),
        ("augment.crop_seconds", "7", "7 s do not fit"),
        ("name.x", "1", "is a value"),
        ("network.depths", "[1]", "depths for"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe("audiospecnet", {key: value})
    with pytest.raises(RecipeError, match=r"bundled: .*esc50-best"):
        load_recipe("nothing")


def test_held_out_part_shares_no_recording(data: Path) -> None:
    """Every class gives its share, whole recordings move, and the seed decides which."""
    clips = load_esc50(data).split(3)[0]
    rest, held = hold_out(clips, 0.25, seed=1)
    assert len(rest) + len(held) == len(clips)
    assert not {clip.source for clip in rest} & {clip.source for clip in held}
    assert [sum(clip.label == label for clip in held) for label in range(3)] == [2, 2, 2]
    assert hold_out(clips, 0.25, seed=1)[1] == held
    assert hold_out(clips, 0.25, seed=2)[1] != held
    assert hold_out(clips, 0.0, seed=1) == (clips, [])


def test_what_is_longer_than_a_window_is_heard_to_its_end(tmp_path: Path) -> None:
    """Cut as the service cuts, each window with its clip; what is silence in a longer clip is not learned from."""
    data = write_dataset(tmp_path / "data")
    dataset = load_esc50(data)
    clips = dataset.split(3)[0][:3]
    clips[1].path.write_bytes(encode(np.concatenate([np.zeros(16_000), tone(1.0, 8_000)[:, 0]])[:, None], 8_000))
    waves, of = dataset.load(clips, 8_000, 4_000)
    assert of.tolist() == [0, 1, 2] + [0] * 2 + [1] * 10 + [2] * 2
    for index, clip in enumerate(clips):
        windows = [window for _, window in split_windows(decode(clip.path.read_bytes(), 8_000).waveform, 4_000)]
        np.testing.assert_array_equal(waves[of == index], np.stack(windows))

    short = TINY.model_copy(update={"frontend": TINY.frontend.model_copy(update={"window_seconds": 0.5})})
    sounds = load_sounds(short, dataset, clips, torch.device("cpu"))
    assert sounds.labels.tolist() == [0, 2, 0, 0, 1, 1, 1, 1, 2, 2]
    clips[1].path.write_bytes(encode(np.zeros((4_000, 1)), 8_000))
    assert 1 in load_sounds(short, dataset, clips, torch.device("cpu")).labels


def test_no_class_is_held_out_altogether() -> None:
    """Random sets whose recordings hold several classes: every class stands on both sides, or nothing is held out."""
    random, some = Random(0), 0
    for seed in range(300):
        sources = [(f"s{number}", random.sample(range(4), random.randint(1, 2))) for number in range(10)]
        clips = [Clip(Path(source), 1, label, source) for source, labels in sources for label in labels]
        rest, held = hold_out(clips, 0.3, seed)
        assert len(rest) + len(held) == len(clips)
        assert not {clip.source for clip in rest} & {clip.source for clip in held}
        every = {clip.label for clip in clips}
        assert {clip.label for clip in rest} == every
        assert {clip.label for clip in held} in (every, set())
        some += bool(held)
    assert some > 200


def test_mixing_keeps_energy_and_label_mass() -> None:
    """The ratio is one of loudness: a loud and a quiet clip mixed evenly are heard evenly, and the level stays."""
    waves = torch.randn(64, 16_000) * torch.logspace(-2, 0, 64)[:, None]
    targets = torch.eye(64)
    mixed, labels = mix(waves, targets, 16_000, AugmentRecipe(), seeded())
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(64))
    assert (labels.diagonal() >= 0.5).all()
    assert (labels.max(dim=1).values < 1 + 1e-6).all()
    change = levels(mixed, 16_000) - levels(waves, 16_000)
    assert change.max() < 25
    alone, same = mix(waves, targets, 16_000, AugmentRecipe(mix_share=0), seeded())
    torch.testing.assert_close(alone, waves)
    assert torch.equal(same, targets)


def test_silence_can_be_mixed() -> None:
    """A silent clip beside a loud one gives finite sound and labels."""
    waves = torch.stack([torch.zeros(8_000), torch.ones(8_000)])
    for seed in range(20):
        mixed, labels = mix(waves, torch.eye(2), 8_000, AugmentRecipe(), seeded(seed))
        assert mixed.isfinite().all()
        assert labels.isfinite().all()


def test_cut_holds_something_audible() -> None:
    """Half a second out of five, of a clip that is silent but for 0.2 s: the sound is in every cut."""
    waves = torch.zeros(64, 40_000)
    waves[:, 30_000:31_600] = 0.5
    recipe = AugmentRecipe(speed=1.25)
    pieces = cut(waves, audibility(waves, 8_000), 4_000, 8_000, recipe, seeded())
    assert pieces.shape == (64, 4_000)
    assert (pieces.abs().amax(dim=1) > 0.4).all()
    where = pieces.abs().argmax(dim=1)
    assert where.unique().numel() > 30  # anywhere in the cut


def test_speed_changes_pitch_and_stretch_does_not() -> None:
    """A tone played faster is higher; a stretched log-mel keeps every row's mean."""
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(8_000) / 8_000).repeat(32, 1)
    recipe = AugmentRecipe(speed=1.5)
    played = cut(tone, audibility(tone, 8_000), 8_000, 8_000, recipe, seeded())
    peaks = torch.fft.rfft(played * torch.hann_window(8_000)).abs().argmax(dim=1)  # Hz
    assert peaks.min() < 400
    assert peaks.max() > 620
    features = torch.randn(4, 1, 24, 1).expand(4, 1, 24, 50)
    torch.testing.assert_close(stretch(features, 1.5, seeded()), features)
    moving = torch.randn(4, 1, 24, 50)
    assert not torch.equal(stretch(moving, 1.5, seeded()), moving)


def test_noise_keeps_its_distance() -> None:
    """White noise at least `noise_db` below the clip's loudest tenth of a second, and at most 30 dB more."""
    waves = torch.zeros(200, 8_000)
    waves[:, :800] = 1.0
    recipe = AugmentRecipe(roll=False, speed=1, gain_db=0, mix_alpha=0, noise_db=20)
    noisy, _ = augment_waveforms(waves, audibility(waves, 8_000), torch.eye(200), 8_000, recipe, seeded(), crop=False)
    below = -10 * (noisy - waves).square().mean(dim=1).log10()
    assert below.min() > 19.5
    assert below.max() < 50.5
    assert below.std() > 5


def test_every_draw_is_a_clips_own_and_seeded() -> None:
    """The same generator gives the same batch; equal clips become different ones."""
    waves, targets = torch.randn(1, 8_000).repeat(8, 1), torch.eye(8)
    recipe = AugmentRecipe(mix_alpha=0)
    audible = audibility(waves, 8_000)
    first, labels = augment_waveforms(waves, audible, targets, 8_000, recipe, seeded(), crop=True)
    again, _ = augment_waveforms(waves, audible, targets, 8_000, recipe, seeded(), crop=True)
    assert torch.equal(first, again)
    assert torch.equal(labels, targets)
    assert len({tuple(row.tolist()) for row in first[:, :50]}) == 8


def test_turned_off_augmentation_changes_nothing() -> None:
    """Zeros in the recipe mean what they say."""
    off = AugmentRecipe(
        roll=False, speed=1, gain_db=0, mix_alpha=0, frequency_masks=0, time_masks=0
    )  # fmt: skip
    waves, targets = torch.randn(4, 8_000), torch.eye(4)
    same, labels = augment_waveforms(waves, audibility(waves, 8_000), targets, 8_000, off, seeded(), crop=True)
    assert torch.equal(same, waves)
    assert torch.equal(labels, targets)
    features = torch.randn(4, 1, 24, 50)
    assert torch.equal(augment_spectrograms(features, off, seeded()), features)


def test_masks_are_set_to_the_mean_and_no_wider_than_said() -> None:
    """Zero after normalisation is the training mean, not silence and not loudness."""
    recipe = AugmentRecipe(frequency_masks=1, frequency_mask_mels=6, time_masks=1, time_mask_frames=9)
    features = torch.full((200, 1, 24, 50), 7.0)
    masked = augment_spectrograms(features, recipe, seeded())
    assert set(masked.unique().tolist()) == {0.0, 7.0}
    rows = (masked == 0).all(dim=3).sum(dim=2)
    columns = (masked == 0).all(dim=2).sum(dim=2)
    assert rows.max() <= 7
    assert columns.max() <= 10
    assert rows.unique().numel() > 3  # each clip its own
