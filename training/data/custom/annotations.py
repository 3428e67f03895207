"""Annotations of recordings: events with start, end and label, in the files that annotation programs write.

    rec.selections.txt, rec.Table.1.selections.txt   Raven selection table
    rec.txt, rec.labels.txt                          Audacity label track
    rec.jams                                         JAMS
    rec.csv, rec.detections.csv                      columns start, end and label (or their usual other names)

Each lies beside its recording, `rec.wav` here. The service and `otoscope classify` write all four for their detections.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

from shared.audio.decode import SoundStream
from shared.audio.probe import probe
from training.data.custom.labels import normalise_label
from training.data.custom.manifest import IMPORT_LIMITS
from training.data.custom.segments import cut_spans, to_int16
from training.data.custom.tables import FILE_COLUMNS, decode_table, delimiter_of
from training.errors import DatasetError, cause

_START = ("start", "onset", "begin", "begin time (s)", "start_time", "start (s)", "start_seconds", "start_time_seconds")
_END = ("end", "offset", "end time (s)", "stop", "end_time", "end (s)", "end_seconds", "end_time_seconds")
_DURATION = ("duration", "duration (s)", "duration_seconds")  # in place of an end
_LABEL = ("label", "class", "species", "annotation", "tag", "common name", "event_label", "name", "code")
_CONFIDENCE = re.compile(r" [01]\.\d\d$")  # which Otoscope writes behind the label of an Audacity track
_NAMES = re.compile(r"(.+?)(\.Table\.\d+)?(\.selections\.txt|\.labels\.txt|\.detections\.csv|\.jams|\.txt|\.csv)")
_AUDACITY = re.compile(r"[0-9.,]+\t[0-9.,]+\t")
_FLAC_MAX_RATE = 655_350  # Hz


_Row = tuple[int, Any, Any, Any]
"""Line number, start, end and label of an event; in place of the end also a pair of start and duration."""


@dataclass(frozen=True, order=True)
class Event:
    """A labelled part of a recording."""

    start: float  # seconds
    end: float
    label: str


def annotation_stem(name: str) -> str | None:
    """The name of the recording, without its extension, to which an annotation file belongs; None for other files."""
    match = _NAMES.fullmatch(name)
    return match[1] if match else None


def is_annotation(name: str, text: str) -> bool:
    """Whether a file beside a recording has events, and not notes or other data: `.txt` and `.csv` may be anything."""
    first = text.split("\n", 1)[0]
    lowered = name.lower()
    if lowered.endswith((".selections.txt", ".labels.txt", ".detections.csv", ".jams")):
        return True
    if lowered.endswith(".csv"):
        columns = {cell.strip().strip('"').lower() for cell in first.split(delimiter_of(first))}
        return bool(columns & set(_START)) and bool(columns & {*_END, *_DURATION})
    return "begin time (s)" in first.lower() or _AUDACITY.match(first) is not None


def read_event_table(name: str, text: str) -> dict[str, list[Event]]:
    """The events of each file of a CSV table with the columns file, start, end and label. Raises DatasetError."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter_of(text))
    column = next((one for one in reader.fieldnames or () if one.strip().lower() in FILE_COLUMNS), None)
    if column is None:
        raise DatasetError(f"{name} has no column file")
    rows: dict[str, list[_Row]] = {}
    for row, event in _rows(name, reader):
        rows.setdefault((row[column] or "").strip(), []).append(event)
    return {file: _events(name, own) for file, own in rows.items()}


def read_events(name: str, text: str) -> list[Event]:
    """The events of an annotation file; `name` decides its format. Raises DatasetError, which names the line."""
    lowered = name.lower()
    if lowered.endswith(".jams"):
        return _jams(name, text)
    if lowered.endswith(".csv"):
        return _table(name, text, delimiter_of(text))
    if lowered.endswith(".selections.txt") or "begin time (s)" in text.split("\n", 1)[0].lower():
        return _table(name, text, "\t")
    return _audacity(name, text)


def _table(name: str, text: str, delimiter: str) -> list[Event]:
    """A Raven selection table, or a CSV table. Raven lists a selection once for each view."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    return _events(name, (event for _, event in _rows(name, reader)))


def _rows(name: str, reader: "csv.DictReader[str]") -> Iterator[tuple[dict[str, Any], _Row]]:
    """Each row of a table, and its event. Raises DatasetError."""
    given = reader.fieldnames or ()
    columns = {column.strip().lower(): column for column in given}
    known = (_START, _END, _DURATION, _LABEL)
    start, end, duration, label = (next((columns[one] for one in names if one in columns), "") for names in known)
    if not (start and (end or duration) and label):
        raise DatasetError(f"{name} needs columns for start, end and label of an event; it has {', '.join(given)}")
    for row in reader:
        yield row, (reader.line_num, row[start], row[end] if end else (row[start], row[duration]), row[label])


def _audacity(name: str, text: str) -> list[Event]:
    rows = [(line, content.rstrip("\r").split("\t")) for line, content in enumerate(text.split("\n"), start=1)]
    rows = [(line, cells) for line, cells in rows if any(cells) and cells[0] != "\\"]  # lines of frequencies
    if bad := [line for line, cells in rows if len(cells) < 3]:
        raise DatasetError(f"{name}, line {bad[0]}: an Audacity label has start, end and text, separated by tabs")
    return _events(name, ((line, cells[0], cells[1], _CONFIDENCE.sub("", cells[2])) for line, cells in rows))


def _jams(name: str, text: str) -> list[Event]:
    try:
        tree = json.loads(text)
        rows = [row for annotation in tree["annotations"] for row in _observations(annotation["data"])]
        times = [(1, row["time"], row["time"] + row["duration"], _value(row["value"])) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"{name} is not a JAMS file with observations: {error!r}") from error
    return _events(name, times)


def _observations(data: Any) -> Iterable[Mapping[str, Any]]:
    """Rows; older versions store columns."""
    if isinstance(data, Mapping):
        return [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    return list(data)


def _value(value: Any) -> str:
    return str(value["label"] if isinstance(value, Mapping) else value)  # scaper's values are objects


def _events(name: str, rows: Iterable[_Row]) -> list[Event]:
    """Each event once, in order of time."""
    events: set[Event] = set()
    for line, start, end, label in rows:
        try:
            event = Event(_seconds(start), _seconds(end), normalise_label(str(label)))
        except ValueError as error:
            raise DatasetError(f"{name}, line {line}: start and end are seconds ({error})") from error
        if not 0 <= event.start <= event.end < float("inf"):
            raise DatasetError(f"{name}, line {line}: an event from {event.start:g} s to {event.end:g} s")
        if event.label:
            events.add(event)
    return sorted(events)


def _seconds(value: Any) -> float:
    """Some programs write a decimal comma. Of a pair the sum. Raises ValueError."""
    if isinstance(value, tuple):
        return sum(map(_seconds, value))
    return float(str(value).replace(",", "."))


def cut_events(data: bytes, events: Sequence[Event]) -> Iterator[tuple[Event, bytes]]:
    """Each event of a recording as a sound file of its own, mono and lossless at the rate of the recording; events in
    order of time, cut at the end of the recording. Of a recording of hours, one event is in memory.

    Raises an AudioError.
    """
    rate = probe(data, IMPORT_LIMITS).rate or 44_100  # the rate of some files is known only after decoding
    spans = [slice(round(event.start * rate), round(event.end * rate)) for event in events]
    for event, (_, samples) in zip(events, cut_spans(SoundStream(data, rate, IMPORT_LIMITS), spans), strict=True):
        file = io.BytesIO()
        format = "FLAC" if rate <= _FLAC_MAX_RATE else "WAV"
        soundfile.write(file, to_int16(np.ascontiguousarray(samples)), rate, "PCM_16", format=format)
        yield event, file.getvalue()


Parts = tuple[str, ...]
"""Of a path."""
Reader = Callable[[], bytes]
"""Reads a file; raises OSError."""


def events_beside(names: Sequence[Parts], read: Mapping[Parts, Reader]) -> dict[Parts, list[Event]]:
    """The events of each recording that has an annotation file beside it, by the parts of its path.

    `names` are the recordings, `read` all files. Raises DatasetError.
    """
    stems: dict[Parts, list[Parts]] = {}
    for parts in read:
        if (stem := annotation_stem(parts[-1])) is not None:
            stems.setdefault((*parts[:-1], stem), []).append(parts)
    found: dict[Parts, list[Event]] = {}
    for recording in names:
        stem = recording[-1].rpartition(".")[0]
        for parts in stems.get((*recording[:-1], stem), []):
            shown = "/".join(parts)
            try:
                text = decode_table(shown, read[parts]())
            except OSError as error:
                raise DatasetError(f"{shown} cannot be read: {cause(error)}") from error
            if is_annotation(shown, text):
                found[recording] = sorted({*found.get(recording, []), *read_events(shown, text)})
    return found
