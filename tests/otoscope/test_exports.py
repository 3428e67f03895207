"""Each export read by the reader of its format, or by a strict one after its specification."""

import csv
import io
import json
import re
from typing import Any

import pytest

from otoscope.exports import FORMATS, Format, Recording, csv_text, export, file_name
from otoscope.results import Detection
from otoscope.types import Detection as TypedDetection
from otoscope.types import DetectionList

SIREN = Recording("recordings/siren.flac", 7_300.5, 44_100, "esc50")
PLAIN = [Detection("siren", 3_600.25, 3_661.5, 0.931, 3_601.0), Detection("dog", 0.5, 1.0, 0.5, 0.75)]
ODD_NAMES = [
    "=1+2", "+cmd|' /C calc'!A0", "-1", "@SUM(A1)", "＝1", "\t=1", "a\tb", "a\r\nb", "a\n\nb", 'a "quoted", name', '"',
    "<v Bob>&amp; --> 00:01", "line\u2028separator", "bell\x07\x00", "\u202egpj.exe", "naïve 狗", "\ud800lone", "NA",
    "WEBVTT", "\\\t1\t2",
]  # fmt: skip


def odd(format: Format) -> str:
    """An export whose classes and whose file have odd names."""
    detections = [Detection(name, float(n), n + 0.5, 0.5, n + 0.25) for n, name in enumerate(ODD_NAMES)]
    return export(format, detections, Recording("".join(ODD_NAMES), 60.0, 16_000, "m"))


def read_audacity(text: str) -> list[tuple[float, float, str]]:
    """Lines of start, end, label; Audacity takes a line that begins with a backslash for frequencies."""
    labels = []
    for line in text.removesuffix("\n").split("\n"):
        start, end, label = line.split("\t")
        assert re.fullmatch(r"\d+\.\d{6}", start)
        assert float(start) <= float(end)
        labels.append((float(start), float(end), label))
    return labels


def read_raven(text: str) -> list[dict[str, str]]:
    """A table with the columns that Raven requires; no quotation marks, which pandas and R would interpret."""
    assert '"' not in text
    header, *lines = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    assert all(len(line) == len(header) for line in lines)
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    for number, row in enumerate(rows, 1):
        assert (row["Selection"], row["View"], row["Channel"]) == (str(number), "Spectrogram 1", "1")
        assert float(row["Begin Time (s)"]) < float(row["End Time (s)"])
        assert 0 == float(row["Low Freq (Hz)"]) < float(row["High Freq (Hz)"])
        assert float(row["File Offset (s)"]) == float(row["Begin Time (s)"])
    return rows


def read_webvtt(text: str) -> list[tuple[float, float, str]]:
    """The grammar of a WebVTT file without headers, notes and settings: https://www.w3.org/TR/webvtt1/#syntax."""
    header, *blocks = re.split(r"\n\n+", text.removesuffix("\n"))
    assert header == "WEBVTT"
    cues, stamp = [], r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})"
    for block in blocks:
        timing, *payload = block.split("\n")
        match = re.fullmatch(rf"{stamp} --> {stamp}", timing)
        assert match, timing
        numbers = [int(group) for group in match.groups()]
        start, end = (h * 3_600 + m * 60 + s + ms / 1_000 for h, m, s, ms in (numbers[:4], numbers[4:]))
        assert end > start
        assert not cues or start >= cues[-1][0]
        (line,) = payload
        assert "-->" not in line
        assert "<" not in line
        assert not re.search(r"&(?!amp;|lt;|gt;)", line)
        cues.append((start, end, line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")))
    return cues


def read_jams(text: str) -> list[dict[str, Any]]:
    """The fields that the schema of JAMS 0.3 requires, and those of the namespace `tag_open`."""
    tree = json.loads(text)
    assert tree.keys() == {"annotations", "file_metadata", "sandbox"}
    about = tree["file_metadata"]
    assert all(isinstance(about[name], str) for name in ("title", "artist", "release"))
    assert isinstance(about["identifiers"], dict)
    assert about["duration"] >= 0
    assert re.fullmatch(r"\d\.\d\.\d", about["jams_version"])
    (annotation,) = tree["annotations"]
    assert annotation["namespace"] == "tag_open"
    assert isinstance(annotation["annotation_metadata"]["annotator"], dict)
    assert (annotation["time"], annotation["duration"]) == (0, about["duration"])
    for row in annotation["data"]:
        assert row.keys() == {"time", "duration", "value", "confidence"}
        assert row["time"] >= 0
        assert row["duration"] >= 0
        assert isinstance(row["value"], str)
    return list(annotation["data"])


def read_csv(text: str) -> list[dict[str, str]]:
    """RFC 4180: every record ends with CRLF and has as many cells as the header."""
    assert text.endswith("\r\n")
    assert not re.search(r"(?<!\r)\n", text)
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert {len(row) for row in rows} == {len(rows[0])}
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_csv() -> None:
    rows = read_csv(export("csv", PLAIN, SIREN))
    assert rows[1] == {
        "file": "recordings/siren.flac", "class": "siren", "start": "3600.25", "end": "3661.5", "confidence": "0.931",
        "peak": "3601",
    }  # fmt: skip
    assert [row["class"] for row in rows] == ["dog", "siren"]


def test_audacity() -> None:
    labels = read_audacity(export("audacity", PLAIN, SIREN))
    assert labels == [(0.5, 1.0, "dog 0.50"), (3_600.25, 3_661.5, "siren 0.93")]


def test_raven() -> None:
    """The box of a selection reaches up to half of the sample rate."""
    first, second = read_raven(export("raven", PLAIN, SIREN))
    assert (first["Class"], first["Confidence"], first["High Freq (Hz)"]) == ("dog", "0.5000", "22050.0")
    assert second["Begin Path"] == "recordings/siren.flac"
    assert float(second["File Offset (s)"]) == 3_600.25


def test_webvtt() -> None:
    cues = read_webvtt(export("webvtt", PLAIN, SIREN))
    assert cues == [(0.5, 1.0, "dog 50%"), (3_600.25, 3_661.5, "siren 93%")]


def test_jams() -> None:
    rows = read_jams(export("jams", PLAIN, SIREN))
    assert rows[1] == {"time": 3_600.25, "duration": 61.25, "value": "siren", "confidence": 0.931}


def test_json() -> None:
    found = DetectionList.model_validate_json(export("json", PLAIN, SIREN))
    assert (found.file, found.duration) == ("recordings/siren.flac", 7_300.5)
    assert [d.class_ for d in found.detections] == ["dog", "siren"]


def test_names_of_strangers_break_no_format() -> None:
    """As many rows as detections, in their order, and no cell that a spreadsheet evaluates."""
    count = len(ODD_NAMES)
    rows = read_csv(odd("csv"))
    assert len(rows) == count
    assert all(cell[:1] not in tuple("=+-@＝") for row in rows for cell in row.values() if cell)
    assert [start for start, _, _ in read_audacity(odd("audacity"))] == list(range(count))
    assert [float(row["Begin Time (s)"]) for row in read_raven(odd("raven"))] == list(range(count))
    assert [start for start, _, _ in read_webvtt(odd("webvtt"))] == list(range(count))
    assert [row["time"] for row in read_jams(odd("jams"))] == list(range(count))
    assert len(json.loads(odd("json"))["detections"]) == count
    for format in FORMATS:
        odd(format).encode("utf-8")


def test_very_short_and_simultaneous_detections() -> None:
    """A cue lasts at least a millisecond; several classes at once are several rows."""
    both = [Detection("dog", 1.0, 1.0001, 0.9, 1.0), Detection("cat", 1.0, 2.0, 0.8, 1.5)]
    assert [(start, end) for start, end, _ in read_webvtt(export("webvtt", both, SIREN))] == [(1.0, 1.001), (1.0, 2.0)]
    assert len(read_raven(export("raven", both, SIREN))) == 2


@pytest.mark.parametrize("format", FORMATS)
def test_no_detections(format: Format) -> None:
    """A valid file without rows."""
    text = export(format, [], SIREN)
    readers = {"csv": read_csv, "raven": read_raven, "webvtt": read_webvtt, "jams": read_jams}
    if format in readers:
        assert readers[format](text) == []
    elif format == "json":
        assert json.loads(text)["detections"] == []
    else:
        assert text == ""


def test_both_kinds_of_detections_are_accepted() -> None:
    """Those of a result with arrays, and those of a JSON result."""
    typed = [TypedDetection.model_validate({"class": d.class_, "start": d.start, "end": d.end,
                                            "confidence": d.confidence, "peak": d.peak}) for d in PLAIN]  # fmt: skip
    assert export("csv", typed, SIREN) == export("csv", PLAIN, SIREN)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("siren.flac", "siren.vtt"), ("a.b.wav", "a.b.vtt"), ("../../etc/passwd", "passwd.vtt"),
        ("C:\\x\\y.wav", "y.vtt"),
        (".hidden", "hidden.vtt"), ("", "sound.vtt"), (None, "sound.vtt"), ("..", "sound.vtt"),
        ('a"b|c?.wav', "a_b_c_.vtt"),
        ("a\r\nSet-Cookie: x.wav", "a  Set-Cookie_ x.vtt"), ("x" * 300 + ".wav", "x" * 120 + ".vtt"),
    ],
)  # fmt: skip
def test_file_names_are_safe(name: str | None, expected: str) -> None:
    assert file_name("webvtt", name) == expected


def test_an_apostrophe_marks_what_looks_like_a_formula() -> None:
    assert [csv_text(text) for text in ("=1", " -1", "dog-bark", "")] == ["'=1", "'-1", "dog-bark", ""]
