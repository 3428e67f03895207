"""`otoscope settings`: what gateway and worker would run with here, what each setting does, and the same as files."""

import os
from enum import StrEnum
from typing import Annotated

import typer


class Form(StrEnum):
    TABLE = "table"
    MARKDOWN = "markdown"  # docs/settings.md
    ENV = "env"  # .env.example


def settings(
    form: Annotated[Form, typer.Option("--form", help="A table of what is set here, or a file.")] = Form.TABLE,
) -> None:
    """What the services would run with here, and what each setting does.

    Exit status 1 where they would not start.
    """
    from commands.settings_text import env_example, here, markdown

    if form is not Form.TABLE:
        print(markdown() if form is Form.MARKDOWN else env_example(), end="")
        return
    from rich.console import Console

    from commands.tables import settings_table
    from shared.config.settings import unknown_variables

    console = Console(highlight=False)
    console.print(settings_table(here()))
    for line in unknown_variables(os.environ):
        console.print(line, style="yellow")
