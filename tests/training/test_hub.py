"""`otoscope models push` and `pull`, against a local Hub, by the real client of Hugging Face."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import PYTHON, ROOT
from tests.support.hub import Hub, running_hub
from training.export.hub import FILES, without_front_matter
from worker.model.checkpoint import load_model, read_config

pytestmark = pytest.mark.timeout(900)
pytest.importorskip("huggingface_hub")

MODEL = ROOT / "models" / "esc50-light"


RUN = """
import contextlib, io, json, os, sys
from otoscope.__main__ import main

answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    os.environ["HF_TOKEN"], *arguments = json.loads(line)
    sys.argv = ["otoscope", "models", *arguments]
    status, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""
"""Runs one command after the other: each start of an interpreter would import torch again."""


class Commands:
    """`otoscope models` in another process, since the client reads the address of the Hub when it is imported."""

    def __init__(self, hub: Hub, process: subprocess.Popen[str]) -> None:
        self.hub, self._process = hub, process

    def __call__(self, *arguments: object, token: str = "secret") -> subprocess.CompletedProcess[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([token, *map(str, arguments)]), file=self._process.stdin, flush=True)
        return subprocess.CompletedProcess(arguments, *json.loads(self._process.stdout.readline()))


@pytest.fixture(scope="module")
def otoscope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    home = tmp_path_factory.mktemp("home")
    with running_hub() as hub:
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "PYTHONPATH": str(ROOT),
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        command = [PYTHON, "-c", RUN]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=home
        ) as process:
            yield Commands(hub, process)


def test_push_and_pull(otoscope: Commands, tmp_path: Path) -> None:
    """What is pulled is what was pushed, byte for byte but for the metadata of the card, and the weights load; only
    files of a model directory travel."""
    hub = otoscope.hub
    ended = otoscope("push", MODEL, "someone/light", "--private")
    assert ended.returncode == 0, ended.stderr
    assert f"{hub.url}/someone/light/commit/" in ended.stdout
    files = hub.repositories["someone/light"]
    assert files.keys() == {name for name in FILES if (MODEL / name).is_file()}
    assert {"model.safetensors", "open_set.safetensors"} <= set(hub.uploaded_large)
    assert hub.private["someone/light"] is True
    card = files["README.md"].decode()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["pipeline_tag"] == "audio-classification"
    assert metadata["library_name"] == "otoscope"
    assert metadata["license"] == "other"
    assert metadata["license_name"] == read_config(MODEL).licence
    figure = read_config(MODEL).accuracy[0]
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(figure.correct / figure.total, abs=1e-4)
    assert without_front_matter(card) == (MODEL / "README.md").read_text()

    files["train_state.pt"] = b"a pickle"
    pulled = otoscope("pull", "someone/light", "--into", tmp_path / "models")
    assert pulled.returncode == 0, pulled.stderr
    (directory,) = (tmp_path / "models").iterdir()
    assert directory.name == "esc50-light"
    assert {path.name for path in directory.iterdir()} == files.keys() - {"train_state.pt"}
    for name in ("config.json", "model.safetensors", "open_set.safetensors", "recipe.yaml"):
        assert (directory / name).read_bytes() == (MODEL / name).read_bytes(), name
    assert load_model(directory).config == read_config(MODEL)

    again = otoscope("push", directory, "someone/light")
    assert again.returncode == 0, again.stderr
    assert files["README.md"].decode() == card, "the metadata is not added twice"
    kept = otoscope("pull", "someone/light", "--into", tmp_path / "models")
    assert kept.returncode != 0
    assert "already exists" in kept.stderr


def test_refusals_are_one_line(otoscope: Commands, tmp_path: Path) -> None:
    """A wrong token, a repository that is not there or holds no model, damaged weights; nothing is left behind."""
    hub = otoscope.hub
    refused = otoscope("push", MODEL, "someone/mine", token="wrong")
    assert refused.returncode != 0
    assert "cannot be pushed to someone/mine" in refused.stderr
    assert "Traceback" not in refused.stderr
    hub.repositories |= {"someone/notes": {"notes.txt": b"nothing"}, "someone/damaged": {}}
    hub.private |= dict.fromkeys(hub.repositories, False)
    for path in MODEL.iterdir():
        if path.name in FILES:
            hub.repositories["someone/damaged"][path.name] = path.read_bytes()
    hub.repositories["someone/damaged"]["model.safetensors"] = b"\0" * 100
    for repository, message in {
        "someone/nothing": "someone/nothing cannot be pulled", "someone/notes": "it has no config.json",
        "someone/damaged": "someone/damaged is no usable model",
    }.items():  # fmt: skip
        ended = otoscope("pull", repository, "--into", tmp_path / "models")
        assert ended.returncode != 0
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not list((tmp_path / "models").iterdir())
    missing = otoscope("push", tmp_path / "models", "someone/light")
    assert missing.returncode != 0
    assert "config.json" in missing.stderr
