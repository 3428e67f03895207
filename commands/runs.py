"""`otoscope runs`: compares training runs in a table and a plot."""

from pathlib import Path
from typing import Annotated

import typer


def runs(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Runs at any depth below it.")] = Path("runs"),
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw the learning curves into a PNG.")
    ] = None,
) -> None:
    """Compare training runs. Recipe and changes, epochs, accuracy on held-out and on unseen clips, best first."""
    from commands.tables import runs_table
    from otoscope.cli.console import table_console
    from training.runs import find_runs, save_plot, table

    found = find_runs(root)
    titles, *rows = table(found, root)
    table_console().print(runs_table(titles, rows))
    if plot:
        save_plot(plot, found, root)
        print(f"Learning curves: {plot}")
