"""ONNX export: every kind of network, any batch size and length, and errors."""

import json
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.export.onnx
from tests.support.tiny_recipe import TINY
from training.errors import ExportError
from training.export.onnx import MIN_OPSET, TOLERANCE, export_onnx
from worker.model.architectures.resnet import ResidualCNN, ResNetConfig
from worker.model.base import parameters
from worker.model.checkpoint import ModelConfig, load_model, save_model

pytest.importorskip("onnx")
if find_spec("onnxscript") is None:  # not imported: that takes half a second
    pytest.skip("needs onnxscript", allow_module_level=True)
onnxruntime = pytest.importorskip("onnxruntime")

CLASSES = ("dog", "sea waves", "Möwe")


def write_model(directory: Path, *, temperature: float = 1.0, **options: object) -> ModelConfig:
    """A tiny random network whose probabilities vary enough for a comparison."""
    torch.manual_seed(0)
    architecture = ResNetConfig.model_validate(
        {"classes": len(CLASSES), "depths": (2, 1), "widths": (8, 16), "pyramid_width": 8, **options}
    )
    network = ResidualCNN(architecture)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):  # initially the identity, which could hide a missing one
            torch.nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    return save_model(
        directory,
        network,
        ModelConfig(
            name="tiny", architecture=architecture, frontend=TINY.frontend, classes=CLASSES, licence="CC BY-NC 3.0",
            temperature=temperature,
        ),
    )  # fmt: skip


def run_onnx(path: Path, waves: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"waveform": waves.astype(np.float32)})
    return probabilities


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model") / "tiny"
    write_model(directory, temperature=0.5)
    return directory


@dataclass(frozen=True)
class Exported:
    path: Path
    program: Any  # a torch.onnx.ONNXProgram


@pytest.fixture(scope="module")
def exported(model: Path) -> Exported:
    export, programs = training.export.onnx._export, []

    def kept(*arguments: Any) -> Any:
        programs.append(export(*arguments))
        return programs[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.export.onnx, "_export", kept)
        path = export_onnx(model, model.parent / "tiny.onnx").path
    return Exported(path, programs[0])


@pytest.fixture
def already_exported(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, which the exporter now returns again: it takes several seconds."""
    monkeypatch.setattr(training.export.onnx, "_export", lambda *_: exported.program)
    return exported.program


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"squeeze_excitation": True}, marks=pytest.mark.long),
        pytest.param({"feature_pyramid": True}, marks=pytest.mark.long),
        {"squeeze_excitation": True, "feature_pyramid": True, "head": (12,), "dropout": (0.5, 0.3)},
        pytest.param({"block": "plain"}, marks=pytest.mark.long),
        {"block": "plain", "stem": False},
    ],
)
def test_architectures(options: dict[str, object], tmp_path: Path) -> None:
    """The export passes its own check, reports its properties, and leaves no other file behind."""
    write_model(tmp_path / "tiny", **options)
    check = export_onnx(tmp_path / "tiny", tmp_path / "out" / "tiny.onnx")
    assert check.max_difference < TOLERANCE / 100
    assert check.bytes == check.path.stat().st_size
    assert check.parameters == parameters(load_model(tmp_path / "tiny").network)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.onnx"]
    assert f"opset {check.opset}" in str(check)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("samples", [8_000, 8_001, 3_333, 1_000, 20_000])
def test_any_batch_and_length(model: Path, exported: Exported, batch: int, samples: int) -> None:
    """Sizes that the built-in check does not cover, including odd ones; probabilities sum to one."""
    waves = np.random.default_rng(1).normal(size=(batch, samples)).astype(np.float32) * 0.2
    loaded = load_model(model)
    with torch.inference_mode():
        expected = loaded.probabilities(loaded.network(loaded.frontend(torch.from_numpy(waves))))
    found = run_onnx(exported.path, waves)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_temperature_is_in_the_file(model: Path, exported: Exported) -> None:
    """Half the temperature doubles the differences between log-probabilities."""
    waves = (np.random.default_rng(2).normal(size=(1, 8_000)) * 0.2).astype(np.float32)
    loaded = load_model(model)
    with torch.inference_mode():
        logits = loaded.network(loaded.frontend(torch.from_numpy(waves))).numpy()
    np.testing.assert_allclose(np.diff(np.log(run_onnx(exported.path, waves))), 2 * np.diff(logits), rtol=1e-3)


def test_metadata(model: Path, exported: Exported) -> None:
    """The file contains the identity of the model, but no source paths."""
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    config = load_model(model).config
    assert json.loads(properties.pop("classes")) == list(CLASSES)
    assert properties == {
        "name": "tiny",
        "sample_rate": "8000",
        "window_samples": "8000",
        "licence": "CC BY-NC 3.0",
        "weights_sha256": config.weights_sha256,
    }
    assert config.weights_sha256
    content = exported.path.read_bytes()
    assert b"stack_trace" not in content
    assert b".py" not in content


def test_opset(model: Path, tmp_path: Path) -> None:
    """The minimum, and values outside of the accepted range."""
    check = export_onnx(model, tmp_path / "tiny.onnx", opset=MIN_OPSET)
    assert check.opset == MIN_OPSET
    for impossible in (MIN_OPSET - 1, 1_000):
        with pytest.raises(ExportError, match=f"opset {impossible} is not supported; .* accepts {MIN_OPSET} to"):
            export_onnx(model, tmp_path / "other.onnx", opset=impossible)
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package(name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the package and the command that installs it."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExportError, match=rf"needs {name}: .venv/bin/pip install -e '.\[onnx\]'"):
        export_onnx(model, tmp_path / "tiny.onnx")


def test_missing_model(tmp_path: Path) -> None:
    """The message names the directory."""
    with pytest.raises(ExportError, match=r"nowhere does not exist$"):
        export_onnx(tmp_path / "nowhere", tmp_path / "tiny.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("already_exported")
@pytest.mark.parametrize("difference", [2 * TOLERANCE, float("nan")])
def test_failed_check_leaves_no_file(
    difference: float, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the partial nor the final file is written; an existing file is unchanged."""
    monkeypatch.setattr(training.export.onnx, "max_difference", lambda *_: difference)
    if difference > TOLERANCE:
        (tmp_path / "tiny.onnx").write_bytes(b"before")
    before = [path.read_bytes() for path in tmp_path.iterdir()]
    with pytest.raises(ExportError, match=r"differs from PyTorch by .* 0\.001 is allowed"):
        export_onnx(model, tmp_path / "tiny.onnx")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == before


@pytest.mark.usefixtures("already_exported")
def test_check_sees_a_difference(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that computes something else than the model, here with another temperature, is detected."""
    loaded = load_model(model)
    other = replace(loaded, config=loaded.config.model_copy(update={"temperature": 6.0}))
    monkeypatch.setattr(training.export.onnx, "load_model", lambda _: other)
    with pytest.raises(ExportError, match="differs from PyTorch by"):
        export_onnx(model, tmp_path / "tiny.onnx")
    assert not list(tmp_path.iterdir())


def test_export_that_does_not_run(
    model: Path, already_exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the runtime, here a renamed input, is an ExportError."""
    monkeypatch.setattr(already_exported.model.graph.inputs[0], "name", "noise")
    with pytest.raises(ExportError, match="the exported model cannot be run"):
        export_onnx(model, tmp_path / "tiny.onnx")
    assert not list(tmp_path.iterdir())


def test_network_that_cannot_be_exported(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the exporter, without its debugging advice."""

    def fixed(_self: Any, waveform: torch.Tensor) -> torch.Tensor:
        return waveform[:, : 10 * len(waveform.sum(dim=1).tolist())] if waveform.sum().item() > 0 else waveform

    monkeypatch.setattr(training.export.onnx.Classifier, "forward", fixed)
    with pytest.raises(ExportError, match="tiny cannot be exported: ") as caught:
        export_onnx(model, tmp_path / "tiny.onnx")
    assert "Next steps" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["file/tiny.onnx", "folder"])
def test_unwritable_file(out: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in place of its folder, a folder in its own place: known before the model is exported."""
    monkeypatch.setattr(training.export.onnx, "_export", None)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExportError, match=f"{out} cannot be written: "):
        export_onnx(model, tmp_path / out)
    assert not list(tmp_path.glob("*.partial"))
