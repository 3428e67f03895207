"""Annotations with start and end become training sounds: formats that Otoscope writes, and those of other programs."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from otoscope.exports import Recording, export, file_name
from otoscope.results import Detection
from shared.audio.decode import decode
from tests.support.sounds import encode, tone
from training.data.custom.annotations import Event, read_events
from training.data.custom.folders import import_folder, import_zip
from training.data.custom.importers import import_csv
from training.data.custom.manifest import read_manifest
from training.data.custom.split import read_split
from training.errors import DatasetError

RATE = 8_000
EVENTS = [Event(0.5, 1.5, "dog"), Event(1.25, 2.0, "rain"), Event(2.5, 3.0, "dog")]


def write_recording(path: Path) -> Path:
    """Four seconds whose frequency rises by 400 Hz every half second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [tone(0.5, RATE, hz=300 + 400 * number, level=0.4) for number in range(8)]
    path.write_bytes(encode(np.concatenate(parts), RATE))
    return path


def check(root: Path, recording: Path) -> None:
    """The data set has the three events, cut out of the recording, which is the source of all."""
    whole = decode(recording.read_bytes(), RATE).waveform
    entries = read_manifest(root)
    assert [(entry.label, entry.origin.split("#t=")[1]) for entry in entries] == [
        ("dog", "0.5,1.5"), ("rain", "1.25,2"), ("dog", "2.5,3"),
    ]  # fmt: skip
    assert len({entry.source for entry in entries}) == 1
    for entry, event in zip(entries, EVENTS, strict=True):
        cut = decode((root / entry.file).read_bytes(), RATE).waveform
        expected = whole[round(event.start * RATE) : round(event.end * RATE)]
        assert len(cut) == len(expected)
        assert np.abs(cut - expected).max() < 1e-3


@pytest.mark.parametrize("format", ["audacity", "raven", "jams", "csv"])
def test_what_otoscope_writes(format: str, tmp_path: Path) -> None:
    """Detections exported by Otoscope beside a recording are imported as they are, and again nothing is added."""
    recording = write_recording(tmp_path / "field" / "night.wav")
    detections = [Detection(event.label, event.start, event.end, 0.9, event.start) for event in EVENTS]
    text = export(format, detections, Recording("night.wav", 4.0, RATE, "esc50"))  # type: ignore[arg-type]
    (recording.parent / file_name(format, "night.wav").replace(".labels", "")).write_text(text)  # type: ignore[arg-type]
    write_recording(tmp_path / "field" / "other.wav")
    (recording.parent / "other.txt").write_text("notes on the weather\n")
    result = import_folder(tmp_path / "field", tmp_path / "sounds")
    assert (result.added, len(result.skipped)) == (3, 1)
    assert "other.wav: has no annotation file beside it" in result.skipped[0]
    check(tmp_path / "sounds", recording)
    again = import_folder(tmp_path / "field", tmp_path / "sounds")
    assert (again.added, again.unchanged) == (0, 3)


def test_one_table_for_many_recordings(tmp_path: Path) -> None:
    """A CSV table with the columns file, start, end and label; a file that does not exist is skipped."""
    recording = write_recording(tmp_path / "night.wav")
    rows = "".join(f"night.wav,{event.start},{event.end},{event.label}\n" for event in EVENTS)
    (tmp_path / "events.csv").write_text(f"file,start,end,label\n{rows}gone.wav,0,1,dog\n")
    result = import_csv(tmp_path / "events.csv", tmp_path / "sounds")
    assert (result.added, len(result.skipped)) == (3, 1)
    assert "gone.wav: No such file" in result.skipped[0]
    check(tmp_path / "sounds", recording)


def test_zip_with_a_split(tmp_path: Path) -> None:
    """In a ZIP archive as well, and in the folders of a split, which is adopted."""
    recording = write_recording(tmp_path / "night.wav")
    labels = "".join(f"{event.start}\t{event.end}\t{event.label}\n" for event in EVENTS)
    with zipfile.ZipFile(tmp_path / "field.zip", "w") as file:
        for part in ("train", "test"):
            file.writestr(f"{part}/x/{part}.wav", recording.read_bytes() + bytes(2 if part == "test" else 0))
            file.writestr(f"{part}/x/{part}.txt", labels.replace("0.5", "0.25") if part == "test" else labels)
    result = import_zip(tmp_path / "field.zip", tmp_path / "sounds")
    assert result.added >= 4
    assert sorted(read_split(tmp_path / "sounds").values()) == ["test", "train"]


def test_formats_of_other_programs() -> None:
    """A Raven table with a row for each view, an Audacity track with frequencies and decimal commas, older JAMS with
    columns and values of scaper."""
    titles = "Selection\tView\tBegin Time (s)\tEnd Time (s)\tSpecies\n"
    raven = f"{titles}1\tWaveform 1\t0,5\t1.5\tdog\n1\tSpectrogram 1\t0.5\t1.5\tdog\n"
    assert read_events("a.Table.1.selections.txt", raven) == [Event(0.5, 1.5, "dog")]
    assert read_events("a.txt", "0.5\t1.5\tdog\r\n\\\t100\t900\r\n") == [Event(0.5, 1.5, "dog")]
    data = {"time": [0.5], "duration": [1.0], "value": [{"label": "dog"}], "confidence": [None]}
    jams = json.dumps({"annotations": [{"namespace": "scaper", "data": data}]})
    assert read_events("a.jams", jams) == [Event(0.5, 1.5, "dog")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.labels.txt", "0.5\t1.5\n", "line 1: an Audacity label has start, end and text"),
        ("a.labels.txt", "2\t1\tdog\n", "line 1: an event from 2 s to 1 s"),
        ("a.detections.csv", "start,end,label\nx,1,dog\n", "line 2: start and end are seconds"),
        ("a.selections.txt", "Selection\tBegin Time (s)\n1\t2\n", "needs columns for start, end and label"),
        ("a.jams", "{}", "is not a JAMS file"),
    ],
)
def test_broken_files(name: str, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_events(name, text)
