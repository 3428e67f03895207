"""`otoscope keys create`, `list`, `revoke`: the API keys of a gateway, in the file that it reads."""

from pathlib import Path
from typing import Annotated

import typer

from shared.api_keys import Scope, new_key, read_keys, write_keys

keys = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Create, list and revoke API keys. A gateway reads the file again within a second.",
)

File = Annotated[
    Path, typer.Option("--file", envvar="OTOSCOPE_KEYS_FILE", metavar="PATH", help="The file that the gateway reads.")
]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The owner, as shown in the list.")],
    file: File,
    scope: Annotated[
        list[Scope],
        typer.Option(help="`submit` sounds, `read` results, `admin`: all jobs and metrics; may be repeated."),
    ],
    rate: Annotated[
        float | None, typer.Option(min=0.1, metavar="N", help="Rate limit in submissions a minute; none by default.")
    ] = None,
) -> None:
    """Create a key and print it, once: only a hash of its secret is stored."""
    known = read_keys(file) if file.exists() else {}
    key, text = new_key(name, scope, rate)
    write_keys(file, [*known.values(), key])
    print(text)


@keys.command("list")
def show(file: File) -> None:
    """List the keys, without their secrets."""
    from commands.tables import keys_table
    from otoscope.cli.console import table_console

    table_console().print(keys_table(read_keys(file).values()))


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As in `otoscope keys list`.")], file: File
) -> None:
    """Delete a key; the gateway refuses it from then on."""
    known = read_keys(file)
    if known.pop(key_id, None) is None:
        raise ValueError(f"there is no key {key_id!r} in {file}")
    write_keys(file, known.values())
