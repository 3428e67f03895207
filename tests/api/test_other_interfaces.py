"""The interfaces of other services: Hugging Face's audio classification, the Open Inference Protocol v2."""

import base64
import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.main import create_app
from shared.config.settings import Settings
from tests.api.conftest import FakeWorker, wav
from tests.conftest import ROOT

SOUND = wav(0.3)
TEXT = base64.b64encode(SOUND).decode()


def test_hugging_face_client(http: httpx2.Client, busy_worker: FakeWorker, tmp_path: Path) -> None:
    """`InferenceClient` with the address of a model, with bytes, a path and `top_k`."""
    hub = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(model=f"{http.base_url}/hf/tiny", token="oto_none")
    (tmp_path / "dog.wav").write_bytes(SOUND)
    for sound in (SOUND, tmp_path / "dog.wav"):
        found = client.audio_classification(sound)
        assert [(each.label, each.score) for each in found] == [("dog", 0.7), ("rain", 0.2), ("bell", 0.1)]
    assert len(client.audio_classification(SOUND, top_k=1)) == 1


def tensor(datatype: str, data: list[Any], **parameters: Any) -> dict[str, Any]:
    shape = [1] if datatype == "BYTES" else [1, len(data)]
    return {"name": "audio", "shape": shape, "datatype": datatype, "data": data, "parameters": parameters}


def test_open_inference_protocol(http: httpx2.Client, busy_worker: FakeWorker) -> None:
    """Metadata, readiness, and inference of a file and of samples."""
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"):
        assert http.get(path).status_code == 200, path
    model = http.get("/v2/models/tiny").json()
    assert [each["name"] for each in (*model["inputs"], *model["outputs"])] == ["audio", "labels", "scores"]
    samples = tensor("FP32", [0.0, 0.5] * 4_000, sample_rate=8_000)
    for sent in (tensor("BYTES", [TEXT], content_type="base64"), samples):
        answer = http.post("/v2/models/tiny/infer", json={"id": "7", "inputs": [sent], "parameters": {"top_k": 2}})
        assert answer.status_code == 200, answer.text
        labels, scores = answer.json()["outputs"]
        assert (answer.json()["id"], labels["data"], labels["shape"]) == ("7", ["dog", "rain"], [1, 2])
        assert (scores["datatype"], scores["data"]) == ("FP32", [0.7, 0.2])


REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "no such model": ("/hf/nope", {"content": SOUND}, 404, "model_not_found"),
    "no sound": ("/hf/tiny", {"content": b"text of no file"}, 415, "not_audio"),
    "inputs missing": ("/hf/tiny", {"json": {"parameters": {}}}, 422, "invalid_request"),
    "broken base64": ("/hf/tiny", {"json": {"inputs": "*"}}, 400, "invalid_base64"),
    "many elements": ("/hf/tiny", {"json": {"inputs": "AAAA", "x": [{}] * 999}}, 422, "invalid_request"),
    "many objects": ("/v2/models/tiny/infer", {"json": {"x": [{}] * 999}}, 422, "invalid_request"),
    "two sounds": (
        "/v2/models/tiny/infer", {"json": {"inputs": [tensor("BYTES", [TEXT])] * 2}}, 422, "invalid_request",
    ),
    "two texts": ("/v2/models/tiny/infer", {"json": {"inputs": [tensor("BYTES", ["", ""])]}}, 422, "invalid_request"),
    "words": ("/v2/models/tiny/infer", {"json": {"inputs": [tensor("FP32", ["a"])]}}, 422, "invalid_request"),
    "a matrix": ("/v2/models/tiny/infer", {"json": {"inputs": [tensor("FP32", [[1], [2]])]}}, 422, "invalid_request"),
    "no rate": (
        "/v2/models/tiny/infer", {"json": {"inputs": [tensor("FP32", [0.0] * 9, sample_rate="x")]}}, 422,
        "invalid_request",
    ),
    "not JSON": ("/v2/models/tiny/infer", {"content": b"{"}, 422, "invalid_request"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_requests_are_refused(http: httpx2.Client, worker: FakeWorker, name: str) -> None:
    """With the same codes as everywhere."""
    path, arguments, status, code = REFUSED[name]
    answer = http.post(path, **arguments)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


NODE = ROOT / "tests" / "support" / "typescript"


@pytest.fixture
def tools() -> Path:
    """The folder where npm has installed the packages of `tests/support/typescript`."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    folder = ROOT / "node_modules" / ".openapi"
    lock = (NODE / "package-lock.json").read_text()
    installed = folder / "installed.json"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # tests of other processes need the same folder
        if not installed.exists() or installed.read_text() != lock:
            shutil.copytree(NODE, folder, dirs_exist_ok=True)
            install = ["npm", "ci", "--no-audit", "--no-fund"]
            if subprocess.run(install, cwd=folder, capture_output=True, check=False, timeout=300).returncode:
                pytest.skip("npm cannot install the packages")
            installed.write_text(lock)
    return folder


@pytest.mark.slow
def test_hugging_face_javascript_client(
    http: httpx2.Client, busy_worker: FakeWorker, tools: Path, tmp_path: Path
) -> None:
    """`InferenceClient` of @huggingface/inference: predictions, and the detail of an error."""
    (tmp_path / "dog.wav").write_bytes(SOUND)
    shutil.copy(NODE / "hugging_face.mjs", tools)
    command = ["node", "hugging_face.mjs", f"{http.base_url}/hf/tiny", str(tmp_path / "dog.wav")]
    done = subprocess.run(command, cwd=tools, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found, error = json.loads(done.stdout)
    assert [(each["label"], each["score"]) for each in found] == [("dog", 0.7), ("rain", 0.2), ("bell", 0.1)]
    assert "not like a sound file" in error


@pytest.mark.slow
def test_a_typescript_client_compiles(tools: Path, tmp_path: Path) -> None:
    """openapi-typescript makes types of the document, with which a client type-checks under `strict`."""
    (tmp_path / "openapi.json").write_text(json.dumps(create_app(Settings()).openapi()))
    shutil.copy(NODE / "client.ts", tmp_path)
    for command in (
        [
            "openapi-typescript",
            "--default-non-nullable=false",
            str(tmp_path / "openapi.json"),
            "-o",
            str(tmp_path / "types.ts"),
        ],
        ["tsc", "--strict", "--noEmit", "--skipLibCheck", "--target", "es2022", str(tmp_path / "client.ts")],
    ):
        tool = tools / "node_modules" / ".bin" / command[0]
        done = subprocess.run(
            [str(tool), *command[1:]], cwd=tools, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
