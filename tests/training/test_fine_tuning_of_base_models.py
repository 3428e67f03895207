"""Fine-tuning of the networks that `otoscope models add` brings, here with random weights and a few channels."""

import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from commands.options import recipe_and_start
from otoscope.cli.main import app
from tests.support.tiny_recipe import TINY, changed
from training.data.esc50 import load_esc50
from training.eval.evaluate import evaluate
from training.fit.loop import train
from training.fit.pretrained import load_pretrained
from training.recipe import AugmentRecipe, TransferRecipe, parse_stored
from worker.model.architectures import build_network, parse
from worker.model.checkpoint import ModelConfig, read_config, save_model
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
def test_a_recipe_of_another_network(data: Path, tmp_path: Path) -> None:
    """`own-sounds` has a residual CNN, and goes on from any network: the run ends with a model card, whose command is
    accepted, and `otoscope runs` lists it with its base and without the values of that."""
    base = tmp_path / "base"
    architecture = parse({"classes": 4, "type": "mobilenet-v1", "width": 0.25, "batch_norm": True})
    frontend = FrontendConfig.model_validate({**SIZES, "n_mels": 64, "mean": -20, "std": 22})
    config = ModelConfig(name="base", architecture=architecture, frontend=frontend, classes=("a", "b", "c", "d"))
    save_model(base, build_network(architecture), config)
    changes = ["optim.epochs=1", "open_set.background=0"]
    given = ["--recipe", "own-sounds", "--from", str(base), "--data", str(data), "--fold", "3"]
    options = [word for change in changes for word in ("--set", change)]
    made = CliRunner().invoke(app, ["train", *given, *options, "--out", str(tmp_path / "runs" / "mine")])
    assert made.exit_code == 0, f"{made.output}{made.exception}"
    assert "by folds: otoscope evaluate " in made.output
    page = (tmp_path / "runs" / "mine" / "README.md").read_text()
    (command,) = (line for line in page.splitlines() if line.startswith("$ otoscope train"))
    words = shlex.split(command.replace("models/base", str(base)))
    stated = [word for before, word in pairwise(words) if before == "--set"]
    recipe, _ = recipe_and_start("own-sounds", stated, Path(words[words.index("--from") + 1]))
    assert recipe == parse_stored(read_config(tmp_path / "runs" / "mine").training["recipe"])
    listed = CliRunner().invoke(app, ["runs", str(tmp_path / "runs")])
    assert "own-sounds from base" in listed.output
    assert "network." not in listed.output


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
    waves, _ = dataset.load(dataset.clips, frontend)
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
