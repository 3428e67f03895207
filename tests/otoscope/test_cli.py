"""The command line as a program: stdout, stderr and exit status."""

import csv
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from otoscope.cli.batch import expand_globs
from otoscope.cli.console import SafeConsole
from otoscope.cli.main import app
from otoscope.cli.tables import models_table
from otoscope.types import ModelList
from tests.support.fake_service import CARD, RESULT, FakeService, answer, job_document, problem, sse

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(service: FakeService, tmp_path: Path) -> Run:
    """`run(*arguments)` in a directory of its own, with OTOSCOPE_URL at the fake service."""

    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = dict(os.environ, PYTHONPATH=os.getcwd(), OTOSCOPE_URL=service.url, COLUMNS="100") | environment
        command = [sys.executable, "-m", "otoscope", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, timeout=60)

    return start


@pytest.fixture
def sounds(tmp_path: Path) -> list[str]:
    names = ["a.wav", "b.wav", "c [take 2].wav"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    return names


def test_table(run: Run, sounds: list[str]) -> None:
    """Several files give one table in their order, and nothing on stderr without a terminal."""
    done = run("classify", *sounds)
    assert (done.returncode, done.stderr) == (0, "")
    _, *lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == sounds
    assert all("dog" in line and "90%" in line and "cat 10%" in line for line in lines)


def test_json_lines(run: Run, sounds: list[str], service: FakeService) -> None:
    """--json prints one object a file, in the order of the command line."""
    service.outcome = lambda seen, job_id: job_document(job_id, "succeeded")
    done = run("classify", "--json", "--top-k", "2", "--include", "maps,cam", "--model", "tiny", *sounds)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == sounds
    assert lines[0]["predictions"][0] == {"class": "dog", "confidence": 0.9}
    assert service.requests[0].fields == {"model": "tiny", "top_k": "2", "include": "maps,cam"}


def test_failed_files(run: Run, sounds: list[str], service: FakeService, tmp_path: Path) -> None:
    """Every failure is one line that names its file; the others are classified; the exit status is 1."""
    (tmp_path / "folder").mkdir()
    service.outcome = lambda seen, job_id: (
        job_document(job_id, "failed", error={"code": "not_audio", "title": "t", "detail": "that is text"})
        if seen.filename == "b.wav"
        else job_document(job_id, "succeeded")
    )
    arguments = ("classify", *sounds, "none.wav", "x*.wav", "folder")
    done = run(*arguments)
    assert done.returncode == 1
    assert sorted(done.stderr.splitlines()) == [
        "b.wav: that is text (not_audio)",
        "folder: a directory; --recursive classifies the sounds below it",
        "none.wav: no such file",
        "x*.wav: no file matches",
    ]
    done = run(*arguments, "--json")
    assert done.returncode == 1
    errors = {
        line["file"]: line["error"]["code"] for line in map(json.loads, done.stdout.splitlines()) if "error" in line
    }
    unreadable = dict.fromkeys(["none.wav", "x*.wav", "folder"], "unreadable_file")
    assert errors == {"b.wav": "not_audio", **unreadable}


def test_quoted_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sounds: list[str]) -> None:
    """A glob that the shell did not expand is expanded; an existing file with glob characters is that file."""
    monkeypatch.chdir(tmp_path)
    assert expand_globs(["?.wav"]) == ["a.wav", "b.wav"]
    assert expand_globs(["c [take 2].wav"]) == ["c [take 2].wav"]
    assert expand_globs(["none*"]) == ["none*"]


def test_parallel_is_bounded(run: Run, tmp_path: Path, service: FakeService) -> None:
    """Files are in flight concurrently, but never more than --parallel. Fewer than eight are sent one by one."""
    for number in range(7):
        (tmp_path / f"{number}.wav").write_bytes(b"RIFF")
    service.delay = 0.1
    assert run("classify", "*.wav", "--parallel", "3").returncode == 0
    assert service.most_active == 3


def test_no_service(run: Run, sounds: list[str]) -> None:
    """Without a service, one line names the remedy; not one line a file, and no traceback."""
    done = run("classify", *sounds, "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "otoscope up" in line


def test_jobs(run: Run, service: FakeService, sounds: list[str]) -> None:
    """show, wait, watch and cancel take the id that classify prints."""
    job_id = json.loads(run("classify", "--json", sounds[0]).stdout)["id"]
    assert "dog 90%" in run("jobs", "show", job_id).stdout
    assert json.loads(run("jobs", "wait", job_id, "--json").stdout)["status"] == "succeeded"
    service.streams.append(
        ([sse("status", 1, job_document(job_id, "queued")), sse("result", 2, job_document(job_id, "succeeded"))], False)
    )
    watched = run("jobs", "watch", job_id)
    assert (watched.returncode, watched.stdout.splitlines()[0]) == (0, "queued")
    assert "dog 90%" in watched.stdout
    assert run("jobs", "cancel", job_id).returncode == 0
    missing = run("jobs", "show", "none")
    assert (missing.returncode, missing.stderr) == (1, "otoscope: that is job_not_found\n")


def test_failed_job_sets_the_exit_status(run: Run, service: FakeService, sounds: list[str]) -> None:
    """`jobs wait` exits with 1 for a failed job."""
    error = {"code": "poison", "title": "t", "detail": "it kept killing its worker"}
    service.outcome = lambda _, job_id: job_document(job_id, "failed", error=error)
    assert run("classify", sounds[0]).returncode == 1
    done = run("jobs", "wait", "job0")
    assert done.returncode == 1
    assert "it kept killing its worker (poison)" in done.stdout


def test_models(run: Run, service: FakeService) -> None:
    """The table and --json list the models with their accuracy."""
    table = run("models").stdout
    assert "tiny (default)" in table
    assert "75.0% on sounds" in table
    assert json.loads(run("models", "--json").stdout)["default"] == "tiny"
    service.first.append(problem(503, "store_unavailable", 3_600))
    assert run("models").stderr == "otoscope: that is store_unavailable\n"


def test_closed_pipe(run: Run, service: FakeService, sounds: list[str]) -> None:
    """`otoscope ... | head` ends without a traceback."""
    command = f"{sys.executable} -m otoscope classify --json {sounds[0]} {sounds[1]} | true"
    environment = dict(os.environ, PYTHONPATH=os.getcwd(), OTOSCOPE_URL=service.url)
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


def test_closed_pipe_of_messages(run: Run, service: FakeService, sounds: list[str], tmp_path: Path) -> None:
    """`otoscope classify ... 2>&1 | head` ends, where the reader of the messages is gone."""
    error = {"code": "not_audio", "title": "t", "detail": "that is text"}
    service.outcome = lambda _, job_id: job_document(job_id, "failed", error=error)
    command = f"{sys.executable} -m otoscope classify a.wav b.wav 2>&1 >/dev/null | true"
    environment = dict(os.environ, PYTHONPATH=os.getcwd(), OTOSCOPE_URL=service.url)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True, timeout=10)


def test_an_encoding_without_some_characters(run: Run, service: FakeService, sounds: list[str], tmp_path: Path) -> None:
    """What the terminal's encoding lacks is escaped, in messages as well as in the table."""
    (tmp_path / "\u20ac.wav").write_bytes(b"RIFF")
    done = run("classify", "\u20ac.wav", "\u20ac\u20ac.wav", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (1, "\\u20ac\\u20ac.wav: no such file\n")
    assert done.stdout.splitlines()[1].startswith("\\u20ac.wav ")


def test_a_line_for_each_file(run: Run, service: FakeService, tmp_path: Path) -> None:
    """Line ends in the name of a file begin no other line of the table or of the messages."""
    (tmp_path / "a\nb.wav").write_bytes(b"RIFF")
    done = run("classify", "a\nb.wav", "c\nd.wav")
    assert done.stderr == "c\\nd.wav: no such file\n"
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[1:]] == ["a\\nb.wav", "c\\nd.wav"]


def test_a_full_disk(run: Run, service: FakeService, sounds: list[str], tmp_path: Path) -> None:
    """It is an error, after which the table has all rows of each of its sounds, and is continued."""
    many = [{"class": f"class {number}", "confidence": 0.5} for number in range(10)]
    service.outcome = lambda _, job_id: job_document(job_id, "succeeded", result=RESULT | {"predictions": many})
    arguments = ["-m", "otoscope", "classify", "*.wav", "--parallel", "1", "--out", "results.csv"]
    environment = dict(os.environ, PYTHONPATH=os.getcwd(), OTOSCOPE_URL=service.url)
    command = ["bash", "-c", 'ulimit -f 1; exec "$@"', "-", sys.executable, *arguments]  # files of up to 1 KB
    full = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (full.returncode, full.stderr) == (1, "otoscope: File too large\n")
    table = tmp_path / "results.csv"
    assert Counter(row["file"] for row in csv.DictReader(table.read_text().splitlines())) == dict.fromkeys(
        sounds[:2], 10
    )
    assert run("classify", "*.wav", "--out", "results.csv", "--resume").returncode == 0
    assert Counter(row["file"] for row in csv.DictReader(table.read_text().splitlines())) == dict.fromkeys(sounds, 10)


def test_a_table_is_mended_in_any_locale(run: Run, service: FakeService, tmp_path: Path) -> None:
    """It is UTF-8 wherever it is written."""
    table = tmp_path / "results.csv"
    for number, name in enumerate(["\xe9.wav", "b.wav"]):
        (tmp_path / name).write_bytes(b"RIFF")
        assert run("classify", name, "--out", "results.csv", *["--resume"][:number]).returncode == 0
    whole = table.read_bytes()
    table.write_bytes(whole[:-1])
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = run("classify", "b.wav", "--out", "results.csv", "--resume", **ascii_only)
    assert (done.stderr, table.read_bytes()) == ("", whole)


def test_names_of_models_are_whole(run: Run, service: FakeService) -> None:
    """In a pipe every model is one line. In a narrow terminal the other columns are folded, and nothing is left out."""
    names = ["tiny-" + 40 * "x", "tiny-" + 40 * "y"]
    body = {"default": names[0], "models": [CARD | {"name": name, "licence": "(non-commercial)"} for name in names]}
    service.first.append(answer(body))
    lines = run("models", COLUMNS="60").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == names
    console = SafeConsole(file=io.StringIO(), width=80, highlight=False)
    with console.capture() as printed:
        console.print(models_table(ModelList.model_validate(body)))
    assert "\u2026" not in printed.get()
    assert all(name in printed.get() for name in names)


def test_a_load_that_would_be_refused_is_not_measured(run: Run, service: FakeService, sounds: list[str]) -> None:
    """A sound or an option at fault is a message, not a number of errors."""
    for code in ("not_audio", "invalid_request"):
        service.first.append(problem(422, code))
        done = run("bench", "--seconds", "1", "--callers", "1", "--include", "maps", "a.wav")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"otoscope: that is {code}\n")
    seen = service.requests[-1]
    assert (len(service.requests), seen.file, seen.fields) == (2, b"a.wav", {"include": "maps"})


def test_a_load_without_an_answer_is_json(run: Run, service: FakeService, sounds: list[str]) -> None:
    """There are no latencies then, and JSON has no NaN."""
    service.first.extend([answer(job_document("job0", "succeeded")), *[problem(422, "not_audio")] * 10_000])
    done = run("bench", "--seconds", "1", "--callers", "1", "--json", "a.wav")
    (found,) = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (found["answers"], found["p50_ms"]) == (0, None)


def test_start_is_light() -> None:
    """`--help` imports nothing that only some commands need."""
    heavy = ("torch", "celery", "fastapi", "httpx2", "numpy", "redis", "pydantic")
    code = f"import sys, otoscope.cli.main; sys.exit([m for m in {heavy} if m in sys.modules] or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_lists_every_command(run: Run) -> None:
    """Commands of the application are listed without importing their packages."""
    listed = run("--help").stdout
    assert all(f"\n  {name} " in listed for name in ("up", "classify", "jobs", "models", "train", "evaluate"))
    assert "..." not in listed.replace("[ARGS]...", "")
    assert run("--version").stdout == f"otoscope {version('otoscope')}\n"


def test_help_of_a_command_has_the_same_form_everywhere(run: Run) -> None:
    """A flag takes no value, and a table of boxes is for what has columns."""
    for command in ("jobs show", "classify"):
        listed = run(*command.split(), "--help").stdout
        assert f"otoscope {command} [OPTIONS]" in listed.partition("\n")[0]
        assert "<bool>" not in listed


def test_commands_of_the_application_are_found_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """`train` has the options of its own module, which no other command imports; a failed import names the extras."""
    calls = []

    def train(recipe: str, epochs: int = 60) -> None:
        """Train a model."""
        calls.append((recipe, epochs))

    module = ModuleType("commands.train")
    monkeypatch.setattr(module, "train", train, raising=False)
    monkeypatch.setitem(sys.modules, "commands.train", module)
    assert CliRunner().invoke(app, ["train", "esc50", "--epochs", "2"]).exit_code == 0
    assert calls == [("esc50", 2)]
    monkeypatch.setitem(sys.modules, "commands.evaluate", None)
    missing = CliRunner().invoke(app, ["evaluate", "--model", "x"])
    assert missing.exit_code == 1
    assert ".venv/bin/pip install -e ./otoscope -e '.[worker,train]'" in missing.stderr


def test_a_package_that_a_command_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most imports of the application are inside its commands: they fail when the command runs."""

    def export() -> None:
        raise ModuleNotFoundError("No module named 'onnx'")

    module = ModuleType("commands.evaluate")
    monkeypatch.setattr(module, "export", export, raising=False)
    monkeypatch.setitem(sys.modules, "commands.evaluate", module)
    failed = CliRunner().invoke(app, ["export"])
    assert failed.exit_code == 1
    assert "-e '.[worker,onnx]'" in failed.stderr
    assert "No module named 'onnx'" in failed.stderr


def test_commands_that_are_not_installed_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client alone lists the application's commands; running one fails with what to install."""
    monkeypatch.setattr("otoscope.cli.main._installed", dict)
    listed = CliRunner().invoke(app, ["--help"]).stdout
    assert all(f"\n  {name} " in listed for name in ("up", "classify", "train", "keys", "settings", "top"))
    failed = CliRunner().invoke(app, ["train", "--recipe", "esc50-best"])
    assert (failed.exit_code, failed.stderr.count("\n")) == (1, 1)
    assert "`otoscope train` needs the service" in failed.stderr
    assert CliRunner().invoke(app, ["nonsense"]).exit_code == 2


@pytest.mark.parametrize("when", ["import", "run"])
def test_ctrl_c_is_one_line(when: str, tmp_path: Path) -> None:
    """Also while a module is imported, where it would be raised inside of native code; without a traceback."""
    stop = "os.kill(os.getpid(), signal.SIGINT)"
    at_import, at_run = (stop, "pass") if when == "import" else ("", stop)
    (tmp_path / "probing.py").write_text(f"import os, signal\n{at_import}\ndef run() -> None:\n    {at_run}\n")
    program = (
        "from importlib.metadata import EntryPoint; from otoscope.cli import main as cli;"
        " cli.main([EntryPoint('probing', 'probing:run', cli.GROUP)])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "probing"], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "otoscope: interrupted\n")


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    """As those of other programs do, without a number."""
    ended = subprocess.run(
        [sys.executable, "-m", "otoscope", "listen", "gone.wav"], env={**os.environ, "PYTHONPATH": os.getcwd()},
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (1, "otoscope: gone.wav: No such file or directory\n")
