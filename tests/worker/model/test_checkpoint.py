"""The model directory: round trip, and everything that is rejected."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, write_tiny_model
from worker.model.architectures.resnet import ResidualCNN, ResNetConfig
from worker.model.checkpoint import ModelConfig, ModelError, load_model, read_config, save_model
from worker.model.frontend import FrontendConfig


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "tiny")
    return tmp_path / "tiny"


@torch.no_grad()
def test_round_trip_gives_the_same_logits(tmp_path: Path) -> None:
    """The loaded model differs from the saved one only by the rounding to float16."""
    torch.manual_seed(0)
    network = ResidualCNN(ResNetConfig(classes=3, depths=(1, 1), widths=(8, 16))).train()
    x = torch.randn(4, 1, 32, 40)
    network(x)  # moves the running statistics away from their start
    network.eval()
    config = ModelConfig(
        name="m", architecture=network.config, frontend=FrontendConfig(mean=-16.5, std=22), classes=("a", "b", "c"),
        training={"recipe": {"seed": 1}},
    )  # fmt: skip
    written = save_model(tmp_path / "m", network, config)
    model = load_model(tmp_path / "m")
    assert model.config == written == read_config(tmp_path / "m")
    assert model.config.weights_sha256
    assert not model.network.training
    torch.testing.assert_close(model.network(x), network(x), rtol=5e-3, atol=5e-3)


def test_files_can_be_read_by_others(directory: Path) -> None:
    """A worker that runs as another user can load what a trainer wrote."""
    for path in directory.iterdir():
        assert path.stat().st_mode & 0o044, path.name


def test_weights_of_another_config_are_refused(directory: Path, tmp_path: Path) -> None:
    """An incompletely copied directory is detected by the checksum."""
    write_tiny_model(tmp_path / "other", seed=1)
    (tmp_path / "other" / "model.safetensors").replace(directory / "model.safetensors")
    with pytest.raises(ModelError, match="checksum"):
        load_model(directory)


def without_checksum(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "weights_sha256": "", **changes}))


def test_truncated_weights_are_refused(directory: Path) -> None:
    """A file that ends early is an error, not a network with random weights."""
    without_checksum(directory)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="incomplete"):
        load_model(directory)


def test_weights_that_do_not_fit_are_refused(directory: Path) -> None:
    """The config has another architecture than the weights."""
    without_checksum(directory, architecture={"classes": 5, "depths": [2, 1], "widths": [8, 16]})
    with pytest.raises(ModelError, match="does not fit"):
        load_model(directory)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("exploded", "w"))


def test_pickle_in_place_of_weights_is_never_executed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading never executes code from a file."""
    monkeypatch.chdir(directory)
    without_checksum(directory)
    (directory / "model.safetensors").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ModelError):
        load_model(directory)
    assert not (directory / "exploded").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "colour"),
        ({"classes": ["a", "b"]}, "2 class names for 5 outputs"),
        ({"classes": ["a", "b", "c", "d", "a"]}, "two classes have the same name"),
        ({"contract_version": 99}, "contract 99"),
        ({"name": "../../etc"}, "name"),
    ],
)
def test_bad_config_is_refused(directory: Path, change: dict[str, object], message: str) -> None:
    """Unknown keys, the wrong number of classes, duplicate classes, a later contract, a name that is a path."""
    without_checksum(directory, **change)
    with pytest.raises(ModelError, match=message):
        read_config(directory)


HUGE: dict[str, dict[str, object]] = {
    "channels": {"architecture": {"classes": 5, "depths": [1, 1], "widths": [200_000, 200_000]}},
    "channels beyond numbers": {"architecture": {"classes": 5, "depths": [1, 1], "widths": [2**60, 2**60]}},
    "blocks": {"architecture": {"classes": 5, "depths": [10**9, 1], "widths": [8, 16]}},
    "stages": {"architecture": {"classes": 5, "depths": [1] * 5_000, "widths": [8] * 5_000}},
    "a hidden layer": {"architecture": {"classes": 5, "depths": [1, 1], "widths": [8, 16], "head": [2**40],
                                        "dropout": [0, 0]}},
    "mels": {"frontend": {"n_mels": 2**40}},
    "a transform": {"frontend": {"n_fft": 2**40, "window_seconds": 2**40}},
    "a window": {"frontend": {"window_seconds": 1e300}},
    "an infinite window": {"frontend": {"window_seconds": float("inf")}},
    "a mean that is NaN": {"frontend": {"mean": float("nan")}},
    "an infinite temperature": {"temperature": float("inf")},
}  # fmt: skip


@pytest.mark.parametrize("what", HUGE)
@pytest.mark.timeout(20)
def test_a_config_with_huge_numbers_is_rejected_cheaply(directory: Path, what: str) -> None:
    """Before anything is allocated that is larger than the file of weights."""
    without_checksum(directory, **HUGE[what])
    with pytest.raises(ModelError, match=r"does not fit|Input should be|at most 64 items|overflow"):
        load_model(directory)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """For an empty directory, and one without weights."""
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(tmp_path)
    write_tiny_model(tmp_path / "tiny")
    (tmp_path / "tiny" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no model"):
        load_model(tmp_path / "tiny")


def test_reading_a_model_is_quick(tmp_path: Path) -> None:
    """It does not import torch's compiler, which would take two seconds at each start of a worker."""
    write_tiny_model(tmp_path / "tiny")
    program = (
        "import sys; from pathlib import Path; from worker.model.checkpoint import load_model;"
        f"load_model(Path({str(tmp_path / 'tiny')!r})); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
