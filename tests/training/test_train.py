"""The training loop: from a recipe to a model directory."""

import errno
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from tests.support.sounds import chirp, encode
from tests.support.tiny_recipe import changed
from training.data.base import Clip, hold_out, load_windows, stopping_and_calibration
from training.data.esc50 import load_esc50
from training.diagnostics import find_learning_rate
from training.errors import RunError
from training.eval.calibrate import fit_temperature
from training.eval.evaluate import evaluate
from training.eval.predict import predict, service_precision
from training.fit.averaging import WeightAverage
from training.fit.loop import train
from training.fit.run_state import CHECKPOINT, RunState, lock_run, resumable, save_checkpoint
from training.recipe import DistillRecipe, OpenSetRecipe, OptimRecipe, Recipe, TransferRecipe, load_recipe, to_yaml
from worker.model.checkpoint import load_model


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def test_training_learns(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Tones and noise are classified correctly on an unseen fold; the recipe is saved beside the weights."""
    config = train(changed(recipe, epochs=12), load_esc50(data), 3, tmp_path / "run")
    evaluation = evaluate(tmp_path / "run", load_esc50(data))
    assert evaluation.fold == 3
    assert (evaluation.predicted == evaluation.truth).mean() > 0.9
    assert config.classes == ("low", "high", "noise")
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")) == changed(recipe, epochs=12)
    assert load_model(tmp_path / "run").config == config


def at_step(steps: int, patch: pytest.MonkeyPatch, callback: Callable[[], None]) -> None:
    """Call a function during the given step of the next run."""
    import training.fit.loop as module

    kept, taken = module.set_schedule, 0

    def count(*arguments: Any) -> float:
        nonlocal taken
        taken += 1
        if taken == steps:
            callback()
        return kept(*arguments)

    patch.setattr(module, "set_schedule", count)


def send_sigint() -> None:
    """Call the handler of SIGINT. A real signal, which has ended this process at times, is sent in test_commands.py."""
    handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    handler(signal.SIGINT, None)


def crash() -> None:
    raise MemoryError


def counted_steps(patch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns a function that returns the number of optimizer steps since."""
    taken = 0
    kept = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        return kept(self, *arguments)

    patch.setattr(torch.optim.AdamW, "step", step)
    return lambda: taken


@pytest.mark.parametrize("steps", [2, 3, 10])  # in the middle of an epoch, at its end, in a later one
@pytest.mark.parametrize(
    "options", [{}, {"average": "swa", "optimizer": "sgd", "holdout": 0.25, "patience": 4}, {"optimizer": "muon"}]
)
def test_resumed_run_equals_an_uninterrupted_one(
    data: Path, recipe: Recipe, tmp_path: Path, steps: int, options: dict[str, object]
) -> None:
    """Ctrl-C saves; the resumed run gives identical weights on a CPU, wherever it was interrupted."""
    dataset = load_esc50(data)
    recipe = changed(recipe, epochs=6, **options)
    train(recipe, dataset, 3, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        at_step(steps, patch, send_sigint)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, dataset, 3, tmp_path / "interrupted")
    assert not (tmp_path / "interrupted" / "config.json").exists()
    train(recipe, dataset, 3, tmp_path / "interrupted", resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "interrupted")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_crashed_run_resumes_from_its_last_checkpoint(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Not from the last complete epoch, which may be long ago; weights and logged images equal those of an
    uninterrupted run."""
    dataset, recipe = load_esc50(data), changed(recipe, epochs=2)
    train(recipe, dataset, 3, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.fit.loop._SAVE_SECONDS", 0.0)
        patch.setattr("training.fit.loop._SAVE_SHARE", math.inf)
        at_step(3, patch, crash)
        with pytest.raises(MemoryError):
            train(recipe, dataset, 3, tmp_path / "interrupted")
    assert torch.load(tmp_path / "interrupted" / CHECKPOINT, weights_only=True)["progress"]["step"] == 2
    train(recipe, dataset, 3, tmp_path / "interrupted", resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "interrupted")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [event.step for event in read_events(tmp_path / "interrupted").Images("input")] == [1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "max_lr": 0.05, "schedule": "one_cycle"},
        {"optimizer": "muon"},
        {"batch": 4, "accumulate": 2},
        {"average": "swa", "swa_share": 0.5},
        {"average": "none", "schedule": "one_cycle"},
        {"holdout": 0.25},
    ],
    ids=str,
)
def test_training_options_learn(data: Path, recipe: Recipe, tmp_path: Path, options: dict[str, object]) -> None:
    """Optimizers, schedules, weight averages, gradient accumulation, hold-out."""
    train(changed(recipe, epochs=12, **options), load_esc50(data), 3, tmp_path / "run")
    evaluation = evaluate(tmp_path / "run", load_esc50(data))
    assert (evaluation.predicted == evaluation.truth).mean() > 0.8


def test_gradient_accumulation(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """An epoch has as many optimizer steps as with the whole batch."""
    dataset = load_esc50(data)
    recipe = recipe.model_copy(update={"open_set": OpenSetRecipe(background=0)})  # its steps are not counted
    steps: dict[str, int] = {}
    for name, options in (("whole", {"batch": 8}), ("parts", {"batch": 4, "accumulate": 2})):
        with pytest.MonkeyPatch.context() as patch:
            count = counted_steps(patch)
            train(changed(recipe, epochs=1, **options), dataset, 3, tmp_path / name)
            steps[name] = count()
    assert steps == {"whole": 3, "parts": 3}


def read_events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def scalars(run: Path, name: str) -> list[Any]:
    return list(read_events(run).Scalars(name))


def test_early_stopping_keeps_the_best_and_fits_a_temperature(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """A run that does not improve ends after `patience` epochs, with the weights of its best epoch; the temperature is
    fitted on other recordings than those that stop it."""
    optim = recipe.optim.model_copy(
        update={"epochs": 60, "max_lr": 0.05, "holdout": 0.5, "patience": 2, "average": "none"}
    )
    config = train(recipe.model_copy(update={"optim": optim}), load_esc50(data), 3, tmp_path / "run")
    losses = [event.value for event in scalars(tmp_path / "run", "val_loss")]
    assert len(losses) == losses.index(min(losses)) + 1 + 2 < 60
    model = load_model(tmp_path / "run")
    held = hold_out(load_esc50(data).split(3)[0], 0.5, recipe.seed)[1]
    stopping, calibration = stopping_and_calibration(held, 2, recipe.seed)
    assert {clip.source for clip in stopping}.isdisjoint(clip.source for clip in calibration)

    def outputs(clips: list[Clip]) -> tuple[torch.Tensor, torch.Tensor]:
        waves, of = load_windows(clips, 8_000, 8_000)
        logits = predict(model.frontend, model.network, waves, service_precision())[0]
        return logits, torch.tensor([clips[index].label for index in of])

    assert functional.cross_entropy(*outputs(stopping)).item() == pytest.approx(min(losses), rel=0.02, abs=2e-3)
    assert config.temperature == pytest.approx(fit_temperature(*outputs(calibration)), rel=0.02)


def test_swa_recomputes_batch_statistics() -> None:
    """Averaged weights have the statistics of their own activations, not an average of those of other weights."""
    layers = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1), torch.nn.Dropout(0.5))
    average = WeightAverage(layers, OptimRecipe(average="swa", epochs=4, swa_share=0.5))
    features = torch.tensor([[1.0], [2.0], [3.0], [6.0]])
    for epoch, weight in ((3, 1.0), (4, 3.0)):
        layers[0].weight.data.fill_(weight)
        for _ in range(100):
            layers(features)
        average.after_epoch(epoch)
    state = torch.get_rng_state()
    average.recompute_statistics([features])
    norm = average.module.get_submodule("1")
    assert norm.running_mean.item() == pytest.approx(2 * 3.0)
    assert norm.running_var.item() == pytest.approx(2**2 * features.var().item()), "the mean of 1 and 9 is 5"
    assert torch.equal(torch.get_rng_state(), state), "a resumed run draws the same numbers"


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file, and the state that was saved before can be resumed."""

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(RunError, match=rf"{CHECKPOINT} cannot be written, nothing has been saved"):
            save_checkpoint(tmp_path, {"step": 0})
    save_checkpoint(tmp_path, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(RunError, match="the last saved state is kept"):
            save_checkpoint(tmp_path, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert torch.load(tmp_path / CHECKPOINT) == {"step": 1}


def test_interrupted_after_the_last_step(
    data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scorer and the thresholds take longer than a short training: Ctrl-C there loses none of its steps."""
    dataset, epochs = load_esc50(data), list[int]()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.fit.loop.fit_answers", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, dataset, 3, tmp_path / "stopped")
    assert resumable(tmp_path / "stopped")
    train(recipe, dataset, 3, tmp_path / "stopped", resume=True, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert not epochs
    train(recipe, dataset, 3, tmp_path / "whole")
    stopped, whole = weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    assert all(torch.equal(stopped[name], whole[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["save_model", "save_open_set"])
def test_full_disk_at_the_end_is_resumed(
    data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The error names the folder; a model of which only a part could be written is not taken for a finished one."""
    monkeypatch.setattr("training.fit.loop._SAVE_SECONDS", 0.0)
    monkeypatch.setattr("training.fit.loop._SAVE_SHARE", math.inf)
    dataset, out = load_esc50(data), tmp_path / "run"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            "training.fit.loop.save_model" if step == "save_model" else "training.fit.answers.save_open_set", full
        )
        with pytest.raises(
            RunError, match=rf"{out} cannot be written, the last saved state is kept: .*: No space left"
        ):
            train(recipe, dataset, 3, out)
    assert (out / CHECKPOINT).is_file()
    train(recipe, dataset, 3, out, resume=True)
    assert load_model(out).open_set is not None
    assert not (out / CHECKPOINT).exists()


def test_a_slow_checkpoint_is_written_less_often(
    data: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a large network takes seconds. Here it is written after the first step and at the end."""
    monkeypatch.setattr("training.fit.loop._SAVE_SECONDS", 0.0)
    save, saved = RunState.save, []

    def slow(state: RunState, *arguments: Any) -> None:
        saved.append(state)
        time.sleep(1)
        save(state, *arguments)

    monkeypatch.setattr(RunState, "save", slow)
    train(recipe, load_esc50(data), 3, tmp_path / "run")
    assert len(saved) == 2


def test_patience_needs_a_validation_set(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Folds have no validation set of their own."""
    with pytest.raises(RunError, match=r"patience needs a validation set: set optim\.holdout"):
        train(changed(recipe, patience=3), load_esc50(data), 3, tmp_path / "run")


def test_distillation(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """A student learns without any true label in its loss; a teacher trained on the test fold is rejected."""
    dataset = load_esc50(data)
    train(changed(recipe, epochs=12), dataset, 3, tmp_path / "teacher")
    distilled = changed(recipe, epochs=12).model_copy(update={"distill": DistillRecipe(weight=1.0)})
    config = train(distilled, dataset, 3, tmp_path / "student", teachers=[tmp_path / "teacher"])
    teacher = load_model(tmp_path / "teacher").config
    assert config.training["teachers"] == [{"name": teacher.name, "weights": teacher.weights_sha256}]
    evaluation = evaluate(tmp_path / "student", dataset)
    assert (evaluation.predicted == evaluation.truth).mean() > 0.8
    with pytest.raises(RunError, match="would leak the test labels"):
        train(distilled, dataset, 2, tmp_path / "cheat", teachers=[tmp_path / "teacher"])
    with pytest.raises(RunError, match=r"require a distill\.weight above 0"):
        train(distilled, dataset, 3, tmp_path / "alone")
    with pytest.raises(RunError, match="teacher"):
        train(distilled, dataset, 3, tmp_path / "alone", teachers=[tmp_path / "missing"])


def test_teacher_in_the_recipe_is_trained_first(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """One command trains the teacher without the test fold, then the student; both can be resumed."""
    dataset = load_esc50(data)
    first = tmp_path / "first.yaml"
    first.write_text(to_yaml(changed(recipe, epochs=4)))
    distill = DistillRecipe(weight=0.5, teacher=str(first))
    distilled = changed(recipe, epochs=4).model_copy(update={"distill": distill})
    with pytest.raises(RunError, match="no run to resume"):
        train(distilled, dataset, 3, tmp_path / "run", resume=True)
    config = train(distilled, dataset, 3, tmp_path / "run")
    teacher = load_model(tmp_path / "run" / "teacher").config
    assert teacher.training["test_fold"] == 3
    assert [one["weights"] for one in config.training["teachers"]] == [teacher.weights_sha256]

    whole = (tmp_path / "run" / "model.safetensors").read_bytes()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    assert resumable(tmp_path / "run")
    train(distilled, dataset, 3, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == whole
    with pytest.raises(RunError, match="already holds a run"):
        train(distilled, dataset, 3, tmp_path / "run")


def test_a_teacher_does_not_learn_what_the_student_holds_out(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """The same clips, by share and seed: the student would be stopped and calibrated on what it has been taught."""
    first = tmp_path / "first.yaml"
    first.write_text(to_yaml(changed(recipe, epochs=1)))
    distill = DistillRecipe(weight=0.5, teacher=str(first))
    student = changed(recipe, epochs=1, holdout=0.25).model_copy(update={"seed": 7, "distill": distill})
    train(student, load_esc50(data), 3, tmp_path / "run")
    of_teacher, of_student = (
        np.load(folder / "training_sounds.npy") for folder in (tmp_path / "run" / "teacher", tmp_path / "run")
    )
    assert set(of_teacher) == set(of_student)
    assert len(of_student) < 24


def test_student_is_validated_before_its_teacher_is_trained(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """An error that takes a minute to detect is raised before hours of training."""
    first = tmp_path / "first.yaml"
    first.write_text(to_yaml(changed(recipe, epochs=1)))
    distill = DistillRecipe(weight=0.5, teacher=str(first))
    distilled = changed(recipe, accumulate=16).model_copy(update={"distill": distill})
    with pytest.raises(RunError, match="24 training windows are too few for one step of 16 batches"):
        train(distilled, load_esc50(data), 3, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batch_larger_than_the_data_fits_itself(
    data: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe for thousands of recordings also trains on a few, and states what it changes and what is missing."""
    train(changed(recipe, batch=64, epochs=1), load_esc50(data), 3, tmp_path / "run")
    output = capsys.readouterr()
    said = output.out + output.err
    assert "batches of 24 instead of 64: there are 24 training windows" in said
    assert "no clips are held out: the run does not stop early, and its confidences are not calibrated" in said


def test_tensorboard_shows_the_run(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Loss, accuracy and learning rate of every epoch, augmented input, the confusion matrix of the validation set."""
    train(changed(recipe, epochs=2, holdout=0.25), load_esc50(data), 3, tmp_path / "run")
    events = read_events(tmp_path / "run")
    assert set(events.Tags()["scalars"]) == {"loss", "accuracy", "lr", "val_loss", "val_accuracy"}
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert set(events.Tags()["images"]) == {"input", "confusion"}


def test_run_is_not_resumed_with_changed_files(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Clips that have become longer under the same names: the steps per epoch differ."""
    copy = Path(shutil.copytree(data, tmp_path / "copy"))
    dataset, recipe = load_esc50(copy), changed(recipe, epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        at_step(2, patch, send_sigint)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, dataset, 3, tmp_path / "run")
    for path in (copy / "audio").glob("1-*"):
        path.write_bytes(encode(chirp(3.0, 8_000), 8_000, "WAV", "PCM_16"))
    with pytest.raises(RunError, match="24 windows of sound, and there are 72 now"):
        train(recipe, dataset, 3, tmp_path / "run", resume=True)


def test_checkpoint_of_another_version_is_not_resumed(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Unknown or missing fields would be lost silently."""
    dataset, recipe = load_esc50(data), changed(recipe, epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        at_step(2, patch, send_sigint)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, dataset, 3, tmp_path / "run")
    checkpoint = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)
    del checkpoint["progress"]["best_weights"]
    torch.save(checkpoint, tmp_path / "run" / CHECKPOINT)
    with pytest.raises(RunError, match="written by another version"):
        train(recipe, dataset, 3, tmp_path / "run", resume=True)


def test_seed_determines_the_weights(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """The same seed gives the same weights, another seed gives others."""
    dataset = load_esc50(data)
    recipe = changed(recipe, epochs=1)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(recipe.model_copy(update={"seed": seed}), dataset, 3, tmp_path / name)
    first, same, other = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_run_is_never_overwritten(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """A folder that holds a run is rejected; so is resuming with another recipe or fold, or without a run."""
    dataset = load_esc50(data)
    recipe = changed(recipe, epochs=1)
    train(recipe, dataset, 3, tmp_path / "run")
    with pytest.raises(RunError, match="already holds a run"):
        train(recipe, dataset, 3, tmp_path / "run")
    with pytest.raises(RunError, match="another recipe"):
        train(recipe, dataset, 2, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="no run to resume"):
        train(recipe, dataset, 3, tmp_path / "nothing", resume=True)
    assert not (tmp_path / "run" / CHECKPOINT).exists()  # only the model directory remains
    kept = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    train(recipe, dataset, 3, tmp_path / "run", resume=True)  # finished: nothing to do
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == kept
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / CHECKPOINT).write_bytes(b"not a state")
    with pytest.raises(RunError, match="cannot be read"):
        train(recipe, dataset, 3, tmp_path / "bad", resume=True)


def test_no_clip_of_the_test_fold_is_decoded(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Training succeeds although all files of the test fold are damaged."""
    copy = Path(shutil.copytree(data, tmp_path / "copy"))
    for path in (copy / "audio").glob("3-*"):
        path.write_bytes(b"")
    train(changed(recipe, epochs=1), load_esc50(copy), 3, tmp_path / "run")


def test_two_processes_cannot_train_into_one_folder(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """The second one is refused while the first one holds the folder; nothing of it remains after an error."""
    with lock_run(tmp_path / "run"), pytest.raises(RunError, match="another process is training into"):
        train(changed(recipe, epochs=1), load_esc50(data), 3, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_frozen_random_trunk_is_refused(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """By training and by the learning-rate range test."""
    frozen = recipe.model_copy(update={"start": TransferRecipe(head_epochs=2)})
    for start in (train, find_learning_rate):
        with pytest.raises(RunError, match="freezes the trunk, but its weights are random"):
            start(frozen, load_esc50(data), 3, tmp_path / "run")
    assert not (tmp_path / "run").exists()
