"""The tables of the application's commands."""

import io
from collections import Counter

from rich.console import Console

from commands.tables import runs_table


def test_a_table_of_runs_is_as_wide_as_the_terminal() -> None:
    """Long changes and names are folded, and nothing of them is cut off."""
    titles = ["run", "recipe", "changes", "data", "epochs", "held out", "unseen clips", "95 % interval"]
    changes = "optim.max_lr=0.002 optim.epochs=80 network.widths=[32, 64, 128]"
    row = ["cv/own-sounds-fold5", "own-sounds from yamnet", changes, "ESC-50, 5", "80 of 80", "83.1%", "81.2%", "-"]
    output = io.StringIO()
    Console(file=output, width=80).print(runs_table(titles, [row]))
    printed = output.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    assert Counter("".join(printed.split())) == Counter("".join("".join([*titles, *row]).split()))
