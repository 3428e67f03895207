"""`otoscope classify`: verdicts and warnings in words, exported detections, tables of results that are resumed."""

import codecs
import csv
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from otoscope.cli.batch import SOUND_EXTENSIONS
from otoscope.cli.main import app
from otoscope.cli.report import Answer, JsonReport
from otoscope.exports import RESULT_COLUMNS, csv_row
from otoscope.types import ResultJSON
from shared.audio.formats import FORMATS
from tests.support.fake_service import DOG, RESULT, FakeService, answer, job_document, problem

Run = Callable[..., Result]

FIRST = RESULT | {"predictions": DOG[:1]}
DETECTIONS = [
    {"class": "dog", "start": 0.25, "end": 0.75, "confidence": 0.9, "peak": 0.5},
    {"class": "cat", "start": 1.0, "end": 2.5, "confidence": 0.4, "peak": 2.0},
]


@pytest.fixture
def run(service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(*arguments)` of `otoscope classify`, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTOSCOPE_URL", service.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda *arguments: CliRunner().invoke(app, ["classify", *map(str, arguments)], terminal_width=100)


@pytest.fixture
def sounds(tmp_path: Path) -> list[str]:
    """Three files, two of them in directories."""
    names = ["field/a.wav", "field/deep/b.flac", "field/c.ogg"]
    for name in [*names, "field/notes.txt", "field/.hidden.wav"]:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(name.encode())
    return names


def answers(service: FakeService, **result: Any) -> None:
    """The service answers every submission with these fields of a result."""
    service.outcome = lambda _, job_id: job_document(job_id, "succeeded", result=RESULT | result)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("named", "dog  90%  cat 10%"),
        ("unsure", "perhaps dog 90%  cat 10%"),
        ("unknown", "none of the model's classes (closest: dog 90%)"),
        ("silent", "nothing to hear"),
    ],
)
def test_a_verdict_is_shown_in_words(
    run: Run, service: FakeService, sounds: list[str], verdict: str, words: str
) -> None:
    """Every verdict is an answer: the exit status is 0."""
    answers(service, verdict=verdict)
    done = run(sounds[0])
    assert done.exit_code == 0, done.stderr
    line = done.stdout.splitlines()[1]
    assert "  ".join(filter(None, (cell.strip() for cell in line.split("  ")))) == f"field/a.wav  {words}"


def test_a_warning_is_a_line(run: Run, service: FakeService, sounds: list[str]) -> None:
    """On stderr, with its file and its code; JSON has it in the result."""
    answers(service, warnings=[{"code": "quiet", "detail": "It is quiet."}, {"code": "clipped", "detail": "Clipped."}])
    done = run(sounds[0])
    assert done.stderr.splitlines() == ["field/a.wav: It is quiet. (quiet)", "field/a.wav: Clipped. (clipped)"]
    done = run(sounds[0], "--json")
    assert done.stderr == ""
    assert [warning["code"] for warning in json.loads(done.stdout)["warnings"]] == ["quiet", "clipped"]


def test_options_are_sent(run: Run, service: FakeService, sounds: list[str]) -> None:
    """Those that are not given are the service's."""
    options = {
        "combine": "mean", "unknown_threshold": "0.5", "min_confidence": "0.0", "overlap": "0.75", "merge_gap": "2.0",
        "min_duration": "0.1", "channel": "2",
    }  # fmt: skip
    arguments = [each for name, value in options.items() for each in (f"--{name.replace('_', '-')}", value)]
    assert run(sounds[0], "--detections", "--strict", *arguments).exit_code == 0
    assert service.requests[0].fields == options | {"include": "detections", "strict": "true"}
    run(sounds[0])
    assert service.requests[1].fields == {}


def test_detections_are_a_second_table(run: Run, service: FakeService, sounds: list[str]) -> None:
    answers(service, detections=DETECTIONS)
    lines = run(sounds[0], "--detections").stdout.splitlines()
    assert [line.split() for line in lines[-2:]] == [
        ["field/a.wav", "0.25", "0.75", "dog", "90%"],
        ["field/a.wav", "1.00", "2.50", "cat", "40%"],
    ]


def test_an_export_goes_to_stdout(run: Run, service: FakeService, sounds: list[str]) -> None:
    """Nothing else does; `--format` requests the detections."""
    answers(service, detections=DETECTIONS)
    done = run(sounds[0], "--format", "audacity")
    assert done.stdout == "0.250000\t0.750000\tdog 0.90\n1.000000\t2.500000\tcat 0.40\n"
    assert service.requests[0].fields == {"include": "detections"}
    raven = run(sounds[0], "--format", "raven").stdout.splitlines()
    assert raven[1].split("\t")[7] == "field/a.wav"


def test_an_export_of_several_sounds(run: Run, service: FakeService, sounds: list[str], tmp_path: Path) -> None:
    """CSV is one table with one header; labels are one file for each sound; the same name is not written twice."""
    answers(service, detections=DETECTIONS)
    assert run(*sounds, "--format", "csv", "--out", "all.csv").exit_code == 0
    assert [row["file"] for row in rows(tmp_path / "all.csv")] == [name for name in sounds for _ in DETECTIONS]
    refused = run(*sounds, "--format", "webvtt", "--out", "all.vtt")
    assert (refused.exit_code, (tmp_path / "all.vtt").exists()) == (2, False)
    (tmp_path / "field" / "deep" / "a.flac").write_bytes(b"x")
    assert run("field", "--recursive", "--format", "webvtt", "--out", "labels/").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["a-2.vtt", "a.vtt", "b.vtt", "c.vtt"]
    lines = [json.loads(line) for line in run(*sounds, "--format", "json").stdout.splitlines()]
    assert [line["file"] for line in lines] == sounds


def test_a_directory_becomes_a_table_of_results(
    run: Run, service: FakeService, sounds: list[str], tmp_path: Path
) -> None:
    """One row for each sound, or for each of its detections; a bad file is a row with its error."""
    bad = {"code": "not_audio", "title": "t", "detail": "That is text."}
    service.outcome = lambda seen, job_id: (
        job_document(job_id, "failed", error=bad)
        if seen.filename == "b.flac"
        else job_document(job_id, "succeeded", result=FIRST | {"verdict": "unsure", "detections": DETECTIONS})
    )
    done = run("field", "--recursive", "--out", "results.csv")
    assert done.exit_code == 1
    assert done.stderr == "field/deep/b.flac: That is text. (not_audio)\n"
    found = {row["file"]: row for row in rows(tmp_path / "results.csv")}
    assert found.keys() == set(sounds)
    assert service.requests[0].fields == {"top_k": "1"}
    assert found["field/a.wav"] == {
        "file": "field/a.wav", "model": "tiny", "verdict": "unsure", "class": "dog", "confidence": "0.9", "start": "0",
        "end": "1", "warnings": "", "error": "",
    }  # fmt: skip
    assert found["field/deep/b.flac"]["error"] == "not_audio: That is text."
    assert run("field", "--recursive", "--detections", "--out", "heard.csv").exit_code == 1
    spans = [
        (row["class"], row["start"], row["end"]) for row in rows(tmp_path / "heard.csv") if row["file"] == sounds[0]
    ]
    assert spans == [("dog", "0.25", "0.75"), ("cat", "1", "2.5")]


def test_a_sound_without_detections_has_a_row(
    run: Run, service: FakeService, sounds: list[str], tmp_path: Path
) -> None:
    answers(service, verdict="silent", detections=[], warnings=[{"code": "silent", "detail": "."}])
    run(sounds[0], "--detections", "--out", "results.csv")
    (row,) = rows(tmp_path / "results.csv")
    assert (row["verdict"], row["class"], row["warnings"]) == ("silent", "", "silent")


def test_a_table_is_resumed(run: Run, service: FakeService, sounds: list[str], tmp_path: Path) -> None:
    """Sounds that are in it are not sent again, except after an error that may pass; refused without --resume."""
    table = tmp_path / "results.csv"
    codes = {"b.flac": "not_audio", "c.ogg": "deadline_exceeded"}
    service.outcome = lambda seen, job_id: (
        job_document(job_id, "failed", error={"code": codes[seen.filename or ""], "title": "t", "detail": "d"})
        if seen.filename in codes
        else job_document(job_id, "succeeded", result=FIRST)
    )
    arguments = ("field", "--recursive", "--out", "results.csv")
    assert run(*arguments).exit_code == 1
    assert run(*arguments).exit_code == 2
    assert len(service.requests) == 3
    codes.clear()
    (tmp_path / "field" / "=new.wav").write_bytes(b"x")
    assert run(*arguments, "--resume").exit_code == 0
    assert sorted(seen.filename or "" for seen in service.requests[3:]) == ["=new.wav", "c.ogg"]
    assert sorted(row["file"] for row in rows(table)) == ["field/=new.wav", *sounds[:1], sounds[2], sounds[1]]
    assert run(*(f"./{name}" for name in sounds), "--out", "results.csv", "--resume").exit_code == 0
    assert len(service.requests) == 5


def test_a_table_is_resumed_with_its_model(run: Run, service: FakeService, sounds: list[str], tmp_path: Path) -> None:
    """Answers of two models in one table could not be compared; without --model the default may have changed since."""
    answers(service, predictions=DOG[:1])
    run(sounds[0], "--out", "results.csv")
    (row,) = rows(tmp_path / "results.csv")
    done = run(*sounds, "--model", "other", "--out", "results.csv", "--resume")
    assert (done.exit_code, len(service.requests)) == (1, 1)
    assert f"results of the model {row['model']}, not of other" in str(done.exception)
    assert run(*sounds, "--out", "results.csv", "--resume").exit_code == 0
    assert {seen.fields["model"] for seen in service.requests[1:]} == {row["model"]}


@pytest.mark.parametrize("fault", ["missing", "rate_limited", "invalid_request", "unreachable"])
def test_what_is_not_the_fault_of_a_sound_is_resumed(
    run: Run, service: FakeService, sounds: list[str], tmp_path: Path, fault: str
) -> None:
    """A file that could not be read, an option that was wrong: after it has been mended, the sound is classified."""
    (tmp_path / sounds[0]).unlink()
    arguments = ("--out", "results.csv", "--resume")
    if fault == "missing":
        assert run(sounds[0], *arguments).exit_code == 1
    else:
        row = csv_row([sounds[0], *[None] * (len(RESULT_COLUMNS) - 2), f"{fault}: detail"])
        (tmp_path / "results.csv").write_bytes((csv_row(RESULT_COLUMNS) + row).encode())
    (tmp_path / sounds[0]).write_bytes(b"RIFF")
    answers(service, predictions=DOG[:1])
    assert run(sounds[0], *arguments).exit_code == 0
    assert [(row["class"], row["error"]) for row in rows(tmp_path / "results.csv")] == [("dog", "")]


def test_a_model_that_is_not_served_ends_the_run(
    run: Run, service: FakeService, sounds: list[str], tmp_path: Path
) -> None:
    """It would be the same for every file: one message, and no row."""
    service.first.extend([problem(404, "model_not_found")] * 3)
    done = run(*sounds, "--model", "nothing", "--out", "results.csv", "--parallel", "1")
    assert (done.exit_code, done.stderr, str(done.exception)) == (1, "", "that is model_not_found")
    assert (len(service.requests), (tmp_path / "results.csv").exists()) == (1, False)


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_table_that_a_killed_run_left_is_mended(
    run: Run, service: FakeService, sounds: list[str], tmp_path: Path, cut: int
) -> None:
    """Wherever its last line ends: the sound of that line is sent again, and each has all of its rows once."""
    answers(service, detections=DETECTIONS)
    table = tmp_path / "results.csv"
    arguments = ("field", "--recursive", "--detections", "--parallel", "1", "--out", "results.csv")
    run(*arguments)
    whole = table.read_bytes()
    table.write_bytes(whole[:-cut])
    assert run(*arguments, "--resume").exit_code == 0
    assert table.read_bytes() == whole
    assert len(service.requests) == 4


def test_a_table_that_an_editor_has_saved_is_resumed(
    run: Run, service: FakeService, sounds: list[str], tmp_path: Path
) -> None:
    """With other line ends, an empty line, and a byte order mark."""
    answers(service, predictions=DOG[:1])
    table = tmp_path / "results.csv"
    run(*sounds[:2], "--out", "results.csv")
    table.write_bytes(codecs.BOM_UTF8 + table.read_bytes().replace(b"\r\n", b"\n") + b"\n")
    assert run(*sounds, "--out", "results.csv", "--resume").exit_code == 0
    text = table.read_text(encoding="utf-8-sig")
    assert sorted(row["file"] for row in csv.DictReader(text.splitlines())) == sorted(sounds)
    assert len(service.requests) == 3


@pytest.mark.parametrize("out", ["field", "labels/", "/dev/null", "-", "none/results.csv"])
@pytest.mark.parametrize("extra", [(), ("--resume",), ("--format", "csv")])
def test_a_table_needs_a_place(
    run: Run, service: FakeService, sounds: list[str], tmp_path: Path, out: str, extra: tuple[str, ...]
) -> None:
    """What cannot be written is refused before anything is sent. Exports may go to a directory or to a device."""
    done = run(sounds[0], "--out", out, *extra)
    if extra == ("--format", "csv") and out in ("field", "labels/", "/dev/null"):
        assert done.exit_code == 0
        return
    assert done.exit_code == 2
    assert ("there is no directory none" if out.startswith("none") else f"{out} is no file") in done.stderr
    assert (service.requests, (tmp_path / "labels").exists()) == ([], False)


@pytest.mark.parametrize("out", ["field/a.wav", "other.FLAC"])
def test_a_sound_is_not_overwritten(
    run: Run, service: FakeService, sounds: list[str], tmp_path: Path, out: str
) -> None:
    """Of `--out *.wav`, the shell makes the first sound the file for the answers about the others."""
    done = run("--format", "csv", "--out", out, *sounds[1:])
    assert (done.exit_code, service.requests) == (2, [])
    assert "has the name of a sound" in done.stderr
    assert (tmp_path / sounds[0]).read_bytes() == sounds[0].encode()


def test_an_interrupted_run_prints_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    """Also behind a sound that takes longer."""
    result = ResultJSON.model_validate(RESULT)
    with suppress(KeyboardInterrupt), JsonReport(3) as report:
        report.add(2, "c.wav", Answer(["job2"], result))
        report.add(1, "b.wav", Answer(["job1"], result))
        raise KeyboardInterrupt
    assert [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()] == ["b.wav", "c.wav"]


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"a,b\r\n1,2\r\n", "has other columns"), ("Größe\r\n".encode("latin-1"), "is no text in UTF-8")],
)
def test_a_file_of_something_else_is_not_continued(
    run: Run, sounds: list[str], tmp_path: Path, body: bytes, words: str
) -> None:
    (tmp_path / "thesis.csv").write_bytes(body)
    done = run(sounds[0], "--out", "thesis.csv", "--resume")
    assert (done.exit_code, words in str(done.exception)) == (1, True)
    assert (tmp_path / "thesis.csv").read_bytes() == body


def test_an_unreachable_service_ends_the_run(run: Run, service: FakeService, sounds: list[str], tmp_path: Path) -> None:
    """No row is written for what was never answered."""
    service.close()
    assert run("field", "--recursive", "--out", "results.csv").exit_code == 1
    assert not (tmp_path / "results.csv").exists()


@pytest.mark.parametrize("arguments", [("--json", "--format", "csv"), ("--json", "--out", "x"), ("--resume",)])
def test_options_that_exclude_each_other(run: Run, sounds: list[str], arguments: tuple[str, ...]) -> None:
    assert run(sounds[0], *arguments).exit_code == 2


def test_directories_are_searched_for_every_format() -> None:
    """All that the service accepts but MPEG transport streams, whose usual extension is that of TypeScript."""
    assert {extension for each in FORMATS for extension in each.extensions} - SOUND_EXTENSIONS == {".ts"}
    assert all(extension in SOUND_EXTENSIONS for extension in (".wav", ".mp3", ".wv", ".3gp"))


def test_a_pipe_in_a_directory_is_no_sound(run: Run, sounds: list[str], tmp_path: Path) -> None:
    """Nothing waits for somebody who writes into it; a link whose target is gone is an error."""
    os.mkfifo(tmp_path / "field" / "pipe.wav")
    (tmp_path / "field" / "link.wav").symlink_to("gone.wav")
    done = run("field", "--recursive", "--json")
    assert done.exit_code == 1
    assert {json.loads(line)["file"] for line in done.stdout.splitlines()} == {*sounds, "field/link.wav"}
    assert done.stderr == "field/link.wav: no such file\n"


def test_a_directory_without_sounds(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("empty", "--recursive")
    assert (done.exit_code, "no sound files" in done.stderr) == (2, True)


def test_a_busy_service_is_waited_for(run: Run, service: FakeService, sounds: list[str]) -> None:
    service.first.append(problem(429, "queue_full", 0))
    assert run(sounds[0]).exit_code == 0


def test_a_job_without_a_result_is_an_error(run: Run, service: FakeService, sounds: list[str]) -> None:
    service.first.append(answer(job_document("job0", "succeeded", result=None)))
    done = run(sounds[0])
    assert done.exit_code == 1
    assert "has no result" in done.stderr


def test_standard_input(
    run: Run, service: FakeService, sounds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-` is a file like any other, also beside others."""
    result = CliRunner().invoke(app, ["classify", "--json", "-", sounds[0]], input=b"RIFF of a pipe")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["file"] for line in result.stdout.splitlines()] == ["-", sounds[0]]
    sent = {request.filename: request.file for request in service.requests if request.method == "POST"}
    assert sent["stdin"] == b"RIFF of a pipe"


def test_one_bad_name_does_not_stop_a_batch(run: Run, service: FakeService, sounds: list[str], tmp_path: Path) -> None:
    """A name that is not UTF-8, an address, a directory and a missing file: the others are classified, the exit status
    is 1."""
    strange = os.fsdecode(bytes(tmp_path) + b"/\xff.wav")
    Path(strange).write_bytes(b"strange")
    names = ["https://example.org/a.wav", strange, "field", "gone.wav", *sounds]
    for number, extra in enumerate(((), ("--json",), ("--out", "results.csv"))):
        result = run(*extra, *names)
        assert result.exit_code == 1, number
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert len([line for line in result.stderr.splitlines() if "example.org" in line or "gone.wav" in line]) == 2
    found = {row["file"]: row["verdict"] for row in rows(tmp_path / "results.csv")}
    assert len(found) == len(names)
    assert [name for name, verdict in found.items() if not verdict] == [
        "https://example.org/a.wav",
        "field",
        "gone.wav",
    ]
    assert run("--out", "results.csv", "--resume", *names[4:], strange).exit_code == 0
    assert len({row["file"] for row in rows(tmp_path / "results.csv")}) == len(names)
