"""A model of AudioSet's classes on a data set of other classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from otoscope.cli.main import app
from tests.support.recordings import write_class_folders
from tests.training.conftest import write_dataset
from training.base_models.audioset import parents, yamnet_classes
from training.base_models.counterparts import counterparts, esc50_counterparts, with_classes
from training.data.custom.folders import import_folder
from training.data.esc50 import load_esc50
from training.errors import EvaluationError
from training.eval.evaluate import evaluate
from training.eval.metrics import average_precision
from training.eval.report import as_markdown, summarise
from worker.model.architectures import build_network, parse
from worker.model.checkpoint import ModelConfig, load_model, save_model
from worker.model.frontend import FrontendConfig


def test_the_table_names_classes_of_yamnet() -> None:
    """46 of the 50 classes of ESC-50 have counterparts, and no class of AudioSet stands for two of them."""
    table = esc50_counterparts()
    named = [name for names in table.values() for name in names]
    assert len(table) == 50
    assert sum(map(bool, table.values())) == 46
    assert set(named) <= set(yamnet_classes())
    assert len(set(named)) == len(named)


def test_a_class_of_the_same_name_is_its_own_counterpart() -> None:
    """In any spelling of its case; a class without counterparts is left out."""
    assert counterparts(["dog", "Siren", "speech", "bass_guitar", "can_opening", "gavel"], yamnet_classes()) == {
        "dog": ("Dog", "Bark", "Yip", "Howl", "Bow-wow", "Whimper (dog)"),
        "Siren": ("Siren",),
        "speech": ("Speech",),
        "bass_guitar": ("Bass guitar",),
    }


FRONTEND = FrontendConfig(sample_rate=8_000, f_max=4_000, window_seconds=1.0)


def base_model(folder: Path, classes: tuple[str, ...]) -> Path:
    """A small network with random weights, as `otoscope models add` writes one."""
    torch.manual_seed(0)
    config = parse({"type": "mobilenet-v1", "classes": len(classes), "width": 0.25, "patch_frames": 32,
                    "patch_hop": 32, "batch_norm": True})  # fmt: skip
    save_model(
        folder, build_network(config),
        ModelConfig(name="base", architecture=config, frontend=FRONTEND,
                    classes=classes, multi_label=True, parents=parents(classes), training={"source": {"from": "here"}}),
    )  # fmt: skip
    return folder


def test_logits_are_the_largest_of_the_counterparts(tmp_path: Path) -> None:
    model = load_model(base_model(tmp_path / "base", ("Cat", "Meow", "Dog")))
    features = torch.randn(2, 1, 128, 64)
    own, grouped = model.network(features), with_classes(model, {"dog": ["Dog"], "cat": ["Cat", "Meow"]})
    assert grouped.config.classes == ("dog", "cat")
    torch.testing.assert_close(grouped.network(features), torch.stack([own[:, 2], own[:, :2].amax(dim=1)], dim=1))


@pytest.mark.slow
def test_a_base_model_is_evaluated_on_the_classes_that_it_knows(tmp_path: Path) -> None:
    """On any fold, with average precisions; a data set of which it knows fewer than two classes is refused."""
    dataset = load_esc50(write_dataset(tmp_path / "data", folds=3, takes=2))  # low, high, noise
    evaluation = evaluate(base_model(tmp_path / "base", ("low", "Dog", "noise")), dataset)
    assert evaluation.config.classes == evaluation.dataset.classes == ("low", "noise")
    assert (evaluation.fold, evaluation.trained_on, evaluation.chosen_by) == (dataset.folds[-1], False, False)
    report = summarise(evaluation)
    assert report.data.endswith(", 2 of 3 classes")
    assert report.mean_average_precision is not None
    assert 0 < report.mean_average_precision <= 1
    assert "average precision" in as_markdown(report)
    with pytest.raises(EvaluationError, match="classes that the model does not have"):
        evaluate(base_model(tmp_path / "other", ("low", "Dog", "Cat")), dataset)


@pytest.mark.slow
def test_a_base_model_is_measured_on_the_test_set(tmp_path: Path) -> None:
    """Of a custom data set, by default, of which it knows only some classes; top-5 is stated for more than five."""
    for part in ("train", "val", "test"):
        write_class_folders(tmp_path / "mine" / part, "Dog", "Cat", "rook", takes=len(part) - 2)
    import_folder(tmp_path / "mine", tmp_path / "sounds")
    model = base_model(tmp_path / "base", ("Dog", "Cat", "Bark", "Meow", "Siren", "Rain"))
    result = CliRunner().invoke(app, ["evaluate", str(model), "--data", str(tmp_path / "sounds")])
    assert "base on sounds, 2 of 3 classes, test set: " in result.output
    assert " of 4)" in result.output
    assert "top-5" not in result.output


def test_average_precision_is_the_area_below_the_curve() -> None:
    """The definition, with ties taken together."""
    truth, scores = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    assert average_precision(truth, scores) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(truth, np.zeros(4, np.float32)) == pytest.approx(0.5)
    assert average_precision(np.zeros(4, np.bool_), scores) == 0
