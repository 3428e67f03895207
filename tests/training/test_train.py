"""A run from a recipe to a model directory."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import changed
from training.dataset import load_esc50
from training.errors import RunError
from training.evaluate import evaluate
from training.recipe import Cycle, OptimRecipe, Recipe, load_recipe
from training.train import STATE, learning_rate, train
from worker.model.checkpoint import load_model


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def test_training_learns_what_can_be_learned(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Tones and noise are told apart on a fold that was never seen; the recipe is saved beside the weights."""
    config = train(changed(recipe, epochs=12), load_esc50(data), 3, tmp_path / "run")
    evaluation = evaluate(tmp_path / "run", load_esc50(data))
    assert evaluation.fold == 3
    assert (evaluation.predicted == evaluation.truth).mean() > 0.9
    assert config.classes == ("low", "high", "noise")
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")) == changed(recipe, epochs=12)
    assert load_model(tmp_path / "run").config == config


def test_resumed_run_equals_an_unbroken_one(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Bit for bit on a CPU, across a restart of the schedule as well."""
    dataset = load_esc50(data)
    recipe = changed(recipe, epochs=2, restarts=(Cycle(epochs=2, max_lr=0.005),))
    train(recipe, dataset, 3, tmp_path / "whole")

    class Interrupted(Exception):
        pass

    import training.train as module

    kept = module._save_state

    def interrupt(out: Path, state: dict[str, object]) -> None:
        kept(out, state)
        if state["epoch"] == 3:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_save_state", interrupt)
        with pytest.raises(Interrupted):
            train(recipe, dataset, 3, tmp_path / "broken")
    train(recipe, dataset, 3, tmp_path / "broken", resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_seed_decides_everything(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """The same seed gives the same weights, another one others."""
    dataset = load_esc50(data)
    recipe = changed(recipe, epochs=1)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(recipe.model_copy(update={"seed": seed}), dataset, 3, tmp_path / name)
    first, same, other = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_run_is_never_overwritten_or_mixed_up(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """A folder that holds a run is refused; so is resuming with another recipe, fold, or where there is none."""
    dataset = load_esc50(data)
    recipe = changed(recipe, epochs=1)
    train(recipe, dataset, 3, tmp_path / "run")
    with pytest.raises(RunError, match="already holds a run"):
        train(recipe, dataset, 3, tmp_path / "run")
    with pytest.raises(RunError, match="another recipe"):
        train(recipe, dataset, 2, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="no run to resume"):
        train(recipe, dataset, 3, tmp_path / "nothing", resume=True)
    (tmp_path / "run" / STATE).write_bytes(b"not a state")
    with pytest.raises(RunError, match="cannot be read"):
        train(recipe, dataset, 3, tmp_path / "run", resume=True)


def test_no_clip_of_the_test_fold_is_decoded(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Training goes through with the test fold's sounds broken: they are not looked at."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for path in (copy / "audio").glob("3-*"):
        path.write_bytes(b"")
    train(changed(recipe, epochs=1), load_esc50(copy), 3, tmp_path / "run")


def test_learning_rate_rises_and_falls_once_a_cycle() -> None:
    """From a twenty-fifth to the peak to a thousandth, and again for every restart."""
    optim = OptimRecipe(epochs=10, max_lr=1.0, warmup=0.2, restarts=(Cycle(epochs=5, max_lr=0.5),))
    rates = [learning_rate(step, 10, optim) for step in range(150)]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == rates[20] == pytest.approx(1.0)
    assert rates[99] < 0.002
    assert rates[100] == pytest.approx(0.02)
    assert max(rates[100:]) == rates[110] == pytest.approx(0.5)
    assert rates[149] < 0.002
