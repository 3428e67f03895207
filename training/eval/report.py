"""The report of an evaluation: report.json for programs, report.md for people, a confusion matrix, and the labels."""

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from otoscope.types import ReliabilityBin
from training.data.base import Fold, LeftOut, fold_name
from training.errors import EvaluationError, cause
from training.eval import answer_report, metrics
from training.eval.answer_report import AnswerReport
from training.eval.answers import own_verdict
from training.eval.evaluate import Evaluation
from training.eval.gallery import WRONG, write_gallery
from training.eval.metrics import ClassScore, Confusion
from training.eval.plots import save_confusion_matrix, save_reliability_diagram
from training.eval.predict import Precision
from worker.pipeline.answer import class_thresholds

MAX_ROWS = 10  # rows of the table of confusions
_NAMED = 3  # files in a warning
RELIABILITY = "reliability.png"
PREDICTIONS = "predictions.csv"


class EvaluationReport(BaseModel):
    """Content of report.json. Shares are from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    weights_sha256: tuple[str, ...]  # one per model
    temperature: tuple[float, ...]
    parameters: int
    forward_passes: int  # per prediction: models × views
    data: str
    fold: Fold
    trained_on: bool  # the clips are, or may be, training data: not a measure of generalisation
    chosen_by: bool  # the clips were used for early stopping or calibration: slightly optimistic
    crossing_clips: int  # clips of the fold whose source recording also occurs in another fold
    seen_clips: int | None = 0  # clips whose very sound is in the training data; None for a model without digests of it
    seen_files: tuple[str, ...] = ()  # these
    precision: Precision
    device: str
    clips: int  # recordings: each file counts once
    correct: int
    silent: int = 0  # of the clips: in which nothing is heard, the verdict `silent`; of the first model
    correct_silent: int = 0  # of these: whose first class is right
    windows: int  # of all clips, as the service cuts them, in which something is heard; of the first model
    correct_windows: int
    accuracy: float
    interval_95: tuple[float, float]  # Wilson, as if the recordings were independent
    sources: int = 0  # recordings of one machine or speaker have one source
    interval_95_sources: tuple[float, float] | None = None  # Wilson, of the effective number of recordings
    top_5: float
    macro_f1: float
    mean_average_precision: float | None = None  # over the classes; of a multi-label model
    log_loss: float  # nats
    calibration_error: float  # expected, 15 bins
    calibration_error_uncalibrated: float  # with every temperature at 1
    classes: tuple[ClassScore, ...]  # in label order, without those that are neither in the data nor predicted
    confusions: tuple[Confusion, ...]  # most frequent first
    left_out: tuple[LeftOut, ...] = ()  # of the whole data set, by class
    answers: AnswerReport | None = None  # None: not measured

    @property
    def worst_classes(self) -> list[ClassScore]:
        return sorted(self.classes, key=lambda score: score.f1)


def summarise(evaluation: Evaluation, answers: AnswerReport | None = None) -> EvaluationReport:
    """Compute all metrics of an evaluation."""
    names = evaluation.config.classes
    truth, probabilities, clips = evaluation.truth, evaluation.probabilities, len(evaluation.truth)
    matrix = metrics.confusion_matrix(truth, evaluation.predicted, len(names))
    correct = int(matrix.trace())
    scores = metrics.class_scores(matrix, names)
    if evaluation.config.multi_label:
        thresholds = class_thresholds(names, evaluation.config.answers)
        ranked = metrics.multi_label_scores(evaluation.present, probabilities, thresholds, names)
        if evaluation.dataset.multi_label:
            scores = ranked
        else:  # of sounds with one label, the first class counts
            scores = [replace(a, average_precision=b.average_precision) for a, b in zip(scores, ranked, strict=True)]
    present = [score for score in scores if score.clips]
    right, silent = evaluation.predicted == truth, np.array([not one.active.any() for one in evaluation.recordings[0]])
    by_window = np.concatenate(
        [np.isin(one.logits.argmax(dim=1).numpy(), one.sound.labels)[one.active] for one in evaluation.recordings[0]]
    )
    return EvaluationReport(
        model=evaluation.name,
        weights_sha256=tuple(config.weights_sha256 for config in evaluation.configs),
        temperature=tuple(config.temperature for config in evaluation.configs),
        parameters=evaluation.parameters,
        forward_passes=evaluation.forward_passes,
        data=evaluation.dataset.info.name,
        fold=evaluation.fold,
        trained_on=evaluation.trained_on,
        chosen_by=evaluation.chosen_by,
        crossing_clips=len(evaluation.dataset.crossing_clips(evaluation.fold)),
        seen_clips=len(evaluation.seen) if evaluation.seen_known else None,
        seen_files=evaluation.seen,
        precision=evaluation.precision,
        device=evaluation.device,
        clips=clips,
        correct=correct,
        silent=int(silent.sum()),
        correct_silent=int((right & silent).sum()),
        windows=len(by_window),
        correct_windows=int(by_window.sum()),
        accuracy=correct / clips,
        interval_95=metrics.wilson_interval(correct, clips),
        sources=len(set(evaluation.sources)),
        interval_95_sources=metrics.source_interval(right, evaluation.sources),
        top_5=metrics.top_k_correct(truth, probabilities, 5) / clips,
        macro_f1=sum(score.f1 for score in present) / len(present),
        mean_average_precision=_mean([score.average_precision for score in present]),
        log_loss=metrics.log_loss(truth, probabilities),
        calibration_error=metrics.calibration_error(truth, probabilities),
        calibration_error_uncalibrated=metrics.calibration_error(truth, evaluation.uncalibrated),
        classes=tuple(score for score, claims in zip(scores, matrix.sum(axis=0), strict=True) if score.clips or claims),
        confusions=tuple(metrics.confusions(matrix, names)),
        left_out=evaluation.dataset.left_out,
        answers=answers,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """None if one of them is."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if len(found) == len(values) else None


def check_report_folder(out: Path) -> None:
    """Raise EvaluationError where no report can be written: known before anything is measured."""
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise EvaluationError(f"cannot write the report to {out}: {existing} is no folder that can be written")


def write_report(evaluation: Evaluation, out: Path, answers: AnswerReport | None = None) -> EvaluationReport:
    """Write report.json, report.md, report.txt, predictions.csv, wrong.html, confusion_matrix.png, reliability.png,
    true_labels.npy and pred_labels.npy to `out`.

    Raises EvaluationError if the folder cannot be written.
    """
    report = summarise(evaluation, answers)
    names = evaluation.config.classes
    matrix = metrics.confusion_matrix(evaluation.truth, evaluation.predicted, len(names))
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (out / "report.md").write_text(as_markdown(report), encoding="utf-8")
        (out / "report.txt").write_text(as_text(report), encoding="utf-8")
        _write_predictions(out / PREDICTIONS, evaluation)
        write_gallery(out / WRONG, evaluation, headline(report))
        np.save(out / "true_labels.npy", evaluation.truth)
        np.save(out / "pred_labels.npy", evaluation.predicted)
        save_confusion_matrix(out / "confusion_matrix.png", matrix, names, headline(report))
        save_reliability_diagram(out / RELIABILITY, _reliability(evaluation, report), headline(report))
    except OSError as error:
        raise EvaluationError(f"cannot write the report to {out}: {cause(error)}") from error
    return report


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    """One row for each recording. Verdict and start, in seconds, of the deciding window are those of the model itself
    with its stored thresholds; an ensemble has none."""
    names = evaluation.config.classes
    confidences = evaluation.probabilities
    first, *others = evaluation.answered
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "truth", "answer", "confidence", "verdict", "start"])
        for one, row in zip(first, confidences, strict=True):
            own = own_verdict(one, evaluation.config)
            of_one = ("", "") if others else (own, f"{one.start:.3f}")
            table.writerow(
                [
                    evaluation.dataset.named(one.sound.path or Path()),
                    ";".join(names[label] for label in one.sound.labels),
                    names[row.argmax()],
                    f"{row.max():.4f}",
                    *of_one,
                ]
            )


def _reliability(evaluation: Evaluation, report: EvaluationReport) -> Sequence[ReliabilityBin]:
    """Of the answers if they were measured, else of the clips."""
    if report.answers:
        return report.answers.reliability
    confidence = evaluation.probabilities.max(axis=1).astype(np.float64)
    return metrics.reliability_bins(confidence, evaluation.predicted == evaluation.truth)


def headline(report: EvaluationReport) -> str:
    """`esc50 on ESC-50, fold 5: 77.5 % (310 of 400)`."""
    share = f"{percent(report.accuracy)} ({report.correct} of {report.clips})"
    seen = " — TRAINING CLIPS" if report.trained_on else " — validation clips" if report.chosen_by else ""
    return f"{report.model} on {report.data}, {fold_name(report.fold)}: {share}{seen}"


def seen_warning(seen: Sequence[str], clips: int, file: str = "report.json") -> str:
    """For the command line, if sounds of the training are among the measured ones; otherwise empty. `file` has all of
    them."""
    if not seen:
        return ""
    more = f" and {len(seen) - _NAMED} more, which {file} lists" if len(seen) > _NAMED else ""
    shown = ", ".join(seen[:_NAMED])
    return f"WARNING: the sound of {len(seen)} of the {clips} clips is in the training data as well: {shown}{more}"


def silent_note(report: EvaluationReport) -> str:
    """How many silent recordings are counted, if any are; otherwise empty."""
    return (
        f"nothing is heard in {report.silent} of the {report.clips} recordings (verdict `silent`):"
        f" {report.correct_silent} right by their first class"
        if report.silent
        else ""
    )


def notes(report: EvaluationReport) -> list[str]:
    """What has to be known about the accuracy, to print below it."""
    return [note for note in (silent_note(report), seen_warning(report.seen_files, report.clips)) if note]


def as_markdown(report: EvaluationReport) -> str:
    """Content of report.md."""
    lines = [f"# {headline(report)}", ""]
    if report.trained_on:
        lines += ["**The model was trained on these clips. This is not its accuracy on unseen sounds.**", ""]
    elif report.chosen_by:
        lines += ["These clips were used for early stopping or calibration: the accuracy is slightly optimistic.", ""]
    lines += [
        "| metric | value |",
        "|---|---|",
        f"| accuracy | {percent(report.accuracy)} |",
        f"| 95 % interval (Wilson) | {interval(report.interval_95)} |",
        *(
            [f"| 95 % interval by source ({report.sources} sources) | {interval(report.interval_95_sources)} |"]
            if report.interval_95_sources
            else []
        ),
        f"| windows in which something is heard | {report.correct_windows} of {report.windows} correct |",
        *([f"| top-5 | {percent(report.top_5)} |"] if len(report.classes) > 5 else []),
        f"| mean F1 of the classes | {report.macro_f1:.3f} |",
        *(
            [f"| mean average precision of the classes | {report.mean_average_precision:.3f} |"]
            if report.mean_average_precision is not None
            else []
        ),
        f"| calibration error | {report.calibration_error:.3f} ({report.calibration_error_uncalibrated:.3f} without"
        f" temperature; temperature {', '.join(f'{value:g}' for value in report.temperature)}) |",
        f"| log loss | {report.log_loss:.3f} nats |",
        f"| forward passes per prediction | {report.forward_passes} |",
        f"| precision of the arithmetic | {report.precision} on {report.device} |",
        f"| parameters | {report.parameters:,} |",
        f"| clips whose source recording also occurs in another fold | {report.crossing_clips} |",
        f"| clips whose sound is in the training data as well |"
        f" {'not known: no digests of it' if report.seen_clips is None else report.seen_clips} |",
        f"| weights (SHA-256) | {', '.join(f'`{sha}`' for sha in report.weights_sha256)} |",
        "",
        *(
            [f"In no window of the data set, by class: {', '.join(map(str, report.left_out))}.", ""]
            if report.left_out
            else []
        ),
        *([f"Counted as well: {note}.", ""] if (note := silent_note(report)) else []),
        f"Every recording: [{PREDICTIONS}]({PREDICTIONS}). Wrong answers to see and hear: [{WRONG}]({WRONG}).",
        "",
        f"![Reliability diagram]({RELIABILITY})",
        "",
        *(["## Answers", "", *answer_report.as_markdown(report.answers), ""] if report.answers else []),
        "## Most frequent confusions",
        "",
        *confusion_table(report, MAX_ROWS),
        "",
        "## All classes, lowest F1 first",
        "",
        *class_table(report, len(report.classes)),
        "",
    ]
    return "\n".join(lines)


def as_text(report: EvaluationReport) -> str:
    """Content of report.txt: precision, recall, F1 and clips of each class, and their means, as scikit-learn's
    `classification_report` lays them out."""
    width = max(len("weighted avg"), *(len(one.name) for one in report.classes))
    rows = [(one.name, one.precision, one.recall, one.f1, one.clips) for one in report.classes]
    total = sum(clips for *_, clips in rows)

    def line(name: str, scores: Sequence[float], clips: int) -> str:
        return f"{name:>{width}}  " + "".join(f"{score:9.2f} " for score in scores) + f"{clips:9d}"

    def mean(weights: Sequence[float]) -> list[float]:
        return list(map(float, np.average([row[1:4] for row in rows], axis=0, weights=weights)))

    return "\n".join([
        f"{'':>{width}}  {'precision':>9} {'recall':>9} {'f1-score':>9} {'support':>9}",
        "",
        *(line(row[0], row[1:4], row[4]) for row in rows),
        "",
        f"{'accuracy':>{width}}  {'':9} {'':9} {report.accuracy:9.2f} {total:9d}",
        line("macro avg", mean([1.0] * len(rows)), total),
        line("weighted avg", mean([float(row[4]) for row in rows]), total),
        "",
    ])  # fmt: skip


def class_table(report: EvaluationReport, rows: int) -> list[str]:
    """The classes with the lowest F1 as lines of a Markdown table."""
    ranked = report.mean_average_precision is not None
    return [
        f"| class | clips | precision | recall | F1 |{' average precision |' if ranked else ''}",
        f"|---|---:|---:|---:|---:|{'---:|' if ranked else ''}",
        *(
            f"| {score.name} | {score.clips} | {score.precision:.3f} | {score.recall:.3f} | {score.f1:.3f} |"
            + (f" {score.average_precision:.3f} |" if ranked else "")
            for score in report.worst_classes[:rows]
        ),
    ]


def confusion_table(report: EvaluationReport, rows: int) -> list[str]:
    """The most frequent confusions as lines of a Markdown table."""
    if not report.confusions:
        return ["None: every clip was classified correctly."]
    return [
        "| true class | predicted | clips |",
        "|---|---|---:|",
        *(f"| {one.truth} | {one.taken_for} | {one.clips} |" for one in report.confusions[:rows]),
    ]


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def interval(bounds: tuple[float, float]) -> str:
    return f"{100 * bounds[0]:.1f}–{percent(bounds[1])}"
