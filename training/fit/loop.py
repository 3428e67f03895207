"""The training loop: `train` is written to be read from top to bottom.

No clip of the test fold is decoded before the weights are final, so the test fold cannot influence any choice. The
checkpoint holds everything on which the next step depends. A resumed run therefore equals an uninterrupted one; bit for
bit on a CPU with the same number of threads. Several processes that torchrun starts share each batch
(`training/fit/processes.py`); the first one measures and writes.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, nn
from tqdm import tqdm

from training.data.base import Clip, Dataset, Fold, stopping_and_calibration
from training.data.fingerprint import save_training_sounds
from training.data.windows import StoredWindows
from training.errors import DivergedError, RunError
from training.eval.calibrate import fit_temperature
from training.eval.metrics import confusion_matrix
from training.eval.plots import save_learning_curves
from training.eval.predict import predict, service_precision
from training.fit import processes
from training.fit.answers import fit_answers, threshold_clips
from training.fit.averaging import WeightAverage
from training.fit.distillation import check_teachers, load_teachers
from training.fit.graceful_stop import GracefulStop
from training.fit.history import CURVE, History, curve_lines
from training.fit.loss import TrainingLoss, hit_rate
from training.fit.optim import make_optimizer, unfreeze
from training.fit.parts import check_parts
from training.fit.pretrained import check_pretrained, check_start
from training.fit.probe import fit_probe
from training.fit.run_state import (
    Progress,
    RunState,
    check_run_folder,
    delete_checkpoint,
    has_run,
    is_finished,
    lock_run,
    open_run,
    run_identity,
    teacher_directory,
    written,
)
from training.fit.schedule import set_schedule
from training.fit.setup import (
    LabelledWindows,
    TrainingSetup,
    class_weights,
    epoch_order,
    load_labelled_windows,
    set_up_training,
)
from training.fit.trackers import TENSORBOARD, Trackers
from training.progress import progress_bar
from training.recipe import Recipe, for_fine_tuning, load_recipe, to_yaml
from worker.model.base import Network, parameters
from worker.model.checkpoint import Model, ModelConfig, read_config, save_model
from worker.model.precision import autocast

OnEpoch = Callable[[int, Mapping[str, float]], None]
"""Called with the number of an epoch and its metrics: loss, accuracy, lr, and val_loss and val_accuracy if clips are
held out."""

RECIPE = "recipe.yaml"
_LISTED = 10  # skipped files
_SAVE_SECONDS = 30.0  # between two checkpoints at least
_SAVE_SHARE = 0.02  # of the time that saving may take: that of a large network takes seconds


def train(
    recipe: Recipe, dataset: Dataset, test_fold: Fold, out: Path, *,
    teachers: Sequence[Path] = (), pretrained: Model | None = None, resume: bool = False,
    threshold_fold: Fold | None = None, on_epoch: OnEpoch | None = None, trackers: Sequence[str] = (TENSORBOARD,),
) -> ModelConfig:  # fmt: skip
    """Train on all folds but `test_fold`, write a model directory to `out`, and return its config.

    `teachers` are model directories for distillation. `pretrained` is a model to fine-tune, with its own classes; its
    architecture and front end replace those of the recipe. If the recipe holds no clips out, the thresholds of the
    answers are fitted on `threshold_fold`, which may be the test fold: the weights are final by then. SIGINT and
    SIGTERM save a checkpoint and raise KeyboardInterrupt; `resume` continues from it. `on_epoch` is called after every
    epoch with its number, from 1 on, and its metrics; what it raises ends the run. `trackers` are names of what records
    the run (`training/fit/trackers.py`). Raises RunError, DatasetError and RecipeError; RunError also if another
    process trains into `out`.
    """
    with (
        processes.joined(),
        lock_run(out) if processes.is_first() else nullcontext(),
        Trackers(trackers if processes.is_first() else ()) as tracking,
    ):
        if pretrained:
            check_pretrained(pretrained, dataset, test_fold)
            recipe = for_fine_tuning(recipe, pretrained.config)
        run = _Run(recipe, dataset, test_fold, out, tuple(teachers), pretrained, threshold_fold)
        return _train(run, resume, on_epoch, tracking)


@dataclass(frozen=True)
class _Run:
    """What is trained, from what, and where to; as the arguments of `train`."""

    recipe: Recipe
    dataset: Dataset
    test_fold: Fold
    out: Path
    teachers: tuple[Path, ...]
    pretrained: Model | None
    threshold_fold: Fold | None


def _train(run: _Run, resume: bool, on_epoch: OnEpoch | None, tracking: Trackers) -> ModelConfig:
    recipe, dataset, test_fold, out = run.recipe, run.dataset, run.test_fold, run.out
    check_run_folder(out, resume)
    check_start(recipe, run.pretrained)
    check_parts(recipe)
    first = processes.is_first()
    optim = recipe.optim
    clips, held_out_clips = dataset.train_validation_split(test_fold, optim.holdout, recipe.seed)
    if optim.patience and not (optim.holdout or held_out_clips):
        raise RunError(
            "optim.patience needs a validation set: set optim.holdout; the test fold is not used for early stopping"
        )
    if recipe.distill.weight > 0 and recipe.distill.teacher and not run.teachers:
        if len(clips) < 2 * optim.accumulate:  # otherwise the clips suffice: each has at least one window
            batch_size(recipe, load_labelled_windows(recipe, dataset, clips, torch.device("cpu")))
        teacher = train_teacher(recipe, dataset, test_fold, out, run.pretrained, resume=resume, trackers=tracking.names)
        run = replace(run, teachers=(teacher,))
        resume = resume and has_run(out)
    check_teachers(recipe.distill, run.teachers)
    identity = run_identity(recipe, dataset, test_fold, len(clips), run.teachers, run.pretrained)
    if resume and is_finished(out, identity):
        return read_config(out)
    checkpoint = open_run(out, identity, resume)
    if first:
        with written(out, RECIPE):
            (out / RECIPE).write_text(to_yaml(recipe), encoding="utf-8")

    setup = set_up_training(recipe, dataset, clips, run.pretrained)
    device, windows, network = setup.device, setup.windows, setup.network
    batch = batch_size(recipe, windows)
    steps = len(windows) // (batch * optim.accumulate)  # per epoch; the windows of the rest are others in every epoch
    stopping_clips, calibration_clips = stopping_and_calibration(held_out_clips, optim.patience, recipe.seed)
    held_out = load_labelled_windows(recipe, dataset, stopping_clips, device) if held_out_clips else None
    rate = recipe.frontend.sample_rate
    teacher_ensemble = load_teachers(run.teachers, dataset, test_fold, rate, device) if run.teachers else None
    loss_of = TrainingLoss(recipe, setup, teacher_ensemble)
    if recipe.start.probe and not checkpoint:
        balance = class_weights(windows.targets) if optim.balance else None
        known = windows.targets if windows.multi_label else windows.labels
        only_head = recipe.start.head_epochs >= optim.epochs
        fit_probe(setup.frontend, network, windows.waves, known, balance, frozen=only_head)
    if not first:
        torch.manual_seed(recipe.seed + processes.rank())  # dropout: each process has other windows
    optimizer, average = make_optimizer(network, optim, recipe.start.lr_decay), WeightAverage(network, optim)
    generator, progress = Generator().manual_seed(recipe.seed), Progress()
    state = RunState(network, average, optimizer, generator, progress)
    if checkpoint:
        state.load(out, checkpoint, len(windows), device)
    where = f"{device}, {processes.size()} processes" if processes.size() > 1 else device
    a_step = "step" if steps == 1 else "steps"
    tqdm.write(f"{parameters(network):,} parameters, {len(windows):,} windows, {steps} {a_step} per epoch, {where}")
    _print_notes(run, windows, stopping_clips, calibration_clips)
    tracking.start(recipe, out, progress.step // steps)
    history = History(out, progress.step // steps)
    total = optim.epochs * steps
    last_saved, pause = time.monotonic(), _SAVE_SECONDS
    frozen = unfreeze(network, progress.step // steps, recipe.start)
    forward = processes.parallel(network)
    with (
        GracefulStop() as graceful_stop,
        progress_bar(total=total, initial=progress.step, unit="step", desc="train", hidden=not first) as bar,
    ):
        while progress.step < total and not progress.stopped:
            epoch, step_in_epoch = divmod(progress.step, steps)
            if step_in_epoch == 0:
                before, frozen = frozen, unfreeze(network, epoch, recipe.start)
                if frozen != before:
                    forward = processes.parallel(network)
                progress.order = epoch_order(windows, generator, balanced=optim.balanced_sampling)
                progress.loss = torch.zeros((), device=device)
                progress.accuracy = torch.zeros((), device=device)
            lr = set_schedule(optimizer, progress.step, total, optim)
            crop = progress.step < recipe.augment.crop_until * total

            optimizer.zero_grad(set_to_none=True)
            for micro_batch in range(optim.accumulate):
                start = (step_in_epoch * optim.accumulate + micro_batch) * batch
                rows = progress.order[start : start + batch]
                whole = setup.augmented_batch(rows, recipe, generator, crop=crop)
                waves, features, targets = map(processes.share, whole)
                with processes.accumulate(forward, last=micro_batch == optim.accumulate - 1):
                    with autocast(device, optim.precision), processes.whole_batch():
                        logits = forward(features).float()  # (batch, classes)
                    loss = loss_of(logits, targets, waves)
                    (loss / optim.accumulate).backward()  # type: ignore[no-untyped-call]
                measured = processes.mean(torch.stack([loss.detach(), hit_rate(logits, targets)]))
                progress.loss += measured[0] / (steps * optim.accumulate)
                progress.accuracy += measured[1] / (steps * optim.accumulate)
            nn.utils.clip_grad_norm_(network.parameters(), optim.clip_norm)
            optimizer.step()
            average.after_step()
            progress.step += 1
            bar.update()
            if tracking.wants_input(epoch + 1):
                tracking.log_input(epoch + 1, features)

            if step_in_epoch == steps - 1:
                average.after_epoch(epoch + 1)
                if first and average.averages(epoch + 1) and (held_out or progress.step == total):
                    average.recompute_statistics(setup.plain_batches(batch))
                metrics = {"loss": progress.loss.item(), "accuracy": progress.accuracy.item(), "lr": lr}
                if not math.isfinite(metrics["loss"]):
                    raise DivergedError(
                        f"the loss of epoch {epoch + 1} is not finite: start a new run with a lower optim.max_lr"
                    )
                if first:
                    if held_out:
                        metrics |= progress.validate(setup, average, held_out, optim.patience)
                    tracking.log_epoch(epoch + 1, metrics)
                    history.add(epoch + 1, metrics)
                    if on_epoch:
                        on_epoch(epoch + 1, metrics)
                bar.set_postfix(epoch=f"{epoch + 1}/{optim.epochs}", **{k: f"{v:.3g}" for k, v in metrics.items()})
            stopping, saving, progress.stopped = processes.anywhere(
                graceful_stop.requested, time.monotonic() - last_saved > pause, progress.stopped
            )
            if stopping or saving:
                began = time.monotonic()
                state.save(out, identity, device)
                last_saved = time.monotonic()
                pause = max(_SAVE_SECONDS, (last_saved - began) / _SAVE_SHARE)
            if stopping:
                raise KeyboardInterrupt

    state.save(out, identity, device)  # what follows takes longer than a few steps, and may be interrupted as well
    if not first:
        processes.wait()  # until the model is written
        return read_config(out)
    final = average.module
    if progress.best_weights is not None:
        final.load_state_dict(progress.best_weights)
    temperature = 1.0
    if held_out:
        same = stopping_clips == calibration_clips
        unseen = held_out if same else load_labelled_windows(recipe, dataset, calibration_clips, device)
        logits = predict(setup.frontend, final, unseen.waves, service_precision())[0]
        if not unseen.multi_label:
            temperature = fit_temperature(logits, unseen.labels.cpu())
        matrix = confusion_matrix(unseen.labels.cpu().numpy(), logits.argmax(1).numpy(), len(dataset.classes))
        tracking.log_confusion(progress.step // steps, matrix, dataset.classes, "held-out part of the training folds")
    for line in curve_lines(history.rows):
        tqdm.write(line)
    with written(out, CURVE):
        save_learning_curves(out / CURVE, {recipe.name: history.rows})
    config = _write_model(run, identity, setup, cast(Network, final), temperature)
    delete_checkpoint(out)
    processes.wait()
    return config


def _print_notes(
    run: _Run, windows: LabelledWindows, stopping_clips: Sequence[Clip], calibration_clips: Sequence[Clip]
) -> None:
    """What to know about the data of a run: what is read from the disk, not held out, or left out."""
    if isinstance(windows.waves, StoredWindows) and windows.waves.nbytes > 2**30:
        size = windows.waves.nbytes / 2**30
        tqdm.write(f"{len(windows):,} windows would take {size:.1f} GB of memory: they are read from the disk")
    if not calibration_clips:
        tqdm.write("no clips are held out: the run does not stop early, and its confidences are not calibrated")
    elif run.recipe.optim.patience and stopping_clips == calibration_clips:
        tqdm.write("the clips that stop the run also calibrate it: a class has too few recordings for two parts")
    if run.dataset.left_out:
        tqdm.write(f"left out, by class: {', '.join(map(str, run.dataset.left_out))}")
    skipped = run.dataset.skipped
    for message in skipped[:_LISTED]:
        tqdm.write(f"skipped: {message}")
    if len(skipped) > _LISTED:
        tqdm.write(f"and {len(skipped) - _LISTED:,} more files")


def _write_model(
    run: _Run, identity: dict[str, Any], setup: TrainingSetup, network: Network, temperature: float
) -> ModelConfig:
    """Fit the answers of the trained network, and write the model directory; returns its config."""
    dataset, pretrained = run.dataset, run.pretrained
    config = ModelConfig(
        name=run.recipe.name,
        description=model_description(run.recipe, dataset, pretrained),
        architecture=network.config,
        frontend=setup.frontend.config,
        classes=dataset.classes,
        multi_label=dataset.multi_label,
        temperature=temperature,
        licence=combined_licence(dataset, pretrained),
        training=identity,
    )
    windows = setup.windows
    _, others = threshold_clips(dataset, run.test_fold, run.recipe, run.threshold_fold)
    trained = Model(config, setup.frontend, network)
    answers = fit_answers(trained, windows.waves, windows.targets, others, run.recipe.open_set)
    bases = [pretrained.directory] if pretrained and pretrained.directory else []
    with written(run.out):
        save_training_sounds(run.out, windows.waves, run.recipe.frontend.sample_rate, [*bases, *run.teachers])
        return replace(answers, config=save_model(run.out, network, answers.config)).save(run.out)


def batch_size(recipe: Recipe, windows: LabelledWindows) -> int:
    """Windows per forward pass: `optim.batch`, or fewer if the windows do not fill one step.

    Raises RunError if there are not two for each pass of a step, or if the processes cannot share a batch equally.
    """
    optim = recipe.optim
    processes.check_batch(optim.batch)
    batch = min(optim.batch, len(windows) // optim.accumulate)
    batch -= batch % processes.size()
    if batch < 2:
        raise RunError(
            f"{len(windows)} training windows are too few for one step of {optim.accumulate} batches of two or more:"
            " lower optim.accumulate, or add recordings"
        )
    if batch < optim.batch:
        tqdm.write(f"batches of {batch} instead of {optim.batch}: there are {len(windows)} training windows")
    return batch


def train_teacher(
    student: Recipe, dataset: Dataset, test_fold: Fold, out: Path, pretrained: Model | None, *, resume: bool,
    trackers: Sequence[str],
) -> Path:  # fmt: skip
    """Train the teacher of the run in `out`, in a sub-folder, before the student; returns that folder.

    It starts from the same pretrained model as the student, if there is one, and the clips that the student holds out
    are held out from it, too: it would teach them otherwise. A finished teacher is not trained again.
    """
    folder = teacher_directory(out)
    name = str(student.distill.teacher)
    taught = load_recipe(name)
    if student.optim.holdout:
        optim = taught.optim.model_copy(update={"holdout": student.optim.holdout})
        taught = taught.model_copy(update={"seed": student.seed, "optim": optim})
    tqdm.write(
        f"training the teacher first: {name}, {taught.optim.epochs} epochs, in {folder} (--set changes the student"
        " only; --teacher names a trained model instead)"
    )
    train(
        taught, dataset, test_fold, folder,
        pretrained=pretrained, resume=resume and has_run(folder), trackers=trackers,
    )  # fmt: skip
    return folder


def model_description(recipe: Recipe, dataset: Dataset, pretrained: Model | None) -> str:
    """One line for the model card."""
    start = "from scratch"
    if pretrained:
        start = f"from {pretrained.config.name}"
    elif recipe.start.weights != "random":
        start = "from ImageNet" if recipe.start.weights == "imagenet" else "from weights of another network"
    kind = recipe.network.title
    return f"{kind} for {len(dataset.classes)} classes of sound, trained {start} on {dataset.info.name}"


def combined_licence(dataset: Dataset, pretrained: Model | None) -> str:
    """The licence of the data and that of the pretrained weights: both apply."""
    both = (dataset.info.licence, pretrained.config.licence if pretrained else "")
    return "; ".join(dict.fromkeys(filter(None, both)))
