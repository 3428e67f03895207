"""`otoscope listen`."""

from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otoscope.cli import INTERRUPTED
from otoscope.cli.options import Url
from otoscope.text import escape_controls

if TYPE_CHECKING:
    from otoscope.live import LiveAnswer


def listen(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-", help="A sound file, heard as it plays, or a pipe, - for stdin: WAV or 16-bit PCM."
        ),
    ],
    rate: Annotated[
        int, typer.Option(min=1, metavar="HZ", help="Of 16-bit PCM in a pipe; a WAV has its own.")
    ] = 16_000,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="One of `otoscope models`.")] = None,
    hop: Annotated[
        float | None, typer.Option(min=0.1, max=10, metavar="SECONDS", help="Time between two answers; 0.5 by default.")
    ] = None,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout, for programs.")] = False,
) -> None:
    """Classify sound while it is recorded.

    For example `arecord -q -f S16_LE -r 16000 -c 1 | otoscope listen -`. A line for each answer, and one for each
    detection that is over. Ctrl-C ends it.
    """
    from otoscope.cli.pipes import standard_input
    from otoscope.client import Client
    from otoscope.sources import from_file, from_pipe

    path = Path(source)
    if source == "-":
        # Without a buffer: the end of the program would wait for the thread that holds the lock of one.
        found, blocks = from_pipe(FileIO(standard_input().fileno(), closefd=False), rate)
    elif path.is_fifo():
        found, blocks = from_pipe(FileIO(path), rate)
    else:
        found, blocks = from_file(path)
    try:
        with Client(url) as client:
            for answer in client.stream_audio(blocks, found, model=model, hop=hop):
                if as_json:
                    print(answer.model_dump_json(by_alias=True), flush=True)
                    continue
                print(escape_controls(_line(answer)), flush=True)
                for one in answer.ended:
                    print(f"         {escape_controls(one.class_)} from {one.start:.1f} to {one.end:.1f} s", flush=True)
    except KeyboardInterrupt:  # its usual end, and no reason for a message
        raise SystemExit(INTERRUPTED) from None


def _line(answer: "LiveAnswer") -> str:
    """`   2.5 s  dog 93%; cat 4%  -23 dBFS`."""
    from otoscope.cli.tables import percent

    dropped = f"  ({answer.dropped} left out)" if answer.dropped else ""
    if answer.error is not None:
        return f"{answer.end:8.1f} s  {answer.error.title}: {answer.error.detail}{dropped}"
    level = answer.level.peak_dbfs if answer.level else None
    loud = "digital silence" if level is None else f"{round(level)} dBFS"
    names = "; ".join(f"{one.class_} {percent(one.confidence)}" for one in answer.predictions[:2])
    words = {"silent": "nothing to hear", "unknown": "unknown sound", "unsure": f"perhaps {names}"}
    return f"{answer.end:8.1f} s  {words.get(answer.verdict or '', names)}  {loud}{dropped}"
