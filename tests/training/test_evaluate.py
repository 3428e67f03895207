"""Figures, reports, and the fold that must not be reported."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.training.conftest import TINY, changed
from training import metrics
from training.dataset import load_esc50
from training.errors import EvaluationError
from training.evaluate import evaluate
from training.record import record
from training.report import write_report
from training.train import train
from worker.model.checkpoint import read_config


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for one epoch with fold 3 held out."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(changed(TINY, epochs=1), load_esc50(data), 3, out)
    return out


def test_figures_against_numbers_by_hand() -> None:
    """Accuracy interval, top-k, precision, recall, F1, confusions."""
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
    low, high = metrics.wilson(310, 400)
    assert (round(low, 4), round(high, 4)) == (0.7316, 0.8132)
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32)
    assert metrics.top_k(np.array([1, 0]), probabilities, 2) == 1


def test_report_is_whole(data: Path, run: Path, tmp_path: Path) -> None:
    """JSON, Markdown, picture and labels agree with each other."""
    evaluation = evaluate(run, load_esc50(data))
    report = write_report(evaluation, tmp_path / "report")
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    truth, predicted = (np.load(tmp_path / "report" / f"{name}_labels.npy") for name in ("true", "pred"))
    assert told["correct"] == report.correct == int((truth == predicted).sum())
    assert told["clips"] == len(truth) == 12
    assert (tmp_path / "report" / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert f"{report.correct} of 12" in (tmp_path / "report" / "report.md").read_text()


def test_training_fold_is_refused_unless_asked_for(data: Path, run: Path) -> None:
    """A figure on clips that the model knows is no accuracy; with the flag the report says so."""
    dataset = load_esc50(data)
    with pytest.raises(EvaluationError, match="memory, not hearing"):
        evaluate(run, dataset, 1)
    evaluation = evaluate(run, dataset, 1, allow_training_fold=True)
    assert evaluation.trained_on
    with pytest.raises(EvaluationError, match="not recorded"):
        record(run, evaluation, write_report(evaluation, run / "e"))


def test_recorded_figure_is_in_config_and_readme(data: Path, run: Path, tmp_path: Path) -> None:
    """Once a protocol, however often it is measured; the README says how to reproduce it."""
    evaluation = evaluate(run, load_esc50(data))
    report = write_report(evaluation, tmp_path / "report")
    for _ in range(2):
        config = record(run, evaluation, report)
    assert read_config(run) == config
    assert [(a.correct, a.total) for a in config.accuracy] == [(report.correct, 12)]
    page = (run / "README.md").read_text()
    assert f"({report.correct} right" in page
    assert "otoscope evaluate models/tiny" in page


def test_command_line(data: Path, run: Path, tmp_path: Path) -> None:
    """`otoscope evaluate` and `train`: figures on stdout, one-line errors."""
    import typer

    from otoscope import train_cli

    app = typer.Typer()
    app.command()(train_cli.evaluate)
    app.command()(train_cli.train)
    runner = CliRunner()
    told = runner.invoke(app, ["evaluate", str(run), "--data", str(data), "--out", str(tmp_path / "e")])
    assert told.exit_code == 0, told.output
    assert "of 12" in told.output
    refused = runner.invoke(app, ["train", "--data", str(tmp_path), "--out", str(tmp_path / "x")])
    assert isinstance(refused.exception, Exception)
    assert "is not an ESC-50 folder" in str(refused.exception)
    wrong = runner.invoke(app, ["train", "--data", str(data), "--out", str(tmp_path / "x"), "--set", "optim.epochs"])
    assert wrong.exit_code != 0
