"""Measures the answers of a model as a service with it gives them: verdicts, and sounds of none of its classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from otoscope.types import ReliabilityBin, Verdict
from training.data.base import Clip, Dataset, Fold, fold_name
from training.errors import EvaluationError
from training.eval.answers import (
    MEASURE_SEED,
    NO_CLASS,
    Answered,
    Recording,
    Sound,
    Thresholds,
    answer,
    area_under_curve,
    background_sounds,
    clip_sounds,
    fit_thresholds,
    halves,
    listen,
    verdict,
)
from training.eval.metrics import reliability_bins
from worker.model.checkpoint import Model, ModelError, load_model
from worker.model.precision import pick_device

BACKGROUND_SOUNDS = 200  # synthesised, others than those that the scorer was fitted on
CONFIDENT = 0.5
"""A sound of no class whose first class has more than that is named with confidence by the softmax alone."""


class OutsideGroup(BaseModel):
    """Sounds of one kind, none of which is of a class of the model. Shares are from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    sounds: int
    auroc: float | None  # of the known score, against the known recordings; None without a scorer
    auroc_softmax: float  # of the largest probability of the mean over all windows
    refused: float  # verdict `unknown` or `silent`
    named: float  # verdict `named`
    confident: float  # named with more than CONFIDENT by the mean of the softmax, without verdicts


class AnswerReport(BaseModel):
    """What a service answers for the recordings of a fold. Shares are from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recordings: int
    correct: int  # whose first class is right, whatever the verdict
    level_dbfs: float | None  # of the front end
    combine: str
    unknown_threshold: float | None
    min_confidence: float | None
    thresholds_from: str
    cross_fitted: bool  # each half of the recordings has thresholds that were fitted on the other half
    verdicts: dict[Verdict, int]
    correct_by_verdict: dict[Verdict, int]
    background: tuple[OutsideGroup, ...]  # synthesised, by family
    outside: tuple[OutsideGroup, ...]  # recorded, by kind
    undecodable: int  # outside sounds that were left out
    reliability: tuple[ReliabilityBin, ...]
    class_thresholds: dict[str, float]
    precision_target: float | None

    @property
    def refused(self) -> float:
        """Share of the known recordings that are `unknown` or `silent`."""
        return (self.verdicts["unknown"] + self.verdicts["silent"]) / self.recordings


def measure_answers(
    model: Model, clips: Sequence[Clip], thresholds_are_from_these: bool, outside: Sequence[Sound] = (),
    recordings: Sequence[Recording] | None = None,
) -> AnswerReport:  # fmt: skip
    """The answers to the files of `clips`, to synthesised background, and to the sounds `outside` of the classes.

    `recordings` are the files of `clips` where they have passed through the network already.
    """
    front, config = model.config.frontend, model.config.answers
    rate = front.sample_rate
    if recordings is None:
        recordings = listen(model, clip_sounds(clips, model.config.classes, rate))
    known = answer(model, model.open_set, [replace(one, views=one.views[:1]) for one in recordings])
    noise = _answers(
        model, background_sounds(BACKGROUND_SOUNDS, front.window_samples, rate, MEASURE_SEED), "background"
    )
    others = _answers(model, outside, "outside sounds")
    stored = Thresholds(config.unknown_threshold, config.min_confidence)
    verdicts: Counter[Verdict] = Counter()
    correct: Counter[Verdict] = Counter()
    for part, thresholds in _with_thresholds(known, stored, cross_fit=thresholds_are_from_these):
        for one in part:
            given = verdict(one, model, thresholds)
            verdicts[given] += 1
            correct[given] += one.correct
    sounding = [one for one in known if one.active]
    confidences = np.array([one.confidence for one in sounding])
    fit = model.config.training.get("answers", {})
    order: tuple[Verdict, ...] = ("named", "unsure", "unknown", "silent")
    return AnswerReport(
        recordings=len(known),
        correct=sum(one.correct for one in known),
        level_dbfs=front.level_dbfs,
        combine=config.combine,
        unknown_threshold=stored.unknown,
        min_confidence=stored.confidence,
        thresholds_from=str(fit.get("thresholds_from", "the config")),
        cross_fitted=thresholds_are_from_these,
        verdicts={name: verdicts[name] for name in order},
        correct_by_verdict={name: correct[name] for name in order},
        background=_groups(model, known, noise, stored),
        outside=_groups(model, known, others, stored),
        undecodable=len(outside) - len(others),
        reliability=tuple(reliability_bins(confidences, np.array([one.correct for one in sounding]))),
        class_thresholds=config.class_thresholds,
        precision_target=fit.get("precision_target"),
    )


def measure_model(
    directory: Path,
    dataset: Dataset,
    fold: Fold,
    outside: Sequence[Sound] = (),
    other_clips: Sequence[Clip] = (),
    other_classes: Sequence[str] = (),
    recordings: Sequence[Recording] | None = None,
) -> AnswerReport:
    """`measure_answers` of a model directory for a fold.

    Sounds of none of the classes are `outside` and `other_clips`, whose labels are of `other_classes`.
    `recordings` are those of an evaluation of this model and fold, which then pass through the network once only.
    Raises EvaluationError and DatasetError.
    """
    try:
        model = load_model(directory, pick_device())
    except ModelError as error:
        raise EvaluationError(str(error)) from error
    rate = model.config.frontend.sample_rate
    others = [replace(sound, label=NO_CLASS) for sound in clip_sounds(other_clips, other_classes, rate)]
    fitted_on = model.config.training.get("answers", {}).get("thresholds_from")
    return measure_answers(
        model, dataset.recordings(fold), fitted_on == fold_name(fold), [*others, *outside], recordings
    )


def _answers(model: Model, sounds: Sequence[Sound], title: str) -> list[Answered]:
    return answer(model, model.open_set, listen(model, sounds, title))


def _with_thresholds(
    known: list[Answered], stored: Thresholds, *, cross_fit: bool
) -> list[tuple[list[Answered], Thresholds]]:
    """Recordings with the thresholds that decide their verdicts."""
    first, second = halves(known)
    if not (cross_fit and first and second):
        return [(known, stored)]
    return [(first, fit_thresholds(second)), (second, fit_thresholds(first))]


def _groups(
    model: Model, known: Sequence[Answered], others: Sequence[Answered], thresholds: Thresholds
) -> tuple[OutsideGroup, ...]:
    """The measures of each kind, in the order of their first sounds."""
    groups: dict[str, list[Answered]] = {}
    for one in others:
        groups.setdefault(one.sound.kind, []).append(one)
    measured: list[OutsideGroup] = []
    for kind, members in groups.items():
        verdicts = [verdict(one, model, thresholds) for one in members]
        sounds = len(members)
        measured.append(
            OutsideGroup(
                kind=kind,
                sounds=sounds,
                auroc=area_under_curve([one.known for one in known], [one.known for one in members])
                if model.open_set is not None
                else None,
                auroc_softmax=area_under_curve([one.softmax for one in known], [one.softmax for one in members]),
                refused=sum(one in ("unknown", "silent") for one in verdicts) / sounds,
                named=verdicts.count("named") / sounds,
                confident=sum(one.softmax > CONFIDENT for one in members) / sounds,
            )
        )
    return tuple(measured)


def headline(report: AnswerReport) -> str:
    """`400 recordings: named 280, unsure 99, unknown 21, silent 0`."""
    return f"{report.recordings} recordings: {', '.join(f'{name} {count}' for name, count in report.verdicts.items())}"


def as_markdown(report: AnswerReport) -> list[str]:
    """The lines of the section `Answers` of a report or a model card, without its heading."""
    lines = [
        f"What a service answers for whole recordings (`combine={report.combine}`, level of the front end"
        f" {'as it is' if report.level_dbfs is None else f'{report.level_dbfs:g} dBFS'}): the first class is right for"
        f" {report.correct} of {report.recordings} ({_percent(report.correct / report.recordings)}).",
        "",
        "| verdict | known recordings | first class right |",
        "|---|---:|---:|",
        *(
            f"| `{name}` | {count} | {_percent(report.correct_by_verdict[name] / count) if count else ''} |"
            for name, count in report.verdicts.items()
        ),
        "",
        f"Thresholds: `unknown_threshold` {_number(report.unknown_threshold)}, `min_confidence`"
        f" {_number(report.min_confidence)}, fitted on: {report.thresholds_from}."
        + (
            " For this table each half of the recordings has the thresholds that are fitted on the other half."
            if report.cross_fitted
            else ""
        ),
    ]
    if report.background:
        lines += ["", "Synthesised background, other sounds than those that the open-set scorer was fitted on:", ""]
        lines += _group_table(report.background)
    if report.outside:
        lines += ["", "Recorded sounds of none of the classes:", "", *_group_table(report.outside)]
    if report.class_thresholds and report.precision_target:
        values = sorted(report.class_thresholds.values())
        lines += [
            "",
            f"Detections: a threshold for each class for a precision of {_percent(report.precision_target)}, from"
            f" {values[0]:.2f} to {values[-1]:.2f}, median {values[len(values) // 2]:.2f}.",
        ]
    return lines


def _group_table(groups: Sequence[OutsideGroup]) -> list[str]:
    def row(kind: str, sounds: int, shares: Sequence[float | None]) -> str:
        aurocs = " | ".join("" if value is None else f"{value:.3f}" for value in shares[:2])
        return f"| {kind} | {sounds} | {aurocs} | {' | '.join(_percent(value or 0.0) for value in shares[2:])} |"

    columns = [[one.auroc, one.auroc_softmax, one.refused, one.named, one.confident] for one in groups]
    means = [
        None if any(value is None for value in column) else float(np.mean([value or 0.0 for value in column]))
        for column in zip(*columns, strict=True)
    ]
    return [
        "| kind | sounds | AUROC | AUROC of the softmax | refused | named | softmax alone over"
        f" {_percent(CONFIDENT)} |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(row(one.kind, one.sounds, shares) for one, shares in zip(groups, columns, strict=True)),
        *([row("mean of the kinds", sum(one.sounds for one in groups), means)] if len(groups) > 1 else []),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
