"""`otoscope ...`: the command line.

Starts fast: what needs httpx, numpy, torch or the service's packages is imported by the command that needs it.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from shared.install_hints import install

if TYPE_CHECKING:
    from rich.console import Console

    from otoscope.client import Client

_LAZY = dict.fromkeys(("train", "evaluate", "lr-find", "overfit", "quantise", "export"), "commands.train")
_LAZY |= {
    "keys": "commands.keys",
    "data": "commands.data",
    "bench": "otoscope.cli.bench",
    "top": "otoscope.top.cli",
    "settings": "commands.settings",
}


class _Commands(TyperGroup):
    """Commands in the order of a first session; those of `_LAZY`, functions or groups of their own, are imported when
    they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_LAZY]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _LAZY:
            return super().get_command(ctx, cmd_name)
        try:
            module = import_module(_LAZY[cmd_name])
        except ImportError as error:
            return _unavailable(cmd_name, error)
        found: Callable[..., Any] | typer.Typer = getattr(module, cmd_name.replace("-", "_"))
        if isinstance(found, typer.Typer):
            group = typer.main.get_command(found)
            group.name = cmd_name
            return group
        holder = typer.Typer(add_completion=False)
        holder.command(cmd_name)(found)
        return typer.main.get_command(holder)


def _unavailable(name: str, error: ImportError) -> TyperCommand:
    """A command whose packages are not installed: listed all the same, and says what it needs."""

    def explain(**_: Any) -> NoReturn:
        _fail(f"{name} needs more than the client: {install('worker', 'train')} ({error})")

    return TyperCommand(
        name,
        callback=explain,
        help=f"Needs the extras `worker` and `train` ({error}).",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Environmental sound classification that can be looked into.",
)
jobs = typer.Typer(no_args_is_help=True, help="Look at jobs, wait for them, cancel them.")

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="OTOSCOPE_URL", metavar="URL", help="The service; http://127.0.0.1:8000 by default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
JobId = Annotated[str, typer.Argument(metavar="ID")]


@app.command()
def up(
    redis_url: Annotated[
        str | None,
        typer.Option(envvar="OTOSCOPE_REDIS_URL", metavar="URL", help="A running Redis instead of the embedded one."),
    ] = None,
) -> None:
    """Start everything here and stay up: server, worker, gateway. OTOSCOPE_PORT moves it."""
    from commands.stack.supervisor import StackFailed
    from commands.stack.up import up as run

    try:
        run(redis_url)
    except StackFailed as error:
        _fail(str(error))


@app.command()
def classify(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Sound files and globs such as 'sounds/*.ogg'.")
    ],
    model: Annotated[str | None, typer.Option(metavar="NAME", help="One of `otoscope models`.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many names for each sound.")] = None,
    include: Annotated[
        str | None,
        typer.Option(
            metavar="PART,...",
            help="With --json: maps, spectrogram, waveform, embedding, windows, cam, full_spectrogram.",
        ),
    ] = None,
    url: Url = None,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="For each file.")] = 120.0,
    parallel: Annotated[int, typer.Option(min=1, metavar="N", help="Files under way at a time.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Name sounds. Exits with 1 if any file failed."""
    from otoscope.calls import Options
    from otoscope.cli.batch import Report, classify_many, expand

    options = Options(model=model, top_k=top_k, include=include or (), timeout=timeout)
    report = Report(as_json, total=len(names := expand(files)))
    with report:
        failed = classify_many(names, url, options, parallel, report)
    if failed:
        raise SystemExit(1)


@jobs.command()
def show(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """A job as it is now."""
    with _client(url) as client:
        _show(client.job(job_id), as_json)


@jobs.command()
def wait(
    job_id: JobId,
    url: Url = None,
    timeout: Annotated[float | None, typer.Option(min=0, metavar="SECONDS")] = None,
    as_json: AsJson = False,
) -> None:
    """Wait until a job is finished. Exits with 1 if it failed."""
    from otoscope.responses import failure_of

    with _client(url) as client:
        job = client.wait(job_id, timeout)
    _show(job, as_json)
    if failure_of(job):
        raise SystemExit(1)


@jobs.command()
def watch(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Follow a job to its end. Exits with 1 if it failed."""
    from otoscope.responses import failure_of

    failed = False
    with _client(url) as client:
        for event in client.stream(job_id):
            failed = failure_of(event.job) is not None
            if as_json:
                line = event.job.model_dump_json(by_alias=True, exclude_none=True)
                print(f'{{"event":"{event.kind}","job":{line}}}', flush=True)
            elif event.kind == "result":
                _show(event.job, as_json)
            else:
                place = f", number {event.job.queue_position} in the queue" if event.job.queue_position else ""
                print(f"{event.job.status}{place}", flush=True)
    if failed:
        raise SystemExit(1)


@jobs.command()
def cancel(job_id: JobId, url: Url = None) -> None:
    """Cancel what waits or runs; forget what is finished."""
    with _client(url) as client:
        client.cancel(job_id)


app.add_typer(jobs, name="jobs")


@app.command()
def models(url: Url = None, as_json: AsJson = False) -> None:
    """What is served."""
    from otoscope.cli.tables import models_table

    with _client(url) as client:
        served = client.models()
    if as_json:
        print(served.model_dump_json(by_alias=True))
    else:
        _console().print(models_table(served))


def _client(url: str | None) -> "Client":
    from otoscope.client import Client

    return Client(url)


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


def _show(job: Any, as_json: bool) -> None:
    from otoscope.cli.tables import job_table

    if as_json:
        print(job.model_dump_json(by_alias=True, exclude_none=True))
    else:
        _console().print(job_table(job))


def _fail(message: str) -> NoReturn:
    print(f"otoscope: {message}", file=sys.stderr)
    raise SystemExit(1)


def main() -> None:
    """The console script. An error is one line on stderr; OTOSCOPE_DEBUG=1 shows where it came from."""
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Whoever read our output has had enough; Python would complain again while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if os.environ.get("OTOSCOPE_DEBUG"):
            raise
        _fail(str(error) or type(error).__name__)
