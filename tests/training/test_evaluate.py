"""Metrics, reports, and the rejection of misleading evaluations."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shared.audio.decode import decode
from tests.support.tiny_recipe import TINY, changed
from tests.training.test_train import scalars
from training.data.base import DatasetInfo
from training.data.esc50 import load_esc50
from training.diagnostics import find_learning_rate, overfit_one_batch, read_curve
from training.errors import EvaluationError, RunError
from training.eval import metrics
from training.eval.answers import Recording, Sound
from training.eval.calibrate import fit_temperature, temperature_of
from training.eval.crossval import cross_validate
from training.eval.evaluate import Evaluation, evaluate
from training.eval.model_card import record_accuracy, render_model_card
from training.eval.predict import Precision, predict, predict_with_embeddings
from training.eval.report import write_report
from training.fit.loop import train
from training.fit.pretrained import load_pretrained
from training.recipe import DistillRecipe, TransferRecipe
from worker.model.checkpoint import load_model, read_config
from worker.pipeline.answer import combine_windows
from worker.pipeline.windows import split_windows


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for one epoch with fold 3 held out."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(changed(TINY, epochs=1), load_esc50(data), 3, out)
    return out


def test_metrics_against_manual_results() -> None:
    """Wilson interval, top-k, precision, recall, F1, confusions, calibration error."""
    truth = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    matrix = metrics.confusion_matrix(truth, predicted, 3)
    assert matrix.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    scores = metrics.class_scores(matrix, ["a", "b", "c"])
    assert (scores[0].precision, scores[0].recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (scores[1].precision, scores[1].recall, scores[1].f1) == (pytest.approx(2 / 3), 1.0, pytest.approx(0.8))
    assert (scores[2].precision, scores[2].f1) == (0.0, 0.0)
    assert [(c.truth, c.taken_for, c.clips) for c in metrics.confusions(matrix, ["a", "b", "c"])] == [
        ("a", "b", 1), ("c", "a", 1),
    ]  # fmt: skip
    low, high = metrics.wilson_interval(310, 400)
    assert (round(low, 4), round(high, 4)) == (0.7316, 0.8132)
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32)
    assert metrics.top_k_correct(np.array([1, 0]), probabilities, 2) == 1
    assert metrics.log_loss(np.array([0, 2]), probabilities) == pytest.approx(-(np.log(0.5) + np.log(0.7)) / 2)
    # one correct at 0.7, one wrong at 0.5, in separate bins
    assert metrics.calibration_error(np.array([1, 2]), probabilities) == pytest.approx((0.5 + 0.3) / 2)


def test_report_files_agree(data: Path, run: Path, tmp_path: Path) -> None:
    """JSON, Markdown, plot and labels are consistent."""
    evaluation = evaluate(run, load_esc50(data))
    report = write_report(evaluation, tmp_path / "report")
    report_json = json.loads((tmp_path / "report" / "report.json").read_text())
    truth, predicted = (np.load(tmp_path / "report" / f"{name}_labels.npy") for name in ("true", "pred"))
    assert report_json["correct"] == report.correct == int((truth == predicted).sum())
    assert report_json["clips"] == len(truth) == 12
    assert (tmp_path / "report" / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert f"{report.correct} of 12" in (tmp_path / "report" / "report.md").read_text()


def test_wrong_answers_are_shown_and_heard(data: Path, run: Path, tmp_path: Path) -> None:
    """One page with a spectrogram and a player for each; the name of a file is text, whatever it contains."""
    evaluation = evaluate(run, load_esc50(data))
    recordings = list(evaluation.recordings[0])
    for number, one in enumerate(recordings[:2]):
        path = one.sound.path.with_name(f"<script>{number}.wav") if one.sound.path else None
        other = (int(evaluation.predicted[number]) + 1) % 3
        recordings[number] = replace(one, sound=replace(one.sound, label=other, path=path))
    wrong = replace(evaluation, recordings=(tuple(recordings),))
    count = int((wrong.predicted != wrong.truth).sum())
    write_report(wrong, tmp_path / "report")
    page = (tmp_path / "report" / "wrong.html").read_text()
    assert f"{count} of 12 recordings have a wrong answer" in page
    assert page.count("data:image/png;base64,iVBOR") == page.count("data:audio/wav;base64,UklGR") == count >= 2
    assert "&lt;script&gt;1.wav" in page
    assert "<script" not in page


def test_training_fold_is_rejected_unless_allowed(data: Path, run: Path) -> None:
    """The accuracy on training clips is misleading; if it is allowed, the report carries a warning."""
    dataset = load_esc50(data)
    with pytest.raises(EvaluationError, match="memorisation rather than generalisation"):
        evaluate(run, dataset, 1)
    evaluation = evaluate(run, dataset, 1, allow_training_fold=True)
    assert evaluation.trained_on
    with pytest.raises(EvaluationError, match="not recorded"):
        record_accuracy(run, evaluation, write_report(evaluation, run / "e"))


def test_recorded_accuracy_is_in_config_and_model_card(data: Path, run: Path, tmp_path: Path) -> None:
    """One entry per protocol, however often it is measured; the model card states how to reproduce it."""
    evaluation = evaluate(run, load_esc50(data))
    report = write_report(evaluation, tmp_path / "report")
    for _ in range(2):
        config = record_accuracy(run, evaluation, report)
    assert read_config(run) == config
    assert [(a.correct, a.total) for a in config.accuracy] == [(report.correct, 12)]
    page = (run / "README.md").read_text()
    assert f"({report.correct} correct" in page
    assert "otoscope evaluate models/tiny" in page


@pytest.mark.parametrize(("folder", "name"), [("My dogs (2)", "my-dogs-2"), ("_ÄÖ", "model"), ("v1.2_b", "v1.2_b")])
def test_folder_of_any_name_gives_a_model_that_loads(
    folder: str, name: str, data: Path, run: Path, tmp_path: Path
) -> None:
    """A model is named after its folder, by what a name may have of it: the config is valid, and the commands of the
    card can be copied."""
    model = shutil.copytree(run, tmp_path / folder)
    evaluation = evaluate(model, load_esc50(data))
    record_accuracy(model, evaluation, write_report(evaluation, tmp_path / "report"))
    assert load_model(model).config.name == name
    assert f"otoscope evaluate models/{name} " in (model / "README.md").read_text()


def test_model_card_names_the_teachers_that_were_given(data: Path, run: Path, tmp_path: Path) -> None:
    """Not the one that a run trains itself, as its recipe says; those that were given in its place."""
    evaluation = evaluate(run, load_esc50(data))
    report = write_report(evaluation, tmp_path / "report")
    config, distill = evaluation.config, {"weight": 0.5, "teacher": "recipes/first.yaml", "temperature": 2.0}
    for names, options in ((["first"], ""), (["a", "b"], " --teacher models/a --teacher models/b")):
        recipe = {**config.training["recipe"], "distill": distill}
        training = {**config.training, "recipe": recipe, "teachers": [{"name": name} for name in names]}
        page = render_model_card(config.model_copy(update={"training": training}), report, evaluation.dataset)
        command = next(line for line in page.splitlines() if line.startswith("$ otoscope train"))
        assert f"{options} --out" in command
        assert command.count("--teacher") == options.count("--teacher")


def test_temperature_is_fitted_and_applied(data: Path, run: Path) -> None:
    """Scaled logits are corrected by the same factor; probabilities use the temperature of the config."""
    torch.manual_seed(0)
    logits = torch.randn(4_000, 5) * 2
    labels = torch.distributions.Categorical(logits=logits).sample()
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.1)
    evaluation = evaluate(run, load_esc50(data))
    hot = Evaluation(**{**vars(evaluation), "configs": (evaluation.config.model_copy(update={"temperature": 9.0}),)})
    assert hot.probabilities.max() < evaluation.probabilities.max()
    np.testing.assert_array_equal(hot.uncalibrated, evaluation.probabilities)
    np.testing.assert_array_equal(hot.predicted, evaluation.predicted)


def test_temperature_at_the_end_of_the_grid(capsys: pytest.CaptureFixture[str]) -> None:
    """Random logits of a huge scale: a warning; not for logits of an ordinary scale."""
    torch.manual_seed(0)
    logits, labels = torch.randn(200, 5), torch.randint(5, (200,))
    fit_temperature(logits + 3 * torch.nn.functional.one_hot(labels, 5), labels)
    assert "end of the grid" not in "".join(capsys.readouterr())
    assert fit_temperature(logits * 1_000, labels) == pytest.approx(31.6, rel=0.01)
    assert "the temperature 31.6 is at the end of the grid" in "".join(capsys.readouterr())


def test_silent_windows_have_no_part_in_the_temperature() -> None:
    """A long recording with one event: its pauses are not of its class."""
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (200,))
    events = torch.randn(200, 5) + 3 * torch.nn.functional.one_hot(labels, 5)
    recordings = [
        Recording(
            Sound(list, "", "", label=int(label)),
            torch.stack([event, *torch.randn(9, 5)])[None],
            torch.zeros(10, 1),
            np.arange(10) == 0,
            np.arange(10.0),
            10.0,
        )
        for label, event in zip(labels, events, strict=True)
    ]
    assert temperature_of(recordings) == pytest.approx(fit_temperature(events, labels))


def test_learning_rate_is_not_read_from_noise() -> None:
    """Neither a fall within the first steps nor the jump of one batch is the steepest descent."""
    losses = [3.0 - 0.5 * (step > 2) for step in range(50)]  # a fall at the start, then flat
    losses += [2.5 - 0.04 * step for step in range(40)] + [0.94 + 0.5 * step for step in range(10)]
    losses[30] -= 0.1
    steepest, lowest = read_curve(losses)
    assert 50 <= steepest < lowest
    assert lowest in (89, 90)
    with pytest.raises(RunError, match="falls at no learning rate"):
        read_curve([2.3 - 0.001 * (step % 7) for step in range(80)] + [2.3 + 0.5 * step for step in range(20)])


def test_long_clip_has_the_answer_of_the_service(data: Path, tmp_path: Path) -> None:
    """Its windows are combined as in the service; each model of an ensemble has its own windows."""
    dataset = load_esc50(data)
    short = TINY.model_copy(update={"frontend": TINY.frontend.model_copy(update={"window_seconds": 0.4})})
    train(changed(short, epochs=4), dataset, 3, tmp_path / "short")
    train(changed(TINY, epochs=4), dataset, 3, tmp_path / "whole")
    one, other, both = (
        evaluate([tmp_path / name for name in names], dataset) for names in (["short"], ["whole"], ["short", "whole"])
    )
    assert len(one.truth) == len(one.predicted) == 12
    model = load_model(tmp_path / "short")
    for clip, predicted in zip(dataset.split(3)[1], one.probabilities, strict=True):
        windows = [window for _, window in split_windows(decode(clip.path.read_bytes(), 8_000).waveform, 3_200)]
        assert len(windows) == 4
        logits, embeddings = predict_with_embeddings(
            model.frontend, model.network, torch.from_numpy(np.stack(windows)), "float32"
        )
        assert model.open_set
        known = model.open_set(embeddings, logits[0]).numpy()
        probabilities = logits[0].softmax(dim=1).numpy()
        expected = combine_windows(probabilities, known, np.ones(4, np.bool_), model.config.answers.combine)
        np.testing.assert_allclose(expected.confidences, predicted, atol=1e-5)
    np.testing.assert_allclose(both.probabilities, (one.probabilities + other.probabilities) / 2, atol=1e-6)
    cross = cross_validate(changed(short, epochs=1), dataset, [3, 2], tmp_path / "cv")
    assert cross.clips == 24


@pytest.mark.parametrize(("precision", "within"), [("float32", "ieee"), ("bfloat16", "tf32")])
def test_float32_disables_tf32(data: Path, run: Path, precision: Precision, within: str) -> None:
    """Otherwise cuDNN would use TF32 on GPUs; the previous setting is restored."""
    precisions: list[str] = []
    model = load_model(run)
    model.network.register_forward_pre_hook(lambda *_: precisions.append(torch.backends.cudnn.conv.fp32_precision))
    predict(model.frontend, model.network, torch.zeros(1, 8_000), precision)
    assert precisions == [within]
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    assert torch.backends.cudnn.allow_tf32


def test_views_and_ensembles(data: Path, run: Path, tmp_path: Path) -> None:
    """View 0 is the clip itself; a model twice equals the model; neither several views nor an ensemble are recorded."""
    dataset = load_esc50(data)
    one, rotated, twice = evaluate(run, dataset), evaluate(run, dataset, views=3), evaluate([run, run], dataset)
    torch.testing.assert_close(rotated.logits[0][:1], one.logits[0])
    assert rotated.forward_passes == 3
    assert not np.array_equal(rotated.probabilities, one.probabilities)
    np.testing.assert_allclose(twice.probabilities, one.probabilities, atol=1e-6)
    assert twice.parameters == 2 * one.parameters
    report = write_report(twice, tmp_path / "report")
    assert report.forward_passes == 2
    with pytest.raises(EvaluationError, match="one model with one view"):
        record_accuracy(run, twice, report)


def test_interval_counts_sources() -> None:
    """A hundred recordings of two machines are no hundred observations; of a hundred machines they are."""
    half = np.arange(100) < 50
    alone = metrics.source_interval(half, [str(number) for number in range(100)])
    assert alone == pytest.approx(metrics.wilson_interval(50, 100), abs=0.002)
    machines = ["a"] * 50 + ["b"] * 50
    low, high = metrics.source_interval(half, machines)
    assert (low, high) == pytest.approx(metrics.wilson_interval(0.5, 1)), "one machine right, one wrong: nothing known"
    assert metrics.source_interval(np.ones(100, bool), machines) == pytest.approx(metrics.wilson_interval(2, 2))


def test_cross_validation_resumes(data: Path, tmp_path: Path) -> None:
    """Every fold has a network of its own; finished folds are not trained again; temperatures come from the other
    folds."""
    dataset, recipe = load_esc50(data), changed(TINY, epochs=6)
    cross_validate(recipe, dataset, [3], tmp_path / "cv")
    written = (tmp_path / "cv" / "fold3" / "model.safetensors").stat().st_mtime_ns
    report = cross_validate(recipe, dataset, [3, 2, 1], tmp_path / "cv")
    assert (tmp_path / "cv" / "fold3" / "model.safetensors").stat().st_mtime_ns == written
    assert [one.fold for one in report.folds] == [3, 2, 1]
    assert report.clips == 36
    assert report.correct == sum(one.correct for one in report.folds)
    shares = [one.correct / one.clips for one in report.folds]
    assert report.mean == pytest.approx(np.mean(shares))
    assert report.deviation == pytest.approx(np.std(shares, ddof=1))
    assert [read_config(tmp_path / "cv" / f"fold{one.fold}").temperature for one in report.folds] == [
        one.temperature for one in report.folds
    ]
    report_json = json.loads((tmp_path / "cv" / "folds.json").read_text())
    assert report_json["correct"] == report.correct
    predicted, truth = (np.load(tmp_path / "cv" / f"{name}_labels.npy") for name in ("pred", "true"))
    assert int((predicted == truth).sum()) == report.correct


def test_lr_range_test_and_overfitting_check(data: Path, tmp_path: Path) -> None:
    """A plot with a plausible learning rate; one batch is fitted, and an error is raised if it cannot be."""
    dataset = load_esc50(data)
    found = find_learning_rate(TINY, dataset, 3, tmp_path / "lr")
    assert found.rates[0] < found.steepest < found.lowest
    assert 1e-4 < found.steepest < 0.5
    assert (tmp_path / "lr" / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    steps, _ = overfit_one_batch(TINY, dataset, 3)
    assert steps > 1
    distilled = TINY.model_copy(update={"distill": DistillRecipe(weight=0.5, teacher="esc50-best")})
    with pytest.raises(RunError, match=r"require a distill\.weight above 0"):
        find_learning_rate(distilled, dataset, 3, tmp_path / "lr")
    with pytest.raises(RunError, match="the recipe is broken"):
        overfit_one_batch(changed(TINY, max_lr=1e-9), dataset, 3, steps=3)


def test_lr_range_test_starts_like_training(data: Path, run: Path, tmp_path: Path) -> None:
    """With the same initial weights, frozen stages, teachers, class weights and accumulation: the same first loss."""
    dataset, start = load_esc50(data), load_pretrained(run)
    plain = changed(TINY, epochs=1, batch=12, accumulate=2)
    frozen = changed(plain, balance=True).model_copy(update={"start": TransferRecipe(head_epochs=1)})
    distilled = plain.model_copy(update={"distill": DistillRecipe(weight=0.5)})
    some = tuple(clip for clip in dataset.clips if clip.label or clip.fold != 1)
    uneven = replace(dataset, clips=some, info=DatasetInfo("others"))
    for name, recipe, sounds, options in (
        ("plain", plain, dataset, {}),
        ("start", changed(frozen, batch=10), uneven, {"pretrained": start}),
        ("distilled", distilled, dataset, {"teachers": [run]}),
    ):
        train(recipe, sounds, 3, tmp_path / name, **options)
        found = find_learning_rate(recipe, sounds, 3, tmp_path / name, 20, **options)
        assert found.losses[0] == pytest.approx(scalars(tmp_path / name, "loss")[0].value, rel=1e-5)
