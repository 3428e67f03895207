"""`otoscope ...`: the command line.

It starts fast: httpx2, numpy and pydantic are imported by the commands that need them. The commands that need the
service itself (`up`, `train`, `keys`, ...) belong to the application, another distribution, and are found through its
entry points in the group `otoscope.commands`. Where it is not installed they are listed all the same, and their error
names what to install.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, version
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from otoscope.cli import INTERRUPTED, INTERRUPTION, end_interrupted
from otoscope.cli.options import AsJson, Url
from otoscope.text import escape_controls

if TYPE_CHECKING:
    from types import FrameType

    from otoscope.client import Client

GROUP = "otoscope.commands"
"""The group of entry points. A value is a function, or a `typer.Typer` with commands of its own."""

APPLICATION_COMMANDS = {
    "up": "worker,local",
    **dict.fromkeys(("train", "evaluate", "lr-find", "overfit", "quantise", "runs", "data"), "worker,train"),
    "tune": "worker,train,tune",
    "export": "worker,onnx",
    "models add": "worker,train,audioset",
    "models average": "worker,train",
    "models join": "worker,train",
    "models push": "worker,train,hub",
    "models pull": "worker,train,hub",
    "keys": "",
    "settings": "",
}
"""The application's commands, and the extras of the application that each needs. A name of two words is a command of a
group of the client."""

_LAZY = {
    "classify": "otoscope.cli.classify",
    "listen": "otoscope.cli.listen",
    "bench": "otoscope.cli.bench",
    "top": "otoscope.top.cli",
}
"""Commands of the client whose modules are imported when they run."""

_ORDER = (
    "up",
    "classify",
    "listen",
    "jobs",
    "models",
    "train",
    "evaluate",
    "runs",
    "tune",
    "lr-find",
    "overfit",
    "quantise",
    "export",
    "keys",
)
"""The order of `otoscope --help`, that of a first session; other commands follow."""


_EXTRA: dict[str, EntryPoint] = {}


@cache
def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)} | _EXTRA


class _Group(TyperGroup):
    """A group of the client to which the application adds commands, under names of two words."""

    def _full_name(self, command: str) -> str:
        return f"{self.name} {command}"

    def list_commands(self, ctx: Any) -> list[str]:
        prefix = self._full_name("")
        added = [name.removeprefix(prefix) for name in APPLICATION_COMMANDS if name.startswith(prefix)]
        return [*super().list_commands(ctx), *added]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or _application_command(self._full_name(cmd_name))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:  # most imports of the application are inside its commands
            if (name := self._full_name(ctx.invoked_subcommand)) in APPLICATION_COMMANDS:
                _fail(_needs(name, f" ({error})"))
            raise  # as in the gateway's image, which lacks the client's packages


class _Commands(_Group):
    """`otoscope` itself: the client's commands, and those that entry points add."""

    def _full_name(self, command: str) -> str:
        return command

    def list_commands(self, ctx: Any) -> list[str]:
        names = dict.fromkeys([*super().list_commands(ctx), *_LAZY, *_installed()])
        return sorted(
            (name for name in names if " " not in name),
            key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER),
        )

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _LAZY:
            if signal.getsignal(signal.SIGINT) is _interrupt:  # asyncio cancels its tasks with the default one only
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return _command(cmd_name, getattr(import_module(_LAZY[cmd_name]), cmd_name))
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort):  # typer has no message for the first, and status 1 at a question
            end_interrupted()


def _application_command(name: str) -> Any:
    """None if there is no such command."""
    entry = _installed().get(name)
    try:
        if entry is not None:
            return _command(name.rpartition(" ")[2], entry.load())
    except ImportError as error:
        return _unavailable(name, f" ({error})")
    return _unavailable(name) if name in APPLICATION_COMMANDS else None


def _command(name: str, target: Callable[..., Any] | typer.Typer) -> Any:
    if isinstance(target, typer.Typer):
        group = typer.main.get_command(target)
        group.name = name
        return group
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command(name)(target)
    return typer.main.get_command(holder)


def _needs(name: str, why: str = "") -> str:
    """What to install for a command. The application is on no package index, so pip is given its folder."""
    extras = APPLICATION_COMMANDS.get(name, "")
    application = f"'.[{extras}]'" if extras else "."
    return (
        f"`otoscope {name}` needs the service, not just the client:"
        f" .venv/bin/pip install -e ./otoscope -e {application} in Otoscope's source folder{why}"
    )


def _unavailable(name: str, why: str = "") -> TyperCommand:
    """A command whose packages are not installed; it fails with what to install."""

    def fail(**_: Any) -> NoReturn:
        _fail(_needs(name, why))

    return TyperCommand(
        name.rpartition(" ")[2],
        callback=fail,
        help="Needs the service, which is not installed here.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"otoscope {version('otoscope')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Environmental sound classification with a view into the network."""


jobs = typer.Typer(no_args_is_help=True, help="Show jobs, wait for them, cancel them.")
models = typer.Typer(cls=_Group)

JobId = Annotated[str, typer.Argument(metavar="ID")]


@jobs.command()
def show(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show the current state of a job."""
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
    from otoscope.responses import job_error

    with _client(url) as client:
        job = client.wait(job_id, timeout)
    _show(job, as_json)
    if job_error(job):
        raise SystemExit(1)


@jobs.command()
def watch(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Follow the events of a job to its end. Exits with 1 if it failed."""
    from otoscope.responses import job_error

    failed = False
    with _client(url) as client:
        for event in client.stream(job_id):
            failed = job_error(event.job) is not None
            if as_json:
                line = event.job.model_dump_json(by_alias=True, exclude_none=True)
                print(f'{{"event":"{event.kind}","job":{line}}}', flush=True)
            elif event.kind == "result":
                _show(event.job, as_json)
            else:
                place = f", number {event.job.queue_position} in the queue" if event.job.queue_position else ""
                print(f"{escape_controls(event.job.status)}{place}", flush=True)
    if failed:
        raise SystemExit(1)


@jobs.command()
def cancel(job_id: JobId, url: Url = None) -> None:
    """Cancel a queued or running job; delete a finished one."""
    with _client(url) as client:
        client.cancel(job_id)


app.add_typer(jobs, name="jobs")


@models.callback(invoke_without_command=True)
def list_models(ctx: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """List the served models. `otoscope models add` adds one to those that can be served."""
    if ctx.invoked_subcommand:
        return
    from otoscope.cli.console import table_console
    from otoscope.cli.tables import models_table

    with _client(url) as client:
        served = client.models()
    if as_json:
        print(served.model_dump_json(by_alias=True))
    else:
        table_console().print(models_table(served))


app.add_typer(models, name="models")


def _client(url: str | None) -> "Client":
    from otoscope.client import Client

    return Client(url)


def _show(job: Any, as_json: bool) -> None:
    from otoscope.cli.console import table_console
    from otoscope.cli.tables import job_table

    if as_json:
        print(job.model_dump_json(by_alias=True, exclude_none=True))
    else:
        table_console().print(job_table(job))


def _fail(message: str) -> NoReturn:
    print(f"otoscope: {escape_controls(message, keep_lines=True)}", file=sys.stderr)
    raise SystemExit(1)


def _interrupt(number: int, frame: "FrameType | None") -> None:
    """Ctrl-C. During an import the process ends at once: native modules that are interrupted there, as torch, abort."""
    caller = frame
    while caller is not None:
        if caller.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"{INTERRUPTION}\n".encode())
            os._exit(INTERRUPTED)
        caller = caller.f_back
    signal.default_int_handler(number, frame)


def main(application: Iterable[EntryPoint] = ()) -> None:
    """The console script. An error is one line on stderr; OTOSCOPE_DEBUG=1 shows its traceback.

    `application` adds commands that no installed distribution declares, as in a source tree.
    """
    _EXTRA.update({entry.name: entry for entry in application})
    if sys.stdout is None:  # closed, as `>&-` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # as long as the program runs
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the encoding of the terminal may lack characters
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background job ignores it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except BrokenPipeError:
        # The reader of our output has closed it; Python would raise again at shutdown while flushing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if os.environ.get("OTOSCOPE_DEBUG"):
            raise
        _fail(_message(error))


def _message(error: Exception) -> str:
    """As other programs have it: `a.wav: No such file or directory`."""
    if isinstance(error, OSError) and error.strerror:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return error.strerror if name is None else f"{name}: {error.strerror}"
    return str(error) or type(error).__name__
