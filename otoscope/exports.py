"""Detections as files of other programs: CSV, Audacity labels, Raven selection tables, WebVTT, JAMS, JSON.

The gateway, the client and the command line render with these functions. They need the standard library alone. File
names and class names come from strangers, so each format replaces what would break it: `_line` removes line breaks,
tabs and other control characters; quotes, markup and formulas are treated where they mean something.
"""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

Format = Literal["json", "csv", "audacity", "raven", "webvtt", "jams"]

FORMATS: tuple[Format, ...] = get_args(Format)

RESULT_COLUMNS = ("file", "model", "verdict", "class", "confidence", "start", "end", "warnings", "error")
"""Of the table of many sounds: of `otoscope classify --out` and of a batch."""


class DetectionFields(Protocol):
    """What is read of a detection: `otoscope.results.Detection` and `otoscope.types.Detection` have it."""

    @property
    def class_(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def confidence(self) -> float: ...
    @property
    def peak(self) -> float: ...


@dataclass(frozen=True)
class Recording:
    """The sound that the detections are of."""

    name: str  # the file; for Raven also its path, as `Begin Path`
    duration: float  # seconds
    sample_rate: int  # Hz
    model: str


@dataclass(frozen=True)
class _Kind:
    """How a format is written and sent."""

    write: Callable[[Sequence[DetectionFields], Recording], str]
    media_type: str
    suffix: str  # of the name of a file of detections


def export(format: Format, detections: Iterable[DetectionFields], recording: Recording) -> str:
    """The text of a file in that format; to be encoded as UTF-8, with its line ends as they are."""
    ordered = sorted(detections, key=lambda detection: (detection.start, detection.end, detection.class_))
    return _KINDS[format].write(ordered, recording)


def media_type(format: Format) -> str:
    """The media type of a format, with its parameters."""
    return _KINDS[format].media_type


def file_name(format: Format, recording: str | None) -> str:
    """A name for the exported file that is safe on every file system: `siren.flac` -> `siren.detections.csv`.

    Directories, control characters and what Windows reserves are left out. At most 120 characters before the suffix.
    """
    last = re.split(r"[/\\]", recording or "")[-1]
    kept = re.sub(r'[<>:"|?*]', "_", _line(last))
    stem = re.sub(r"\.[^.]{1,5}$", "", kept).strip(" .")[:120].rstrip(" .")
    return f"{stem or 'sound'}{_KINDS[format].suffix}"


def result_rows(
    name: str, model: str, verdict: str, found: Sequence[tuple[str | float | None, ...]], warnings: Iterable[str]
) -> Iterator[str]:
    """The rows of a sound in the table of RESULT_COLUMNS, one for each class, confidence, start and end, in seconds, of
    `found`; one without them where nothing was found."""
    codes = " ".join(warnings)
    for each in found or [(None, None, None, None)]:
        yield csv_row((name, model, verdict, *each, codes, None))


def error_row(name: str, error: str) -> str:
    """The row of a sound without a result."""
    return csv_row((name, *[None] * (len(RESULT_COLUMNS) - 2), error))


def csv_row(cells: Iterable[str | float | None]) -> str:
    """A record of RFC 4180 with its CRLF. Texts are made harmless by `csv_text`; None is an empty cell."""
    buffer = io.StringIO()
    csv.writer(buffer).writerow(
        ["" if cell is None else csv_text(cell) if isinstance(cell, str) else _number(cell) for cell in cells]
    )
    return buffer.getvalue()


def csv_text(text: str) -> str:
    """A text as a cell: one line, and with an apostrophe before what a spreadsheet would take for a formula."""
    line = _line(text)
    return f"'{line}" if line.startswith(_FORMULA) else line


_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""Starts of a formula (https://owasp.org/www-community/attacks/CSV_Injection); some locales accept wide characters."""


def _csv(detections: Sequence[DetectionFields], recording: Recording) -> str:
    """RFC 4180 with a header."""
    rows = [csv_row([recording.name, d.class_, d.start, d.end, d.confidence, d.peak]) for d in detections]
    return "".join([csv_row(["file", "class", "start", "end", "confidence", "peak"]), *rows])


def _audacity(detections: Sequence[DetectionFields], recording: Recording) -> str:
    """A label track: start, end and label (https://manual.audacityteam.org/man/importing_and_exporting_labels.html)."""
    return "".join(f"{d.start:.6f}\t{d.end:.6f}\t{_line(d.class_)} {d.confidence:.2f}\n" for d in detections)


_RAVEN = (
    "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Begin Path",
    "File Offset (s)", "Class", "Confidence",
)  # fmt: skip


def _raven(detections: Sequence[DetectionFields], recording: Recording) -> str:
    """A selection table. A detection has no frequencies: its box is as high as the spectrogram.

    The readers of tables in R and pandas take a quotation mark for the start of a quoted cell, so there is none.
    """
    path, top = _line(recording.name).replace('"', "'"), f"{recording.sample_rate / 2:.1f}"
    lines = ["\t".join(_RAVEN)]
    for number, d in enumerate(detections, 1):
        begin, end = f"{d.start:.6f}", f"{d.end:.6f}"
        name = _line(d.class_).replace('"', "'")
        cells = (f"{number}", "Spectrogram 1", "1", begin, end, "0.0", top, path, begin, name, f"{d.confidence:.4f}")
        lines.append("\t".join(cells))
    return "".join(f"{line}\n" for line in lines)


def _webvtt(detections: Sequence[DetectionFields], recording: Recording) -> str:
    """Captions (https://www.w3.org/TR/webvtt1/): a cue for each detection; cues of several classes overlap."""
    cues = []
    for d in detections:
        begin = round(d.start * 1_000)
        end = max(round(d.end * 1_000), begin + 1)  # a cue that does not end after its start is invalid
        text = _line(d.class_).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        confidence = min(round(100 * d.confidence), 99)  # no answer is certain
        cues.append(f"\n{_clock(begin)} --> {_clock(end)}\n{text} {confidence}%\n")
    return "".join(["WEBVTT\n", *cues])


def _clock(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1_000)
    return f"{seconds // 3_600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"


def _jams(detections: Sequence[DetectionFields], recording: Recording) -> str:
    """A JAMS file (https://jams.readthedocs.io) with one annotation of the namespace `tag_open`.

    Tags may overlap, as detections do; the segments of `segment_open` may not.
    """
    data = [
        {
            "time": d.start,
            "duration": round(max(d.end - d.start, 0.0), 6),
            "value": _line(d.class_),
            "confidence": d.confidence,
        }
        for d in detections
    ]
    annotation = {
        "annotation_metadata": {
            "annotation_tools": "Otoscope",
            "annotator": {"model": recording.model},
            "data_source": "program",
        },
        "namespace": "tag_open",
        "data": data,
        "sandbox": {},
        "time": 0.0,
        "duration": recording.duration,
    }
    tree = {
        "annotations": [annotation],
        "file_metadata": {
            "title": _line(recording.name),
            "artist": "",
            "release": "",
            "duration": recording.duration,
            "identifiers": {},
            "jams_version": "0.3.4",
        },
        "sandbox": {},
    }
    return _json_text(tree)


def _json(detections: Sequence[DetectionFields], recording: Recording) -> str:
    """`otoscope.types.DetectionList`, on one line."""
    tree = {
        "file": _line(recording.name),
        "model": recording.model,
        "duration": recording.duration,
        "sample_rate": recording.sample_rate,
        "detections": [
            {"class": d.class_, "start": d.start, "end": d.end, "confidence": d.confidence, "peak": d.peak}
            for d in detections
        ],
    }
    return _json_text(tree)


def _json_text(tree: dict[str, Any]) -> str:
    return json.dumps(tree, allow_nan=False) + "\n"


_KINDS: dict[Format, _Kind] = {
    "json": _Kind(_json, "application/json", ".detections.json"),
    "csv": _Kind(_csv, "text/csv; charset=utf-8; header=present", ".detections.csv"),
    "audacity": _Kind(_audacity, "text/plain; charset=utf-8", ".labels.txt"),
    "raven": _Kind(_raven, "text/tab-separated-values; charset=utf-8", ".selections.txt"),
    "webvtt": _Kind(_webvtt, "text/vtt; charset=utf-8", ".vtt"),
    "jams": _Kind(_jams, "application/vnd.jams+json", ".jams"),
}


def _number(value: float) -> str:
    """Without an exponent, and without zeros at the end."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


_BREAKING = ("Cc", "Zl", "Zp", "Cs")
"""Unicode categories: control characters, separators of lines and paragraphs, and the surrogates that UTF-8 lacks."""


def _line(text: str) -> str:
    """One line of text that can be encoded, without spaces at its ends. Directions of writing are not overridden."""
    plain = "".join(
        " " if unicodedata.category(character) in _BREAKING or character in _DIRECTIONS else character
        for character in text
    )
    return plain.strip()


_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reverse what follows: with them `gpj.exe` looks like `exe.jpg`."""
