"""Fine-tuning of the networks that `otoscope models add` brings, here with random weights and a few channels."""

from pathlib import Path

import pytest
import torch

from tests.support.tiny_recipe import TINY, changed
from training.data.esc50 import load_esc50
from training.eval.evaluate import evaluate
from training.fit.loop import train
from training.fit.pretrained import load_pretrained
from training.recipe import AugmentRecipe, TransferRecipe
from worker.model.architectures import build_network, parse
from worker.model.checkpoint import ModelConfig, save_model
from worker.model.frontend import FrontendConfig, LogMel

SIZES = {"sample_rate": 8_000, "n_fft": 512, "hop": 80, "n_mels": 32, "f_max": 4_000, "window_seconds": 0.5}
PANNS = {"mel_filters": "slaney", "f_min": 50, "floor_db": -100, "mean": -40, "std": 20}
KALDI = {"mel_filters": "kaldi", "preemphasis": 0.97, "win_length": 399, "log_offset": 1e-5, "mean": -20, "std": 22}
NETWORKS = [
    ({"type": "cnn14", "width": 8, "mels": 32}, PANNS),
    ({"type": "mobilenet-v2", "width": 0.25, "mels": 32}, PANNS),
    ({"type": "mobilenet-v3", "width": 0.25}, KALDI),
]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "front"), NETWORKS, ids=[str(network["type"]) for network, _ in NETWORKS])
def test_the_embedding_is_probed_and_the_network_trained(
    network: dict[str, object], front: dict[str, object], data: Path, tmp_path: Path
) -> None:
    """A multi-label network of four classes becomes one with the classes of the data set; its front end is kept."""
    torch.manual_seed(0)
    architecture = parse({"classes": 4, **network})
    frontend = FrontendConfig.model_validate({**SIZES, **front})
    dataset = load_esc50(data)
    waves, _ = dataset.load(dataset.clips, frontend.sample_rate, frontend.window_samples)
    built = build_network(architecture).train()
    with torch.no_grad():  # for statistics of sounds in its batch normalisation, as after a training
        for _ in range(40):
            built(LogMel(frontend)(waves))
    save_model(
        tmp_path / "base", built,
        ModelConfig(
            name="base", architecture=architecture, frontend=frontend, classes=("a", "b", "c", "d"), multi_label=True,
            licence="CC0",
        ),
    )  # fmt: skip
    recipe = TINY.model_copy(
        update={
            "start": TransferRecipe.model_validate({"probe": True}),
            "augment": AugmentRecipe(mix_alpha=0, frequency_masks=1, frequency_mask_mels=4, time_masks=0),
        }
    )
    pretrained = load_pretrained(tmp_path / "base")
    config = train(changed(recipe, epochs=1, max_lr=1e-5), dataset, 3, tmp_path / "run", pretrained=pretrained)
    assert config.architecture == architecture.with_classes(len(dataset.classes))
    assert (config.frontend.mel_filters, config.multi_label) == (front["mel_filters"], False)
    evaluation = evaluate(tmp_path / "run", dataset)
    assert (evaluation.predicted == evaluation.truth).mean() > 0.5  # a third is chance, and the weights are random
