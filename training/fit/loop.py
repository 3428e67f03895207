"""Trains one network by a recipe: read `train` from top to bottom.

No clip of the test fold is looked at before the weights are final, so the test fold can choose nothing. The state holds
everything that the next step depends on, which makes a resumed run equal to an unbroken one: bit for bit on a CPU with
the same number of threads.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, nn
from tqdm import tqdm

from training.data.base import Dataset, Fold
from training.errors import RunError
from training.eval.calibrate import fit_temperature
from training.eval.metrics import confusion_matrix
from training.eval.predict import predict, service_precision
from training.fit.averaging import Average
from training.fit.distillation import check_teachers, load_teachers
from training.fit.graceful_stop import Interrupt
from training.fit.loss import Loss
from training.fit.optim import make_optimizer, unfreeze
from training.fit.pretrained import check_start
from training.fit.run_state import (
    Progress,
    begun,
    finished,
    forget_state,
    identify,
    open_run,
    resumable,
    save_state,
    teacher_of,
)  # fmt: skip
from training.fit.schedule import set_schedule
from training.fit.setup import Sounds, compiled, load_sounds, prepare
from training.fit.tensorboard import Board
from training.recipe import Recipe, continued, load_recipe, to_yaml
from worker.model.base import parameters
from worker.model.checkpoint import Model, ModelConfig, read_config, save_model
from worker.model.precision import autocast

RECIPE = "recipe.yaml"
_SAVE_SECONDS = 30.0  # between two saves of the state: saving must not be what takes the time


def train(
    recipe: Recipe, dataset: Dataset, test_fold: Fold, out: Path, *,
    teachers: Sequence[Path] = (), start_from: Model | None = None, resume: bool = False, compile: bool = False,
) -> ModelConfig:  # fmt: skip
    """Train on every fold but `test_fold` and write a model directory to `out`. Returns its config.

    `start_from` is a model to go on from, with classes of its own; the recipe is then `continued` from it. SIGINT and
    SIGTERM save the state and raise KeyboardInterrupt; `resume` goes on from it. Raises RunError and
    DatasetError.
    """
    if start_from:
        check_start(start_from, dataset, test_fold)
        recipe = continued(recipe, start_from.config)
    optim, rate = recipe.optim, recipe.frontend.sample_rate
    clips, held_clips = dataset.division(test_fold, optim.holdout, recipe.seed)
    if optim.patience and not (optim.holdout or held_clips):
        raise RunError("optim.patience needs an optim.holdout to look at: the fold under test is not there to stop by")
    if recipe.distill.weight > 0 and recipe.distill.teacher and not teachers:
        if len(clips) < optim.batch * optim.accumulate:  # else they do: each has a window, or more
            steps_of_epoch(recipe, load_sounds(recipe, dataset, clips, torch.device("cpu")))
        teachers = (train_teacher(recipe.distill.teacher, dataset, test_fold, out, resume=resume, compile=compile),)
        resume = resume and begun(out)
    check_teachers(recipe.distill, teachers)
    identity = identify(recipe, dataset, test_fold, len(clips), teachers, start_from)
    if resume and finished(out, identity):
        return read_config(out)
    state = open_run(out, identity, resume)
    (out / RECIPE).write_text(to_yaml(recipe), encoding="utf-8")

    ready = prepare(recipe, dataset, clips, start_from)
    device, sounds, network = ready.device, ready.sounds, ready.network
    on_gpu = device.type == "cuda"
    steps = steps_of_epoch(recipe, sounds)
    held = load_sounds(recipe, dataset, held_clips, device) if held_clips else None
    taught_by = load_teachers(teachers, dataset, test_fold, rate, device) if teachers else None
    forward = compiled(network) if compile else network
    loss_of = Loss(recipe, ready, taught_by)
    optimizer, average = make_optimizer(network, optim, recipe.start.lr_decay), Average(network, optim)
    generator = Generator().manual_seed(recipe.seed)
    progress = Progress()
    if state:
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**state["progress"]).to(device)
        if (before := len(progress.order)) != len(sounds):
            raise RunError(
                f"{out} was begun with {before:,} windows of sound, and there are {len(sounds):,} now: the sounds are"
                " others, or this version cuts them otherwise; begin anew in another folder"
            )
        generator.set_state(state["generator"])
        torch.set_rng_state(state["dropout"])
        if on_gpu and "gpu_dropout" in state:
            torch.cuda.set_rng_state(state["gpu_dropout"], device)

    def keep() -> None:
        save_state(out, {
            "identity": identity, "progress": vars(progress),
            "network": network.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(), "dropout": torch.get_rng_state(),
            **({"gpu_dropout": torch.cuda.get_rng_state(device)} if on_gpu else {}),
        })  # fmt: skip

    tqdm.write(f"{parameters(network):,} parameters, {len(clips)} clips, {steps} steps an epoch, {device}")
    board = Board(out, optim.epochs, progress.step // steps)
    total = optim.epochs * steps
    saved = time.monotonic()
    unfreeze(network, progress.step // steps, recipe.start)
    with Interrupt() as interrupt, tqdm(total=total, initial=progress.step, unit="step", desc="train") as bar:
        while progress.step < total and not progress.stopped:
            epoch, place = divmod(progress.step, steps)
            if place == 0:
                unfreeze(network, epoch, recipe.start)
                progress.order = torch.randperm(len(sounds), generator=generator)
                progress.loss = torch.zeros((), device=device)
                progress.right = torch.zeros((), device=device)
            lr = set_schedule(optimizer, progress.step, total, optim)
            crop = progress.step < recipe.augment.crop_until * total

            optimizer.zero_grad(set_to_none=True)
            for part in range(optim.accumulate):
                start = (place * optim.accumulate + part) * optim.batch
                rows = progress.order[start : start + optim.batch]
                waves, features, targets = ready.augmented(rows, recipe, generator, crop=crop)
                with autocast(device):
                    logits = forward(features).float()  # (batch, classes)
                loss = loss_of(logits, targets, waves)
                (loss / optim.accumulate).backward()  # type: ignore[no-untyped-call]
                progress.loss += loss.detach() / (steps * optim.accumulate)
                right = (logits.argmax(1) == targets.argmax(1)).float().mean()
                progress.right += right / (steps * optim.accumulate)
            nn.utils.clip_grad_norm_(network.parameters(), optim.clip_norm)
            optimizer.step()
            average.after_step()
            progress.step += 1
            bar.update()
            if board.wants_input(epoch + 1):
                board.input(epoch + 1, features)

            if place == steps - 1:
                average.after_epoch(epoch + 1)
                figures = {"loss": progress.loss.item(), "accuracy": progress.right.item(), "lr": lr}
                if not math.isfinite(figures["loss"]):
                    raise RunError(f"the loss of epoch {epoch + 1} is not finite: try a lower optim.max_lr elsewhere")
                if held:
                    figures |= progress.judge(ready, average, held, optim.patience)
                board.epoch(epoch + 1, figures)
                bar.set_postfix(epoch=f"{epoch + 1}/{optim.epochs}", **{k: f"{v:.3g}" for k, v in figures.items()})
            if interrupt.asked or time.monotonic() - saved > _SAVE_SECONDS:
                keep()
                saved = time.monotonic()
            if interrupt.asked:
                board.close()
                raise KeyboardInterrupt

    final = average.module
    if progress.best is not None:
        final.load_state_dict(progress.best)
    temperature = 1.0
    if held:
        logits = predict(ready.frontend, final, held.waves, service_precision())[0]
        temperature = fit_temperature(logits, held.labels.cpu())
        matrix = confusion_matrix(held.labels.cpu().numpy(), logits.argmax(1).numpy(), len(dataset.classes))
        board.confusion(progress.step // steps, matrix, dataset.classes, "held-out part of the training folds")
    board.close()
    config = ModelConfig(
        name=recipe.name,
        description=describe(recipe, dataset, start_from),
        architecture=network.config,
        frontend=ready.frontend.config,
        classes=dataset.classes,
        temperature=temperature,
        licence=terms(dataset, start_from),
        training=identity,
    )
    config = save_model(out, final, config)
    forget_state(out)
    return config


def steps_of_epoch(recipe: Recipe, sounds: Sounds) -> int:
    """How many these sounds fill; what is left over is another in every epoch. Raises RunError where it is none."""
    windows = recipe.optim.batch * recipe.optim.accumulate  # a step
    if len(sounds) < windows:
        raise RunError(f"{len(sounds)} training clips do not fill a step of {windows}: lower it")
    return len(sounds) // windows


def train_teacher(recipe: str, dataset: Dataset, test_fold: Fold, out: Path, *, resume: bool, compile: bool) -> Path:
    """The teacher of the run in `out`, trained inside it before the student or there already. Returns its folder."""
    if resume and not resumable(out):
        raise RunError(f"{out} holds no run to resume")
    folder = teacher_of(out)
    tqdm.write(f"first the teacher, {recipe}, in {folder}")
    train(load_recipe(recipe), dataset, test_fold, folder, resume=resume and begun(folder), compile=compile)
    return folder


def describe(recipe: Recipe, dataset: Dataset, start_from: Model | None) -> str:
    """One line for the card of a model trained on these sounds."""
    start = "from scratch"
    if start_from:
        start = f"from {start_from.config.name}"
    elif recipe.start.weights != "random":
        start = "from ImageNet" if recipe.start.weights == "imagenet" else "from weights of another network"
    kind = recipe.network.title
    return f"{kind} for {len(dataset.classes)} classes of sound, trained {start} on {dataset.origin.name}"


def terms(dataset: Dataset, start_from: Model | None) -> str:
    """The licence of the sounds, and that of the weights that the network went on from: both bind."""
    both = (dataset.origin.licence, start_from.config.licence if start_from else "")
    return "; ".join(dict.fromkeys(filter(None, both)))
