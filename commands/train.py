"""The commands that train: `otoscope train`, and `lr-find` and `overfit`, the checks before a long run.

Modules that need torch are imported inside the commands.
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.options import (
    Changes,
    Data,
    FoldName,
    RecipeName,
    StartName,
    TeacherNames,
    command_options,
    interrupted,
    load_data,
    parse_fold,
    recipe_and_start,
)

if TYPE_CHECKING:
    from training.data.base import Fold


def train(
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The model directory to create; by default runs/RECIPE-foldN, or runs/RECIPE-testset.",
        ),
    ] = None,
    fold: FoldName = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="A bundled recipe, or a YAML file; without it one is proposed.",
        ),
    ] = None,
    changes: Changes = None,
    teacher: TeacherNames = None,
    start: StartName = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", metavar="NAME", help="Record the run with mlflow or wandb, too; may be repeated."),
    ] = None,
) -> None:
    """Train a network by a recipe. Ctrl-C saves a checkpoint, --resume continues from it. Without a recipe, look at the
    data and propose one. Several processes: torchrun --standalone --nproc-per-node N -m otoscope train ..."""
    from training.data.base import most_folds
    from training.data.custom.manifest import MANIFEST
    from training.eval.answer_report import measure_model
    from training.eval.evaluate import evaluate as evaluate_model
    from training.eval.model_card import record_accuracy
    from training.eval.report import headline, notes, write_report
    from training.fit import processes
    from training.fit.history import CURVE
    from training.fit.loop import train as run
    from training.fit.pretrained import MODELS
    from training.fit.run_state import check_run_folder, resumable
    from training.fit.trackers import TENSORBOARD
    from worker.inference.malloc import keep_freed_memory

    keep_freed_memory()
    if out:
        check_run_folder(out, resume)
    if recipe is None:
        if changes or teacher or resume:
            raise typer.BadParameter("needed with --set, --teacher and --resume", param_hint="--recipe")
        recipe, start, changes = _propose(data, fold, start, out)
    chosen, model = recipe_and_start(recipe, changes, start)
    if out is None and data and (data / MANIFEST).is_file():  # it has one fold: known before decoding
        out = _default_out(chosen.name, "test")
        check_run_folder(out, resume)
    with processes.joined():
        try:
            dataset = processes.first_alone(lambda: load_data(data, chosen.frontend, chosen.segments))
            test_fold = parse_fold(fold, dataset)
            out = out or _default_out(chosen.name, test_fold)
            run(
                chosen, dataset, test_fold, out,
                teachers=teacher or (), pretrained=model, resume=resume, threshold_fold=test_fold,
                trackers=(TENSORBOARD, *(track or ())),
            )  # fmt: skip
        except KeyboardInterrupt:
            interrupted(out is not None and resumable(out), out, "the same command with --resume")
        if not processes.is_first():
            return
    print(f"The model {chosen.name} is in {out}")
    for part in ("val", "test") if test_fold == "test" else (test_fold,):
        if part in dataset.folds:
            evaluation = evaluate_model(out, dataset, part)
            answers = measure_model(out, dataset, part, recordings=evaluation.recordings[0])
            folder = out / (f"evaluation-{part}" if test_fold == "test" else "evaluation")
            report = write_report(evaluation, folder, answers)
            print(f"{headline(report)}: {folder}")
            for note in notes(report):
                print(note)
    record_accuracy(out, evaluation, report)
    print(f"Model card: {out}/README.md, learning curve: {out}/{CURVE}")
    models = shlex.quote(str(MODELS))
    create = "" if MODELS.is_dir() else f"mkdir -p {models} && "
    print(f"Serve it: {create}cp -r {shlex.quote(str(out))} {models}/ && otoscope up")
    same = [("--data", data), ("--recipe", recipe), *(("--set", one) for one in changes or ()), ("--from", start)]
    if folds := 0 if teacher else most_folds(dataset):
        again = f"otoscope evaluate {shlex.quote(f'{out}-folds')} {command_options(same)} --folds {folds}"
        print(f"The accuracy of one split depends on chance; by folds: {again}")


def _default_out(recipe: str, fold: "Fold") -> Path:
    from training.data.base import fold_name

    return Path("runs") / f"{recipe}-{fold_name(fold).replace(' ', '')}"


def _propose(
    data: Path | None, fold: str | None, start: Path | None, out: Path | None
) -> tuple[str, Path | None, list[str]]:
    """Print what is in the data, and a recipe with its reasons, time and commands. On a terminal ask whether to train
    by it, and split the data if necessary; elsewhere exit with status 2, since nothing is trained."""
    from training.data.custom.split import TEST_SHARE, write_split
    from training.data.download import fetch_esc50 as fetch
    from training.proposal import describe_time, device_name, estimate_seconds, propose, survey

    root = data or fetch()
    found = survey(root, int(fold) if fold and fold.isdecimal() else fold)
    proposal = propose(found, start)
    recipe, model = recipe_and_start(proposal.recipe, list(proposal.changes), proposal.start)
    print(f"{root}: {found}")
    print(f"Proposed: {proposal.recipe}{f' from {proposal.start}' if proposal.start else ''}")
    for reason in proposal.reasons:
        print(f"  - {reason}")
    print(f"  - {describe_time(estimate_seconds(recipe, found, model))} on {device_name()}, measured with a few steps")
    if found.needs_split:
        print(f"  otoscope data split {shlex.quote(str(root))}")
    same = [
        ("--data", data), ("--recipe", proposal.recipe), *(("--set", one) for one in proposal.changes),
        ("--from", proposal.start), ("--fold", fold), ("--out", out),
    ]  # fmt: skip
    print(f"  otoscope train {command_options(same)}")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("Nothing was trained: there is no terminal to ask on. The commands above do it.", file=sys.stderr)
        raise SystemExit(2)
    if not typer.confirm("Train with this recipe?", default=True):
        raise SystemExit(1)
    if found.needs_split:
        write_split(root, val=None, test=TEST_SHARE, seed=1)
    return proposal.recipe, proposal.start, list(proposal.changes)


def lr_find(
    data: Data = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory of lr_find.png.")] = Path("runs/lr-find"),
    fold: FoldName = None,
    recipe: RecipeName = "esc50-best",
    changes: Changes = None,
    teacher: TeacherNames = None,
    start: StartName = None,
    steps: Annotated[int, typer.Option(min=20, metavar="N", help="Steps from 1e-6 to 1.")] = 100,
) -> None:
    """Find a learning rate by a range test. It plots the loss over an increasing rate (arXiv:1506.01186)."""
    from training.diagnostics import find_learning_rate

    chosen, model = recipe_and_start(recipe, changes, start)
    dataset = load_data(data, chosen.frontend, chosen.segments)
    found = find_learning_rate(
        chosen, dataset, parse_fold(fold, dataset), out, steps, teachers=teacher or (), pretrained=model
    )
    print(f"The loss falls fastest at {found.steepest:.1e} and is lowest at {found.lowest:.1e}: {out}/lr_find.png")
    others = [change for change in changes or () if change.partition("=")[0].strip() != "optim.max_lr"]
    same = [
        ("--recipe", recipe), *(("--set", change) for change in [*others, f"optim.max_lr={found.steepest:.1e}"]),
        ("--fold", fold), ("--from", start), *(("--teacher", one) for one in teacher or ()), ("--data", data),
    ]  # fmt: skip
    print(f"Try it: otoscope train {command_options(same)}")


def overfit(
    data: Data = None,
    fold: FoldName = None,
    recipe: RecipeName = "esc50-best",
    changes: Changes = None,
    start: StartName = None,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Give up after N steps.")] = 200,
) -> None:
    """Check that the network can overfit one minibatch."""
    from training.diagnostics import overfit_one_batch

    chosen, model = recipe_and_start(recipe, changes, start)
    dataset = load_data(data, chosen.frontend, chosen.segments)
    taken, loss = overfit_one_batch(chosen, dataset, parse_fold(fold, dataset), steps, pretrained=model)
    print(f"100 % of one minibatch after {taken} steps, loss {loss:.3f}: the network and the loss work")
