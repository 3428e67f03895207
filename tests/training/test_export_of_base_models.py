"""ONNX export of the networks that `otoscope models add` brings, each with its own front end."""

from pathlib import Path

import pytest
import torch

from training.base_models import aisfx, efficientat, panns
from training.export.onnx import export_onnx
from worker.model.architectures import build_network, parse
from worker.model.checkpoint import ModelConfig, save_model
from worker.model.frontend import FrontendConfig

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES = ("a", "b", "c")
NETWORKS = {
    "cnn14 16 kHz": (panns.FRONTEND_16K, {"type": "cnn14", "width": 4}),
    "cnn14 32 kHz": (panns.FRONTEND_32K, {"type": "cnn14", "width": 4}),
    "cnn9": (aisfx.FRONTEND, {"type": "cnn9", "width": 4, "dropout": [0.0]}),
    "mobilenet-v2": (panns.FRONTEND_32K, {"type": "mobilenet-v2", "width": 0.25}),
    "mobilenet-v3": (efficientat.FRONTEND, {"type": "mobilenet-v3", "width": 0.25}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("cnn14 16 kHz", marks=pytest.mark.long),
        "cnn14 32 kHz",
        "cnn9",
        pytest.param("mobilenet-v2", marks=pytest.mark.long),
        pytest.param("mobilenet-v3", marks=pytest.mark.long),
    ],
)
def test_the_exported_file_gives_the_same_scores(name: str, tmp_path: Path) -> None:
    """For any length, from the waveform on; statistics of the normalisation are not those of its beginning."""
    frontend, options = NETWORKS[name]
    torch.manual_seed(0)
    config = parse({"classes": len(CLASSES), **options})
    network = build_network(config)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
    short = FrontendConfig.model_validate({**frontend.model_dump(), "window_seconds": 1.5})
    model = ModelConfig(name="m", architecture=config, frontend=short, classes=CLASSES, multi_label=True)
    save_model(tmp_path / "m", network, model)
    assert export_onnx(tmp_path / "m", tmp_path / "m.onnx").max_difference < 1e-4
