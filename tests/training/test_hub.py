"""`otoscope models push` and `pull`, against a local Hub, by the real client of Hugging Face."""

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


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def otoscope(hub: Hub, home: Path, *arguments: object, token: str = "secret") -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    return subprocess.run(
        [PYTHON, "-m", "otoscope", "models", *map(str, arguments)],
        capture_output=True, text=True, timeout=400, check=False, env=environment, cwd=home,
    )  # fmt: skip


def test_push_and_pull(hub: Hub, tmp_path: Path) -> None:
    """What is pulled is what was pushed, byte for byte but for the metadata of the card, and the weights load; only
    files of a model directory travel."""
    ended = otoscope(hub, tmp_path, "push", MODEL, "someone/light", "--private")
    assert ended.returncode == 0, ended.stderr
    assert f"{hub.url}/someone/light/commit/" in ended.stdout
    files = hub.repositories["someone/light"]
    assert files.keys() == {name for name in FILES if (MODEL / name).is_file()}
    assert {"model.safetensors", "open_set.safetensors"} <= set(hub.uploaded_large)
    assert hub.private == {"someone/light": True}
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
    pulled = otoscope(hub, tmp_path, "pull", "someone/light", "--into", tmp_path / "models")
    assert pulled.returncode == 0, pulled.stderr
    (directory,) = (tmp_path / "models").iterdir()
    assert directory.name == "esc50-light"
    assert {path.name for path in directory.iterdir()} == files.keys() - {"train_state.pt"}
    for name in ("config.json", "model.safetensors", "open_set.safetensors", "recipe.yaml"):
        assert (directory / name).read_bytes() == (MODEL / name).read_bytes(), name
    assert load_model(directory).config == read_config(MODEL)

    again = otoscope(hub, tmp_path, "push", directory, "someone/light")
    assert again.returncode == 0, again.stderr
    assert files["README.md"].decode() == card, "the metadata is not added twice"
    kept = otoscope(hub, tmp_path, "pull", "someone/light", "--into", tmp_path / "models")
    assert kept.returncode != 0
    assert "already exists" in kept.stderr


def test_refusals_are_one_line(hub: Hub, tmp_path: Path) -> None:
    """A wrong token, a repository that is not there or holds no model, damaged weights; nothing is left behind."""
    refused = otoscope(hub, tmp_path, "push", MODEL, "someone/light", token="wrong")
    assert refused.returncode != 0
    assert "cannot be pushed to someone/light" in refused.stderr
    assert "Traceback" not in refused.stderr
    hub.repositories = {"someone/notes": {"notes.txt": b"nothing"}, "someone/damaged": {}}
    hub.private = dict.fromkeys(hub.repositories, False)
    for path in MODEL.iterdir():
        if path.name in FILES:
            hub.repositories["someone/damaged"][path.name] = path.read_bytes()
    hub.repositories["someone/damaged"]["model.safetensors"] = b"\0" * 100
    for repository, message in {
        "someone/nothing": "someone/nothing cannot be pulled", "someone/notes": "it has no config.json",
        "someone/damaged": "someone/damaged is no usable model",
    }.items():  # fmt: skip
        ended = otoscope(hub, tmp_path, "pull", repository, "--into", tmp_path / "models")
        assert ended.returncode != 0
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr
    assert not list((tmp_path / "models").iterdir())
    missing = otoscope(hub, tmp_path, "push", tmp_path / "models", "someone/light")
    assert missing.returncode != 0
    assert "config.json" in missing.stderr
