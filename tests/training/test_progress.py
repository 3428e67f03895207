"""Progress bars: one at a time on a terminal, none in a log."""

import io
from contextlib import redirect_stderr
from pathlib import Path

from tests.support.tiny_recipe import TINY, changed
from training.data.esc50 import load_esc50
from training.fit.answers import refit_answers
from training.fit.loop import train
from training.progress import progress_bar
from training.recipe import TransferRecipe

UP = "\x1b[A"
"""The cursor goes up a line: written by a bar that is below another one."""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_bar_at_a_time() -> None:
    """A bar inside another one is not shown; the next one is."""
    with redirect_stderr(Terminal()) as terminal:
        for _ in progress_bar(range(2), desc="outer"):
            assert list(progress_bar(range(3), desc="inner")) == [0, 1, 2]
        assert list(progress_bar(range(1), desc="next")) == [0]
    shown = terminal.getvalue()
    assert "outer:" in shown
    assert "next:" in shown
    assert "inner:" not in shown
    assert UP not in shown


def test_hidden_bar() -> None:
    """It is not shown, nor does it hide another one."""
    with redirect_stderr(Terminal()) as terminal:
        for _ in progress_bar(range(1), desc="outer", hidden=True):
            assert list(progress_bar(range(1), desc="inner")) == [0]
    assert "outer:" not in terminal.getvalue()
    assert "inner:" in terminal.getvalue()


def test_no_bar_in_a_log() -> None:
    with redirect_stderr(io.StringIO()) as log, progress_bar(total=2, desc="outer") as bar:
        bar.update()
    assert log.getvalue() == ""


def test_bars_of_a_training(data: Path, tmp_path: Path) -> None:
    """With a probe and a held-out part, and of answers that are fitted afterwards."""
    recipe = changed(TINY, holdout=0.3).model_copy(update={"start": TransferRecipe(probe=True)})
    with redirect_stderr(Terminal()) as terminal:
        train(recipe, load_esc50(data), 3, tmp_path / "run")
        refit_answers(tmp_path / "run", load_esc50(data))
    shown = terminal.getvalue()
    assert UP not in shown
    for title in ("decode", "statistics", "probe", "train", "thresholds", "known sounds", "background"):
        assert f"{title}:" in shown
