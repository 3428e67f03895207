"""The OpenAPI document is true: schemathesis calls every operation of it many times.

It generates valid and invalid requests from the document, the same ones in every run. Each response must have a status,
a content type and a schema that the document declares, and none may be a server error.
"""

import base64
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as rules
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import openapi
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.main import create_app
from otoscope.errors import AudioCorrupt
from otoscope.types import Part
from shared.config.settings import Settings
from tests.api.conftest import FakeWorker, wav

RULES = rules(
    max_examples=15, derandomize=True, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
REACHED = {
    "POST /v1/jobs": {202, 422},
    "POST /evaluate": {200, 400, 422},
    "DELETE /v1/jobs/{job_id}": {204, 404},
    "POST /v1/batches": {202, 422},
    "POST /v2/models/{model}/infer": {404, 422},
    "DELETE /v1/batches/{batch_id}": {204, 404},
    "GET /v1/jobs/{job_id}/result": {200, 404, 409},
    "GET /v1/stream": {422},  # without an upgrade
}
"""Statuses that the generated requests must reach at least; 200 for the other operations."""

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

openapi.media_type("audio/*", st.sampled_from([wav(), wav(0.2), b"", b"RIFF"]))
openapi.format("binary", st.sampled_from([wav(), wav(0.2), b"", b"RIFF"]))
DOCUMENT = openapi.from_dict(create_app(Settings()).openapi())
OPERATIONS = {found.ok().label: found.ok() for found in DOCUMENT.get_all_operations()}


@pytest.fixture
def jobs(start_gateway: Callable[..., httpx2.Client], worker: FakeWorker) -> list[str]:
    """Ids of jobs with every outcome, and of one that never existed."""
    http = start_gateway(share_sounds=True)
    everything = {"include": ",".join(Part), "layer": "layer1", "keep_sound": "true"}
    ids = [http.post("/v1/jobs", files={"file": wav()}, data=more).json()["id"] for more in ({}, everything, {}, {})]
    bare, full, failed, cancelled = ids
    worker.finish(bare)
    worker.finish(full)
    worker.fail(failed, AudioCorrupt("it is broken"))
    http.delete(f"/v1/jobs/{cancelled}").raise_for_status()
    return [*ids, "never"]


@pytest.mark.parametrize("label", OPERATIONS)
def test_responses_conform_to_the_document(
    label: str, start_gateway: Callable[..., httpx2.Client], jobs: list[str], busy_worker: FakeWorker
) -> None:
    """To requests that the document allows and to requests that it does not."""
    http, operation = start_gateway(max_wait=15.0), OPERATIONS[label]
    batch = http.post("/v1/batches", files=[("file", wav(0.2)), ("file", b"no sound")]).json()["id"]
    statuses: set[int] = set()

    def ask(case: Any, job_id: str | None) -> None:
        if job_id is not None:  # otherwise the generated values are kept
            known = {"job_id": job_id, "batch_id": batch, "layer": "layer1", "name": "tiny", "model": "tiny"}
            case.path_parameters.update({name: known[name] for name in case.path_parameters})
            if isinstance(case.body, dict) and "audio_data" in case.body:
                case.body["audio_data"] = base64.b64encode(wav(0.2)).decode()
        answer = case.call(base_url=str(http.base_url), timeout=20)
        case.validate_response(answer, checks=CHECKS)
        statuses.add(answer.status_code)

    for mode in GenerationMode:
        cases = operation.as_strategy(generation_mode=mode)
        with suppress(Unsatisfiable):  # some operations have no invalid request
            RULES(given(case=cases, job_id=st.sampled_from([*jobs, None]))(ask))()
    assert statuses >= REACHED.get(label, {200})
