"""Cross-validation: one network per fold, trained on the other folds and evaluated on its own."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from training.data.base import Dataset, Fold, fold_name
from training.errors import EvaluationError, cause
from training.eval.calibrate import temperature_of
from training.eval.evaluate import Evaluation, evaluate
from training.eval.metrics import calibration_error, source_interval, wilson_interval
from training.eval.report import interval, percent, write_report
from training.fit import processes
from training.fit.loop import train
from training.fit.run_state import resumable
from training.recipe import Recipe
from worker.model.checkpoint import Model, write_config


class FoldResult(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    fold: Fold
    clips: int
    correct: int
    temperature: float  # fitted on the other folds, each predicted by the network that was trained without it; or 1


class CrossValidationReport(BaseModel):
    """Content of folds.json. Shares are from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    data: str
    folds: tuple[FoldResult, ...]
    of: int  # number of folds of the data set; complete if all of them are in `folds`
    mean: float  # mean accuracy of the folds
    deviation: float | None  # sample standard deviation; None for a single fold
    correct: int
    clips: int
    interval_95: tuple[float, float]  # Wilson interval over all clips, as if they were independent
    sources: int  # clips of one machine or speaker have one source
    interval_95_sources: tuple[float, float]  # Wilson, of the effective number of clips
    seen_clips: int = 0  # clips whose very sound is in the training data of their network, as in a pretrained one
    seen_files: tuple[str, ...] = ()  # these
    mean_average_precision: float | None = None  # mean over the folds, of a multi-label data set
    calibration_error: float


def cross_validate(
    recipe: Recipe, dataset: Dataset, folds: Sequence[Fold], out: Path, *, pretrained: Model | None = None,
) -> CrossValidationReport:  # fmt: skip
    """Train and evaluate `folds` in `out/fold1`, `out/fold2`, ...; finished folds are kept, interrupted ones resumed.

    `pretrained` is a model to fine-tune, as for `train`. Writes a report for each fold, and folds.json, folds.md,
    true_labels.npy and pred_labels.npy for all. Raises TrainingError.
    """
    processes.check_single()
    evaluations: list[Evaluation] = []
    for number, fold in enumerate(folds, 1):
        tqdm.write(f"{fold_name(fold)}, {number} of {len(folds)}")
        directory = out / f"fold{fold}"
        train(
            recipe, dataset, fold, directory,
            pretrained=pretrained, resume=resumable(directory), threshold_fold=fold,
        )  # fmt: skip
        evaluations.append(evaluate(directory, dataset, fold))
    if len(evaluations) > 1 and not dataset.multi_label:  # temperature scaling is for one class
        evaluations = _calibrate(evaluations, [out / f"fold{fold}" for fold in folds])

    reports = [write_report(one, out / f"fold{one.fold}" / "evaluation") for one in evaluations]
    report = summarise(recipe, dataset, evaluations)
    precisions = [one.mean_average_precision for one in reports if one.mean_average_precision is not None]
    if dataset.multi_label and precisions:
        report = report.model_copy(update={"mean_average_precision": statistics.mean(precisions)})
    try:
        (out / "folds.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (out / "folds.md").write_text(as_markdown(report), encoding="utf-8")
        np.save(out / "true_labels.npy", np.concatenate([one.truth for one in evaluations]))
        np.save(out / "pred_labels.npy", np.concatenate([one.predicted for one in evaluations]))
    except OSError as error:
        raise EvaluationError(f"cannot write the report to {out}: {cause(error)}") from error
    return report


def _calibrate(evaluations: list[Evaluation], directories: list[Path]) -> list[Evaluation]:
    """Fit the temperature of each model on the other folds, and store it in the config of the model.

    Each of the other folds is predicted by the network that was trained without it, so that no clip is predicted by a
    network that has learned it. (Those networks were trained on the model's own test fold.)
    """
    calibrated: list[Evaluation] = []
    for one, directory in zip(evaluations, directories, strict=True):
        others = [recording for other in evaluations if other is not one for recording in other.recordings[0]]
        config = one.config.model_copy(update={"temperature": temperature_of(others)})
        write_config(directory, config)
        calibrated.append(Evaluation(**{**vars(one), "configs": (config,)}))
    return calibrated


def summarise(recipe: Recipe, dataset: Dataset, evaluations: Sequence[Evaluation]) -> CrossValidationReport:
    """Combine the evaluations of the folds."""
    results = tuple(
        FoldResult(
            fold=one.fold,
            clips=len(one.truth),
            correct=int((one.predicted == one.truth).sum()),
            temperature=one.config.temperature,
        )
        for one in evaluations
    )
    shares = [result.correct / result.clips for result in results]
    correct, clips = sum(result.correct for result in results), sum(result.clips for result in results)
    truth = np.concatenate([one.truth for one in evaluations])
    probabilities = np.concatenate([one.probabilities for one in evaluations])
    sources = [source for one in evaluations for source in one.sources]
    return CrossValidationReport(
        recipe=recipe.name,
        data=dataset.info.name,
        folds=results,
        of=len(dataset.folds),
        mean=statistics.mean(shares),
        deviation=statistics.stdev(shares) if len(shares) > 1 else None,
        correct=correct,
        clips=clips,
        interval_95=wilson_interval(correct, clips),
        sources=len(set(sources)),
        interval_95_sources=source_interval(np.concatenate([one.predicted for one in evaluations]) == truth, sources),
        seen_clips=sum(len(one.seen) for one in evaluations),
        seen_files=tuple(name for one in evaluations for name in one.seen),
        calibration_error=calibration_error(truth, probabilities),
    )


def headline(report: CrossValidationReport) -> str:
    """`esc50-best on ESC-50, 5 of 5 folds: 85.1 % ± 1.9 (1702 of 2000)`."""
    spread = f" ± {100 * report.deviation:.1f}" if report.deviation is not None else ""
    counted = f"{len(report.folds)} of {report.of} folds"
    correct = f"{report.correct} of {report.clips}"
    ranked = report.mean_average_precision
    more = f", mean average precision {ranked:.3f}" if ranked is not None else ""
    return f"{report.recipe} on {report.data}, {counted}: {percent(report.mean)}{spread} ({correct}){more}"


def as_markdown(report: CrossValidationReport) -> str:
    """Content of folds.md."""
    lines = [
        f"# {headline(report)}",
        "",
        "| fold | accuracy | correct | 95 % interval (Wilson) | temperature |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {one.fold} | {percent(one.correct / one.clips)} | {one.correct} of {one.clips}"
            f" | {interval(wilson_interval(one.correct, one.clips))} | {one.temperature:g} |"
            for one in report.folds
        ),
        f"| all | {percent(report.correct / report.clips)} | {report.correct} of {report.clips}"
        f" | {interval(report.interval_95)} | |",
        "",
        f"95 % interval by source ({report.sources} sources): {interval(report.interval_95_sources)}.",
        "",
        "Each fold is predicted by a network that was trained on the others; ± is the standard deviation over the"
        f" folds. Expected calibration error {report.calibration_error:.3f}.",
        "",
    ]
    return "\n".join(lines)
