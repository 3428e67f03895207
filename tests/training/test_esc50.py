"""Folders in the layout of ESC-50: reading, hold-out and decoding."""

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
from tests.support.tiny_recipe import TINY, windows_of
from tests.training.conftest import write_dataset
from training.data.base import Clip, hold_out, load_windows
from training.data.esc50 import ESC50, load_esc50
from training.errors import DatasetError
from training.fit.setup import load_labelled_windows
from worker.pipeline.windows import split_windows


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


def test_folds_classes_and_windows(data: Path) -> None:
    """Clips, classes in label order, folds; windows are cut or zero-padded."""
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
        ("category", "high", "in an earlier line"),
    ],
)
def test_error_in_the_table_names_its_line(copy: Path, column: str, value: str, message: str) -> None:
    """The message states the error and the line."""
    rewrite(copy, column, value)
    with pytest.raises(DatasetError, match=message):
        load_esc50(copy)


def test_missing_table_and_undecodable_file(copy: Path, tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(DatasetError, match=r"neither items\.csv nor meta/esc50\.csv"):
        load_esc50(tmp_path)
    dataset = load_esc50(copy)
    dataset.clips[0].path.write_text("text")
    with pytest.raises(DatasetError, match=dataset.clips[0].path.name):
        load_windows(dataset.clips[:1], 8_000, 8_000)


@pytest.mark.usefixtures("real_sounds")
def test_official_esc50_is_recognised() -> None:
    """2,000 clips, 50 classes, five folds, and the licence of the data set."""
    dataset = load_esc50(REAL_SOUNDS / "esc50-16k")
    assert (len(dataset.clips), len(dataset.classes), dataset.folds) == (2_000, 50, (1, 2, 3, 4, 5))
    assert dataset.info == ESC50


def test_hold_out_by_recording(data: Path) -> None:
    """Every class contributes its share, whole recordings are held out, and the seed selects them."""
    clips = load_esc50(data).split(3)[0]
    rest, held = hold_out(clips, 0.25, seed=1)
    assert len(rest) + len(held) == len(clips)
    assert not {clip.source for clip in rest} & {clip.source for clip in held}
    assert [sum(clip.label == label for clip in held) for label in range(3)] == [2, 2, 2]
    assert hold_out(clips, 0.25, seed=1)[1] == held
    assert hold_out(clips, 0.25, seed=2)[1] != held
    assert hold_out(clips, 0.0, seed=1) == (clips, [])


def test_a_long_recording_is_not_held_out_where_short_ones_do() -> None:
    """Otherwise most of a class could be missing from training."""
    clips = [Clip(Path("long"), 1, 0, "long")] * 100
    clips += [Clip(Path(f"short{number}"), 1, 0, f"short{number}") for number in range(6) for _ in range(5)]
    for seed in range(8):
        assert len(hold_out(clips, 0.15, seed)[1]) == 20


def test_long_clip_becomes_several_windows(tmp_path: Path) -> None:
    """Windows are cut as in the service; silent windows of a longer clip are not used for training."""
    data = write_dataset(tmp_path / "data")
    dataset = load_esc50(data)
    clips = dataset.split(3)[0][:3]
    clips[1].path.write_bytes(encode(np.concatenate([np.zeros(16_000), tone(1.0, 8_000)[:, 0]])[:, None], 8_000))
    waves, of = dataset.load(clips, windows_of(0.5))
    assert of.tolist() == [0, 1, 2] + [0] * 2 + [1] * 10 + [2] * 2
    for index, clip in enumerate(clips):
        windows = [window for _, window in split_windows(decode(clip.path.read_bytes(), 8_000).waveform, 4_000)]
        np.testing.assert_array_equal(waves[of == index], np.stack(windows))

    short = TINY.model_copy(update={"frontend": TINY.frontend.model_copy(update={"window_seconds": 0.5})})
    sounds = load_labelled_windows(short, dataset, clips, torch.device("cpu"))
    assert sounds.labels.tolist() == [0, 2, 0, 0, 1, 1, 1, 1, 2, 2]
    clips[1].path.write_bytes(encode(np.zeros((4_000, 1)), 8_000))
    assert 1 in load_labelled_windows(short, dataset, clips, torch.device("cpu")).labels


def test_no_class_is_held_out_completely() -> None:
    """Random sets whose recordings contain several classes: every class is in both sets, or nothing is held out."""
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
