"""The tables of the application's commands."""

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from shared.api_keys import Key, Scope


def keys_table(keys: Iterable[Key]) -> Table:
    """The API keys of a gateway."""
    table = Table(box=None, pad_edge=False)
    for column in ("id", "name", "scopes", "a minute", "created"):
        table.add_column(column)
    for key in keys:
        scopes = ", ".join(scope for scope in Scope if scope in key.scopes)
        rate = f"{key.rate_per_minute:g}" if key.rate_per_minute else "any"
        table.add_row(key.id, escape(key.name), scopes, rate, f"{key.created_at:%Y-%m-%d %H:%M}")
    return table


def runs_table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Training runs, one a line; what is too long for a terminal is folded."""
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def settings_table(rows: Iterable[tuple[str, str, str, bool, str]]) -> Table:
    """Rows of part, variable, value, whether it is set here, and effect; grouped by part, set values in bold."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("setting", no_wrap=True)
    table.add_column("here", overflow="fold", max_width=32)
    table.add_column("what it does", style="dim")
    last = None
    for part, name, value, is_set, effect in rows:
        if part != last:
            table.add_row(f"[bold]{part}[/bold]" if last is None else f"\n[bold]{part}[/bold]")
            last = part
        table.add_row(name, f"[bold green]{escape(value)}[/bold green]" if is_set else escape(value), escape(effect))
    return table
