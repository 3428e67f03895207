"""`otoscope tune`: real, tiny trainings, measured on a held-out part; an interrupted search goes on."""

import csv
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from otoscope.cli.main import app
from tests.support.tiny_recipe import TINY, changed
from training.data.esc50 import load_esc50
from training.errors import RecipeError, RunError
from training.recipe import load_recipe, to_yaml, with_changes
from training.tune import Range, parse_range, tune, usual_ranges

pytestmark = pytest.mark.training
pytest.importorskip("optuna")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("optim.max_lr=1e-4..1e-2", Range("optim.max_lr", low=1e-4, high=1e-2)),
        ("optim.batch=16,32", Range("optim.batch", choices=(16, 32))),
        ("augment.roll=true,false", Range("augment.roll", choices=(True, False))),
        ("optim.epochs=2..9", Range("optim.epochs", low=2, high=9)),
    ],
)
def test_ranges(text: str, found: Range) -> None:
    assert parse_range(text) == found
    assert parse_range("a=1e-4..1e-2").logarithmic
    assert not parse_range("a=1..9").logarithmic
    assert parse_range("a=1..9").whole


@pytest.mark.parametrize("text", ["optim.max_lr", "a=", "a=2..1", "a=x..y"])
def test_invalid_ranges(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_range(text)


def test_changes_of_a_recipe() -> None:
    """Values are validated; unknown keys are errors; the usual ranges are around the values of the recipe."""
    assert with_changes(TINY, {"optim.epochs": 7, "augment.speed": 1.3}).optim.epochs == 7
    for changes in ({"optim.speed": 1}, {"optim.epochs": 0}, {"optim.epochs.x": 1}):
        with pytest.raises(RecipeError):
            with_changes(TINY, changes)
    (rate, *_) = usual_ranges(TINY)
    assert rate.low < TINY.optim.max_lr < rate.high


@pytest.mark.slow
def test_search(data: Path, tmp_path: Path) -> None:
    """The best of the trials; the test fold is not read; the folder has a table and no models; more trials go on."""
    own = Path(shutil.copytree(data, tmp_path / "data"))
    for path in (own / "audio").glob("3-*.wav"):
        path.write_bytes(b"no sound")  # of the test fold
    recipe, ranges = changed(TINY, epochs=2), [parse_range("optim.max_lr=1e-7,0.01")]
    found = tune(recipe, load_esc50(own), 3, tmp_path / "search", ranges, 3)
    assert found.trials == 3
    with (tmp_path / "search" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert found.loss == pytest.approx(float(best["val_loss"]))
    assert with_changes(recipe, {"optim.max_lr": float(best["optim.max_lr"])}).optim.max_lr == float(
        found.changes.get("optim.max_lr", recipe.optim.max_lr)
    )
    assert not list((tmp_path / "search").glob("trial-*"))
    assert tune(recipe, load_esc50(own), 3, tmp_path / "search", ranges, 4).trials == 4
    few = replace(load_esc50(data), clips=load_esc50(data).clips[:3])  # a recording of each class
    with pytest.raises(RunError, match="nothing can be held out"):
        tune(recipe, replace(few, clips=(*few.clips, replace(few.clips[0], fold=3))), 3, tmp_path / "x", ranges, 2)


@pytest.mark.slow
def test_another_search_is_refused(data: Path, tmp_path: Path) -> None:
    """Losses of other data, another recipe or other ranges are not comparable: the folder holds one search."""
    dataset, recipe, ranges = load_esc50(data), changed(TINY, epochs=1), [parse_range("optim.max_lr=0.001,0.01")]
    tune(recipe, dataset, 3, tmp_path, ranges, 2)
    others = (
        (recipe, replace(dataset, clips=dataset.clips[:-1]), 2, ranges),
        (changed(recipe, batch=4), dataset, 3, ranges),
        (recipe, dataset, 3, [parse_range("optim.max_lr=0.001,0.02")]),
    )
    for other, sounds, fold, tried in others:
        with pytest.raises(RunError, match="choose another folder with --out"):
            tune(other, sounds, fold, tmp_path, tried, 3)


@pytest.mark.slow
def test_a_trial_that_diverges_does_not_end_the_search(data: Path, tmp_path: Path) -> None:
    """It counts as stopped; where all of them diverge, the error says what to try."""
    dataset, recipe = load_esc50(data), changed(TINY, epochs=2, optimizer="sgd", clip_norm=1e30)
    found = tune(recipe, dataset, 3, tmp_path / "some", [parse_range("optim.max_lr=1e38,0.01")], 6)
    assert float(found.changes.get("optim.max_lr", recipe.optim.max_lr)) == 0.01
    assert found.stopped >= 1
    with pytest.raises(RunError, match="lower values of"):
        tune(recipe, dataset, 3, tmp_path / "all", [parse_range("optim.max_lr=1e37,1e38")], 2)


@pytest.mark.slow
def test_interrupted_search_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial that Ctrl-C ends is none of those that were asked for, and the next command makes up for it."""
    dataset, recipe, ranges = load_esc50(data), changed(TINY, epochs=1), [parse_range("optim.max_lr=0.001,0.01")]

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.tune.train", stop)
        with pytest.raises(KeyboardInterrupt):
            tune(recipe, dataset, 3, tmp_path, ranges, 2)
    assert tune(recipe, dataset, 3, tmp_path, ranges, 2).trials == 2
    with (tmp_path / "trials.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["fail", "complete", "complete"]


@pytest.mark.slow
def test_command(data: Path, tmp_path: Path) -> None:
    """The printed command trains with the best values."""
    (tmp_path / "tiny.yaml").write_text(to_yaml(changed(TINY, epochs=1)))
    given = ("--data", data, "--recipe", tmp_path / "tiny.yaml", "--out", tmp_path / "search", "--trials", 2)
    result = CliRunner().invoke(app, ["tune", *map(str, given), "--try", "optim.max_lr=0.001,0.02"])
    assert result.exit_code == 0, result.output
    command = next(line for line in result.output.splitlines() if line.startswith("Train with it: "))
    words = shlex.split(command)
    changes = {key: value for key, _, value in (word.partition("=") for word in words) if value}
    assert load_recipe(str(tmp_path / "tiny.yaml"), changes).optim.max_lr in (0.001, 0.02)
