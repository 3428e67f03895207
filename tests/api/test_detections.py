"""/v1/jobs/{id}/detections: media types, file names, errors. test_exports.py of the client reads the formats."""

import csv

import httpx2
import pytest

from otoscope.exports import FORMATS, Format, media_type
from otoscope.types import DetectionList
from tests.api.conftest import FakeWorker, wav


def submitted(http: httpx2.Client, name: str = "siren.wav", include: str = "detections") -> str:
    """The path of the detections of a new job."""
    job = http.post("/v1/jobs", files={"file": (name, wav())}, data={"include": include}).json()
    return f"/v1/jobs/{job['id']}/detections"


def finished(http: httpx2.Client, worker: FakeWorker, name: str = "siren.wav", include: str = "detections") -> str:
    path = submitted(http, name, include)
    worker.finish(path.split("/")[3])
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_is_a_file_to_download(http: httpx2.Client, worker: FakeWorker, format: Format) -> None:
    """With its media type, UTF-8 and a file name."""
    answer = http.get(finished(http, worker), params={"format": format})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type(format)
    assert answer.headers["content-disposition"].startswith('attachment; filename="siren.')
    assert "dog" in answer.content.decode("utf-8")


def test_json_is_the_default(http: httpx2.Client, worker: FakeWorker) -> None:
    """With the file, the model and the length of the sound; nothing else."""
    found = DetectionList.model_validate_json(http.get(finished(http, worker)).content)
    assert (found.file, found.model, found.duration, found.sample_rate) == ("siren.wav", "tiny", 1.5, 44_100)
    (detection,) = found.detections
    assert detection.model_dump(by_alias=True) == {
        "class": "dog", "start": 0.25, "end": 0.75, "confidence": 0.7, "peak": 0.5,
    }  # fmt: skip


def test_a_hostile_file_name_is_harmless(http: httpx2.Client, worker: FakeWorker) -> None:
    """In the header and in the cells."""
    answer = http.get(finished(http, worker, "../=1+2, “dög”\\x\t'|.wav"), params={"format": "csv"})
    header = answer.headers["content-disposition"]
    assert header.isascii()
    assert header.count('"') == 2
    assert "/" not in header
    assert "x" in header.partition("filename=")[2]
    _, row = csv.reader(answer.text.splitlines())
    assert row[0][0] not in "=+-@"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_detections_have_to_be_requested(http: httpx2.Client, worker: FakeWorker) -> None:
    """With the sound; the error says how."""
    answer = http.get(finished(http, worker, include="maps"))
    assert (answer.status_code, answer.json()["code"]) == (404, "part_not_found")
    assert "include=detections" in answer.json()["detail"]


def test_errors(http: httpx2.Client, worker: FakeWorker) -> None:
    """An unfinished job, an unknown one, an unknown format."""
    path = submitted(http)
    assert http.get(path).json()["code"] == "result_not_ready"
    assert http.get("/v1/jobs/none/detections").json()["code"] == "job_not_found"
    unknown = http.get(path, params={"format": "xls"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "invalid_request")
    assert "audacity" in unknown.json()["detail"]
