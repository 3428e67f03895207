"""Many sounds from the Python client and the command line, over `/v1/batches` of a real gateway."""

import asyncio
import csv
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from otoscope import AsyncClient, Client
from otoscope.cli.main import app
from otoscope.errors import AudioEmpty, NotAudio, PayloadTooLarge
from tests.api.conftest import FakeWorker, wav

pytestmark = pytest.mark.slow


@pytest.fixture
def busy(http: httpx2.Client, busy_worker: FakeWorker) -> str:
    """The address of a gateway whose jobs are finished by a worker."""
    return str(http.base_url).rstrip("/")


def test_many_sounds_are_classified(busy: str, tmp_path: Path) -> None:
    """In their order, paths, bytes and samples; each bad one fails alone."""
    path = tmp_path / "dog: 1.wav"
    path.write_bytes(wav())
    sounds = [
        path, wav(), tmp_path / "none.wav", b"", b"no sound at all", b"PK\x03\x04", [0.0] * 8_000, bytes(40_000_000),
    ]  # fmt: skip
    with Client(busy) as client:
        found = client.classify_many(sounds, rate=8_000, top_k=1)
    kinds = [type(each.error) for each in found]
    none = type(None)
    assert kinds == [none, none, FileNotFoundError, AudioEmpty, NotAudio, NotAudio, none, PayloadTooLarge], found
    assert [each.name for each in found][:2] == ["dog: 1.wav", "sound"]
    assert all((each.error is None) == bool(each.member and each.member.result) for each in found)

    async def classify() -> None:
        async with AsyncClient(busy) as client:
            assert len(await client.classify_many([wav()] * 3)) == 3

    asyncio.run(classify())


def test_a_folder_is_classified_in_batches(busy: str, tmp_path: Path) -> None:
    """One request for many files; a bad one is in the table, and the rest can be resumed."""
    folder, table = tmp_path / "sounds", tmp_path / "results.csv"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.wav").write_bytes(wav() if number != 7 else b"text")
    before = _requests(busy)
    run = ["classify", "--url", busy, "--out", str(table), str(folder), "--recursive"]
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 1, result.output
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len({row["file"] for row in rows}) == 40
    assert [row["file"][-6:] for row in rows if row["error"]] == ["07.wav"]
    after = _requests(busy)
    assert after["/v1/batches"] - before["/v1/batches"] == 2
    assert after["/v1/jobs"] == before["/v1/jobs"]
    CliRunner().invoke(app, [*run, "--resume"])
    assert _requests(busy)["/v1/batches"] == after["/v1/batches"]


def _requests(url: str) -> dict[str, int]:
    """Answered POST requests by path."""
    counts = dict.fromkeys(("/v1/batches", "/v1/jobs"), 0)
    for line in httpx2.get(f"{url}/metrics").text.splitlines():
        for path in counts:
            if line.startswith("otoscope_api_requests_total") and f'"{path}"' in line and "POST" in line:
                counts[path] += round(float(line.rsplit(" ", 1)[1]))
    return counts
