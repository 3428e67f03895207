"""`otoscope settings`: the current value and the effect of every setting, as a table or as documentation files."""

import os
from enum import StrEnum
from typing import Annotated

import typer


class Form(StrEnum):
    TABLE = "table"
    MARKDOWN = "markdown"  # docs/settings.md
    ENV = "env"  # .env.example


def settings(
    form: Annotated[
        Form, typer.Option("--form", help="A table of the current values, or a documentation file.")
    ] = Form.TABLE,
) -> None:
    """Show the settings of the services, and their effects here.

    Exits with 1 if the services would not start with them.
    """
    from commands.settings_text import current, env_example, markdown

    if form is not Form.TABLE:
        print(markdown() if form is Form.MARKDOWN else env_example(), end="")
        return
    from commands.tables import settings_table
    from otoscope.cli.console import SafeConsole
    from shared.config.settings import unknown_variables

    console = SafeConsole(highlight=False)
    console.print(settings_table(current()))
    for line in unknown_variables(os.environ):
        console.print(line, style="yellow")
