"""Open-set scorers and thresholds: how they are fitted, and how the answers of a model are measured."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from otoscope.errors import AudioCorrupt
from tests.support.tiny_recipe import TINY, changed, windows_of
from tests.training.conftest import CLASSES
from training.data.background import background
from training.data.esc50 import load_esc50
from training.errors import EvaluationError
from training.eval import metrics
from training.eval.answer_report import measure_model
from training.eval.answers import (
    Answered,
    Sound,
    Thresholds,
    area_under_curve,
    confident_from,
    fit_class_thresholds,
    fit_thresholds,
    folder_sounds,
    halves,
    listen,
)
from training.eval.evaluate import evaluate
from training.eval.predict import predict_with_embeddings
from training.eval.report import write_report
from training.fit.answers import TRAINING_CLIPS, refit_answers
from training.fit.loop import train
from training.fit.open_set import Outputs, centre_scores, fit_scorer
from training.fit.pretrained import load_pretrained
from training.fit.setup import set_up_training
from training.recipe import (
    LEVEL_DBFS,
    REPEAT_PAUSE,
    OpenSetRecipe,
    Recipe,
    for_fine_tuning,
    load_recipe,
    parse_stored,
    to_yaml,
)
from worker.model.checkpoint import load_model, read_config, write_config
from worker.model.open_set import OPEN_SET, OpenSetScorer
from worker.pipeline.answer import Answer

SCORED = changed(TINY, epochs=10).model_copy(update={"open_set": OpenSetRecipe(background=100, steps=150)})


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a scorer, fold 3 held out; its thresholds are from that fold."""
    out = tmp_path_factory.mktemp("runs") / "scored"
    train(SCORED, load_esc50(data), 3, out, threshold_fold=3)
    return out


def answered(
    label: int,
    confidence: float,
    known: float | None = 0.9,
    first: int | None = None,
    source: str = "",
    classes: int = 3,
) -> Answered:
    """An answer of one active window whose first class is `first`, by default the right one."""
    probabilities = np.full((1, len(CLASSES)), (1 - confidence) / 2, np.float32)
    probabilities[0, label if first is None else first] = confidence
    evidence = probabilities * np.float32(1.0 if known is None else known)
    sound = Sound(lambda: [np.zeros(1, np.float32)], str(label), source, label)
    return Answered(
        sound, Answer(probabilities[0], evidence, 0, known), 0.0, active=True, softmax=confidence, seconds=5.0
    )


@pytest.mark.slow
def test_detector_separates_and_its_score_is_centred() -> None:
    """Known and other embeddings are distinguished; each sigmoid is one half at the 5 % quantile of the known ones; the
    caller's random state is untouched."""
    torch.manual_seed(5)
    known, others = torch.randn(200, 8) + 2, torch.randn(200, 8)
    targets = torch.eye(3)[torch.arange(200) % 3]
    before = torch.get_rng_state()
    scorer = fit_scorer(known, targets, others, 200)
    assert torch.equal(torch.get_rng_state(), before)
    logits = torch.randn(200, 3) + 5
    centre_scores(scorer, Outputs(logits, known))
    own, foreign = scorer(known, logits), scorer(others, logits)
    assert area_under_curve(own.tolist(), foreign.tolist()) > 0.95
    below = (scorer.parts(known, logits) < scorer.offsets).float().mean(dim=0)
    assert below.tolist() == pytest.approx([0.05] * 3, abs=0.01)
    again = fit_scorer(known, targets, others, 200)
    assert all(torch.equal(a, b) for a, b in zip(scorer.parameters(), again.parameters(), strict=True))


def known_and_unknown_classes() -> tuple[Outputs, torch.Tensor, torch.Tensor]:
    """Outputs of 200 windows of two classes, their labels, and the embeddings of an unknown third class."""
    generator = torch.Generator().manual_seed(0)
    places = torch.eye(3).repeat(1, 4) * 4  # (classes, features)
    labels = torch.arange(200) % 2
    embeddings = places[labels] + torch.randn(200, 12, generator=generator)
    logits = torch.randn(200, 2, generator=generator) * 0.1 + 5
    return Outputs(logits, embeddings), labels, places[2] + torch.randn(200, 12, generator=generator)


@pytest.mark.slow
def test_class_that_resembles_the_known_ones_has_a_lower_score() -> None:
    """Neither background nor an unsure network: only its distance to the means of the classes shows that it is none of
    them."""
    known, labels, unknown = known_and_unknown_classes()
    scorer = fit_scorer(known.embeddings, torch.eye(2)[labels], torch.zeros(50, 12), 1)
    centre_scores(scorer, known)
    scorer.scales[0] = 1e6  # without the detector
    scores = [scorer(embeddings, known.logits).tolist() for embeddings in (known.embeddings, unknown)]
    assert area_under_curve(*scores) > 0.95


def test_every_class_of_a_window_has_a_mean() -> None:
    """Also one that always occurs together with another class."""
    known, labels, _ = known_and_unknown_classes()
    targets = torch.stack([labels == 0, labels == 1, labels == 1, torch.zeros(200)], dim=1).float()
    means = fit_scorer(known.embeddings, targets, torch.zeros(50, 12), 1).class_means
    assert len(means) == 3, "none for a class without windows"
    torch.testing.assert_close(means[1], means[2])


@pytest.mark.parametrize("classes", [0, 3])
def test_scale_of_the_score_is_that_of_two_sigmoids(classes: int) -> None:
    """A sound that is at the 5 % quantile in every respect has 0.25, so that thresholds of detections keep their
    meaning."""
    scorer = OpenSetScorer(8, classes=classes).eval()
    embedding, logits = torch.randn(1, 8), torch.randn(1, 3)
    scorer.offsets.copy_(scorer.parts(embedding, logits)[0])
    assert scorer(embedding, logits).item() == pytest.approx(0.25)


def test_scorer_of_an_earlier_version_is_loaded(run: Path, tmp_path: Path) -> None:
    """Two sigmoids, and no means of classes: its scores are the product of the two."""
    directory = tmp_path / "old"
    shutil.copytree(run, directory)
    weights = load_file(directory / OPEN_SET)
    del weights["class_means"]
    weights |= {name: weights[name][:2].clone() for name in ("offsets", "scales")}
    save_file(weights, directory / OPEN_SET)
    checksum = hashlib.sha256((directory / OPEN_SET).read_bytes()).hexdigest()
    write_config(directory, read_config(directory).model_copy(update={"open_set_sha256": checksum}))
    scorer = load_model(directory).open_set
    assert scorer is not None
    embeddings, logits = torch.randn(4, len(scorer.mean)), torch.randn(4, 3)
    parts = torch.stack([scorer.detect(embeddings), logits.amax(dim=1)], dim=1)
    expected = ((parts - weights["offsets"]) / weights["scales"]).sigmoid().prod(dim=1)
    torch.testing.assert_close(scorer(embeddings, logits), expected)


def test_thresholds_refuse_one_known_sound_in_twenty() -> None:
    """`unknown` is the 5 % quantile of the known scores; a model without a scorer has none."""
    sounds = [answered(0, 0.9, known=number / 100) for number in range(100)]
    threshold = fit_thresholds(sounds).unknown
    assert threshold is not None
    assert sum(one.known < threshold for one in sounds) == 5
    assert fit_thresholds([answered(0, 0.9, known=None)] * 5).unknown is None
    silent = [replace(one, active=False) for one in sounds]
    assert fit_thresholds(silent) == Thresholds(None, None)


def test_confidence_from_which_predictions_are_right() -> None:
    """Where the isotonic share of right predictions reaches 80 %; None if they always are, 1 if they never are."""
    confidences = np.linspace(0, 1, 1_000)
    correct = np.random.default_rng(0).random(1_000) < confidences
    assert confident_from(confidences, correct) == pytest.approx(0.8, abs=0.08)
    assert confident_from(confidences, np.ones(1_000, bool)) is None
    assert confident_from(confidences, np.zeros(1_000, bool)) == 1.0
    assert confident_from(np.array([0.1, 0.2, 0.7, 0.9]), np.array([False, False, True, True])) == 0.7


def test_class_thresholds_reach_the_precision() -> None:
    """The lowest evidence at which detections are precise enough; a class without false detections keeps the least."""
    known = [answered(0, c, 1.0) for c in (0.9, 0.8, 0.7, 0.6)] + [answered(1, c, 1.0) for c in (0.9, 0.5)]
    wrong = [answered(-1, c, 1.0, first=0) for c in (0.75, 0.65, 0.64)]
    thresholds = fit_class_thresholds(known, wrong, CLASSES, 0.95, 0.25)
    assert thresholds["low"] == pytest.approx(0.775)
    assert thresholds["high"] == 0.25
    assert thresholds["noise"] == 0.25
    assert fit_class_thresholds(known, wrong, CLASSES, 0.5, 0.25)["low"] == 0.25


def test_halves_never_separate_a_source() -> None:
    """About equal, every class in both, the sounds of a recording together."""
    sounds = [answered(label, 0.9, source=f"{label}-{take // 2}") for label in range(3) for take in range(12)]
    first, second = halves(sounds)
    assert len(first) == len(second) == 18
    assert not {one.sound.source for one in first} & {one.sound.source for one in second}
    assert {one.sound.label for one in first} == {one.sound.label for one in second} == {0, 1, 2}


def test_area_and_reliability() -> None:
    """By hand."""
    assert area_under_curve([1, 2, 3], [0, 2]) == pytest.approx((3 + 1.5) / 6)
    bins = metrics.reliability_bins(np.array([0.05, 0.91, 1.0]), np.array([False, True, False]))
    assert [(one.low, one.high, one.sounds, one.accuracy) for one in bins] == [(0.0, 0.1, 1, 0.0), (0.9, 1.0, 2, 0.5)]


def test_every_run_ends_with_a_scorer_and_thresholds(data: Path, run: Path, tmp_path: Path) -> None:
    """From the fold that is given, else from clips that the recipe holds out, else from training clips: the config
    names which. Without background there is no scorer."""
    config = read_config(run)
    assert config.training["answers"]["thresholds_from"] == "fold 3"
    assert config.answers.unknown_threshold is not None
    assert load_model(run).open_set is not None
    assert config.weights_sha256
    assert config.open_set_sha256
    assert config.frontend.level_dbfs == LEVEL_DBFS
    dataset = load_esc50(data)
    held_out = train(changed(SCORED, epochs=1, holdout=0.25), dataset, 3, tmp_path / "a", threshold_fold=3)
    assert held_out.training["answers"]["thresholds_from"] == "held-out part of the training folds"
    bare = TINY.model_copy(update={"open_set": OpenSetRecipe(background=0)})
    without = train(changed(bare, epochs=1), dataset, 3, tmp_path / "b")
    assert without.training["answers"]["thresholds_from"] == TRAINING_CLIPS
    assert without.answers.unknown_threshold is None
    assert load_model(tmp_path / "b").open_set is None


def test_answers_are_measured_as_the_service_gives_them(data: Path, run: Path, tmp_path: Path) -> None:
    """Verdicts of the recordings, cross-fitted on the fold of the thresholds; outside sounds by folder."""
    for name, index in (("hums", 4), ("songs", 2)):
        (tmp_path / "outside" / name).mkdir(parents=True)
        for number in range(4):
            sound = background(1, 8_000, 8_000, seed=9, first=5 * number + index)[0]
            soundfile.write(tmp_path / "outside" / name / f"{number}.wav", sound, 8_000)
    (tmp_path / "outside" / "songs" / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "outside" / "songs").rename(tmp_path / "music")
    (tmp_path / "outside" / "songs").symlink_to(tmp_path / "music")
    dataset = load_esc50(data)
    answers = measure_model(run, dataset, 3, folder_sounds(tmp_path / "outside", 8_000))
    assert answers.recordings == sum(answers.verdicts.values()) == 12
    assert list(answers.verdicts) == ["named", "unsure", "unknown", "silent"]
    assert answers.cross_fitted
    assert answers.correct == int((evaluate(run, dataset).predicted == evaluate(run, dataset).truth).sum())
    assert [(one.kind, one.sounds) for one in answers.outside] == [("hums", 4), ("songs", 4)]
    assert answers.undecodable == 1
    assert {one.kind for one in answers.background} == {"noise", "tones", "music", "speech", "hum", "syllables"}
    assert not measure_model(run, dataset, 2).cross_fitted
    evaluation = evaluate(run, dataset)
    again = measure_model(run, dataset, 3, recordings=evaluation.recordings[0])
    same = ("recordings", "correct", "verdicts", "correct_by_verdict", "cross_fitted")
    assert all(getattr(again, name) == getattr(answers, name) for name in same), "without a second pass"
    report = write_report(evaluate(run, dataset), tmp_path / "report", answers)
    assert report.answers == answers
    page = (tmp_path / "report" / "report.md").read_text()
    assert "| songs | 4 |" in page
    assert "fitted on the other half" in page
    assert (tmp_path / "report" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(EvaluationError, match="has no sound files"):
        folder_sounds(tmp_path / "report", 8_000)


def test_answers_of_a_trained_model_are_fitted_again(data: Path, run: Path, tmp_path: Path) -> None:
    """The weights stay; level, temperature and thresholds of the classes are fitted and stored."""
    dataset = load_esc50(data)
    recipe = changed(SCORED, epochs=3).model_copy(
        update={"frontend": SCORED.frontend.model_copy(update={"level_dbfs": None})}
    )
    before = train(recipe, dataset, 3, tmp_path / "old")
    assert before.frontend.level_dbfs is None
    config = refit_answers(tmp_path / "old", dataset, level=-20.0, temperature=True, precision=0.9)
    assert config == read_config(tmp_path / "old")
    assert config.weights_sha256 == before.weights_sha256
    assert config.frontend.level_dbfs == -20.0
    assert config.training["answers"]["thresholds_from"] == "fold 3"
    assert set(config.answers.class_thresholds) == set(CLASSES)
    assert load_model(tmp_path / "old").open_set is not None
    kept = refit_answers(tmp_path / "old", dataset)
    assert kept.frontend.level_dbfs == -20.0
    assert kept.temperature == config.temperature
    with pytest.raises(EvaluationError, match="other classes"):
        refit_answers(run, dataset.select_classes(CLASSES[:2], "two"))


def test_quiet_sounds_have_the_same_answer(data: Path, run: Path) -> None:
    """40 dB quieter: the features differ by rounding alone."""
    model = load_model(run)
    waves, _ = load_esc50(data).load(load_esc50(data).clips[:6], windows_of(1.0))
    with torch.no_grad():
        torch.testing.assert_close(model.frontend(waves), model.frontend(waves * 0.01), atol=0.02, rtol=0)


@pytest.mark.slow
def test_recording_of_hours_is_not_in_memory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its windows pass through the network while it is decoded, and are those of the whole sound; a sound of which the
    end is damaged leaves nothing behind."""
    model, rng = load_model(run), np.random.default_rng(0)
    blocks = [rng.normal(scale=0.1, size=2**18).astype(np.float32) for _ in range(30)]
    taken, when = 0, list[int]()

    def decoded() -> Iterator[NDArray[np.float32]]:
        nonlocal taken
        for block in blocks:
            taken += 1
            yield block

    def damaged() -> Iterator[NDArray[np.float32]]:
        yield blocks[0]
        raise AudioCorrupt("the end is damaged")

    def counted(*arguments: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        when.append(taken)
        return predict_with_embeddings(*arguments, **options)

    monkeypatch.setattr("training.eval.answers.predict_with_embeddings", counted)
    (streamed,) = listen(model, [Sound(damaged, "noise", ""), Sound(decoded, "noise", "")])
    assert when[0] < 20, "the network begins before the last block is decoded"
    (whole,) = listen(model, [Sound(lambda: [np.concatenate(blocks)], "noise", "")])
    np.testing.assert_array_equal(streamed.starts, whole.starts)
    np.testing.assert_array_equal(streamed.active, whole.active)
    torch.testing.assert_close(streamed.views, whole.views)
    assert streamed.seconds == whole.seconds == 30 * 2**18 / 8_000


def test_recipes_have_a_level_and_repeat_short_sounds_unless_they_say_otherwise(data: Path) -> None:
    """Recipes that were stored before keep theirs: neither. The statistics are those at the level."""
    assert load_recipe("small-cnn").frontend.level_dbfs == LEVEL_DBFS
    assert load_recipe("small-cnn", {"frontend.level_dbfs": "null"}).frontend.level_dbfs is None
    assert load_recipe("esc50-best").frontend.level_dbfs == LEVEL_DBFS
    stored = TINY.model_dump(mode="json")
    assert parse_stored(stored) == TINY
    del stored["frontend"]["level_dbfs"]
    del stored["frontend"]["repeat_pause"]
    assert parse_stored(stored).frontend.level_dbfs is None
    assert parse_stored(stored).frontend.repeat_pause is None
    assert load_recipe("small-cnn").frontend.repeat_pause == REPEAT_PAUSE
    assert load_recipe("small-cnn", {"frontend.repeat_pause": "null"}).frontend.repeat_pause is None
    quiet = TINY.model_copy(update={"frontend": TINY.frontend.model_copy(update={"level_dbfs": -40.0})})
    clips = list(load_esc50(data).clips)
    means = [set_up_training(one, load_esc50(data), clips).frontend.config.mean for one in (TINY, quiet)]
    assert means[1] < means[0] - 5


def test_written_recipe_keeps_a_missing_level(tmp_path: Path) -> None:
    """`null` survives recipe.yaml."""
    recipe: Recipe = load_recipe("esc50-small")
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    assert load_recipe(str(tmp_path / "recipe.yaml")) == recipe


def test_fine_tuning_gives_a_level_to_a_model_without_one(run: Path) -> None:
    """The level of the pretrained model if it has one, else that of the recipe."""
    config = load_pretrained(run).config
    assert for_fine_tuning(load_recipe("own-sounds"), config).frontend.level_dbfs == config.frontend.level_dbfs
    without = {"level_dbfs": None, "repeat_pause": None}
    old = config.model_copy(update={"frontend": config.frontend.model_copy(update=without)})
    fine_tuned = for_fine_tuning(load_recipe("own-sounds"), old).frontend
    assert (fine_tuned.level_dbfs, fine_tuned.repeat_pause) == (LEVEL_DBFS, REPEAT_PAUSE)
