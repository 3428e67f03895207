"""Options that several commands have."""

from typing import Annotated

import typer

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="OTOSCOPE_URL", metavar="URL", help="The service; http://127.0.0.1:8000 by default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
