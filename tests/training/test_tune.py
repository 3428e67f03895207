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
