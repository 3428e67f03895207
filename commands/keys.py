"""`otoscope keys create`, `list`, `revoke`: who may use a gateway, in the file that it reads."""

from pathlib import Path
from typing import Annotated

import typer

from shared.api_keys import Scope, new_key, read_keys, write_keys

keys = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Who may use a gateway: make keys, list them, revoke them. It notices within a second.",
)

File = Annotated[
    Path, typer.Option("--file", envvar="OTOSCOPE_KEYS_FILE", metavar="PATH", help="The file that the gateway reads.")
]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, for whoever reads the list.")],
    file: File,
    scope: Annotated[
        list[Scope], typer.Option(help="Once for each: submit sounds, read answers, admin for everything of everybody.")
    ],
    rate: Annotated[
        float | None, typer.Option(min=0.1, metavar="N", help="Submissions a minute; as many as it likes by default.")
    ] = None,
) -> None:
    """Make a key and print it. This once: what is kept of it is not enough to print it again."""
    known = read_keys(file) if file.exists() else {}
    key, text = new_key(name, scope, rate)
    write_keys(file, [*known.values(), key])
    print(text)


@keys.command("list")
def show(file: File) -> None:
    """The keys there are, without their secrets."""
    from rich.console import Console

    from commands.tables import keys_table

    Console(highlight=False).print(keys_table(read_keys(file).values()))


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `otoscope keys list` tells it.")], file: File
) -> None:
    """Refuse a key from now on."""
    known = read_keys(file)
    if known.pop(key_id, None) is None:
        raise ValueError(f"there is no key {key_id!r} in {file}")
    write_keys(file, known.values())
