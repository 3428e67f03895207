"""The learning curve of a run: its file, which a resumed run goes on with, and its lines in the terminal."""

from pathlib import Path

import pytest

from training.fit.history import History, curve_lines, read_history, sparkline


def test_a_resumed_run_goes_on(tmp_path: Path) -> None:
    """Epochs behind the checkpoint are written again; metrics that a run lacks stay empty."""
    first = History(tmp_path, 0)
    for epoch in (1, 2, 3):
        first.add(epoch, {"loss": 1 / epoch, "accuracy": 0.5, "lr": 1e-3})
    again = History(tmp_path, 2)
    again.add(3, {"loss": 0.25, "accuracy": 0.75, "lr": 1e-3, "val_accuracy": 0.6})
    rows = read_history(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert (rows[2]["loss"], rows[2]["val_accuracy"]) == (0.25, 0.6)
    assert "val_accuracy" not in rows[1]
    assert (tmp_path / "history.csv").read_text().splitlines()[1] == "1,1,0.5,0.001,,"
    (tmp_path / "history.csv").write_text("epoch,loss\nx,y\n")
    assert read_history(tmp_path) == []


@pytest.mark.parametrize(
    ("values", "text"), [([0, 1], "▁█"), ([1.0], "▁"), ([2, 2, 2], "▁▁▁"), (list(range(80)), None)]
)
def test_sparkline(values: list[float], text: str | None) -> None:
    line = sparkline(values)
    assert line == text if text else len(line) == 40 and sorted(line) == list(line)


def test_lines() -> None:
    rows = [{"epoch": 1, "loss": 2.0, "val_accuracy": 0.3}, {"epoch": 2, "loss": 0.5, "val_accuracy": 0.94}]
    assert curve_lines(rows) == ["loss                █▁  2.00 -> 0.50", "accuracy, held out  ▁█  30% -> 94%"]
    assert curve_lines(rows[:1]) == []
