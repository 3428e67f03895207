"""Data sets in which a sound has several classes: from the table to a model with a sigmoid for each class."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.sounds import encode, tone
from tests.support.tiny_recipe import TINY, changed
from training.data.custom.dataset import load_custom_dataset
from training.data.custom.folders import import_folder
from training.data.custom.importers import import_csv
from training.data.custom.labels import normalise_label, split_label
from training.data.custom.manifest import read_manifest
from training.data.custom.split import read_split_info, write_split
from training.eval.crossval import cross_validate
from training.eval.evaluate import evaluate
from training.eval.metrics import multi_label_scores
from training.eval.report import summarise, write_report
from training.fit.loop import train
from training.fit.loss import hit_rate
from training.fit.probe import logistic_regression
from worker.model.checkpoint import load_model, read_config
from worker.pipeline.answer import class_thresholds

RATE = 8_000
HERTZ = {"high": 2_800, "low": 300, "middle": 1_000}


def write_sounds(folder: Path, takes: int = 12) -> Path:
    """Tones of one, two or three of the classes at a time, each mix from its own source; returns a table of them."""
    folder.mkdir()
    sets = [["low"], ["high"], ["middle"], ["low", "high"], ["middle", "high"], ["low", "middle", "high"]]
    with (folder / "sounds.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label"])
        for take in range(takes):
            for number, names in enumerate(sets):
                waves = [tone(1.0, RATE, hz=HERTZ[name] * (1 + take / 300), level=0.25) for name in names]
                path = folder / f"{number}-{take}.wav"
                path.write_bytes(encode(np.sum(waves, axis=0, dtype=np.float32), RATE))
                table.writerow([path.name, json.dumps(names) if take % 2 else "; ".join(names)])
    return folder / "sounds.csv"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" dog ", "dog"), ("rain; dog;dog", "dog;rain"), ('["rain", "dog"]', "dog;rain"), ("[dog", "[dog"),
        ("cafe\u0301;a", "a;caf\u00e9"),
    ],
)  # fmt: skip
def test_labels(text: str, label: str) -> None:
    """Several classes are sorted, each once; a JSON list or semicolons."""
    assert normalise_label(text) == label
    assert split_label(label) == tuple(label.split(";"))


def test_json_lines(tmp_path: Path) -> None:
    """The list of a metadata.jsonl."""
    table = write_sounds(tmp_path / "mine", takes=1)
    with table.open() as file:
        rows = [{"file_name": row["file"], "label": row["label"].split("; ")} for row in csv.DictReader(file)]
    (table.parent / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    import_folder(table.parent, tmp_path / "sounds")
    assert {entry.label for entry in read_manifest(tmp_path / "sounds")} >= {"high;low", "high;low;middle"}


def test_scores() -> None:
    """Precision, recall and F1 at the thresholds, and the average precision without them."""
    present = np.array([[True, False], [True, True], [False, True], [False, False]])
    confidences = np.float32([[0.9, 0.1], [0.4, 0.8], [0.6, 0.7], [0.1, 0.2]])
    first, second = multi_label_scores(present, confidences, np.float32([0.5, 0.5]), ["a", "b"])
    assert (first.clips, first.precision, first.recall, first.f1) == (2, 0.5, 0.5, 0.5)
    assert first.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert (second.precision, second.recall, second.average_precision) == (1.0, 1.0, 1.0)


def test_hit_rate_of_one_class_is_the_accuracy() -> None:
    logits, labels = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    targets = torch.nn.functional.one_hot(labels, 4).float()
    assert hit_rate(logits, targets) == (logits.argmax(1) == labels).float().mean()


@pytest.mark.slow
def test_probe_of_several_classes() -> None:
    """Each class has a logistic regression of its own: two classes that always occur together are both found."""
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.stack([x[:, 0] > 0, x[:, 0] > 0, x[:, 1] > 0], dim=1).float()
    weight, bias = logistic_regression(x, targets, 3, None)
    assert ((x @ weight.T + bias > 0) == (targets > 0)).float().mean() > 0.97


@pytest.mark.training
@pytest.mark.slow
def test_folds(tmp_path: Path) -> None:
    """Temperature scaling is for sounds with one class: the networks of the folds keep 1, and so their sigmoids. The
    figure of the folds has the mean average precision."""
    root = tmp_path / "sounds"
    import_csv(write_sounds(tmp_path / "mine", takes=4), root)
    dataset = load_custom_dataset(root, TINY.frontend, folds=2)
    report = cross_validate(changed(TINY, epochs=2), dataset, (2, 1), tmp_path / "folds")
    assert [one.temperature for one in report.folds] == [1.0, 1.0]
    assert [read_config(tmp_path / "folds" / f"fold{fold}").temperature for fold in (1, 2)] == [1.0, 1.0]
    assert report.mean_average_precision is not None
    assert 0.3 < report.mean_average_precision <= 1


@pytest.mark.training
@pytest.mark.slow
def test_from_table_to_model(tmp_path: Path) -> None:
    """Splits count classes, not combinations; the loss is that of sigmoids; the report has the mean average precision
    and thresholds of the classes; the model names several classes at once."""
    root = tmp_path / "sounds"
    assert import_csv(write_sounds(tmp_path / "mine"), root).added == 72
    write_split(root, val=0.2, test=0.2, seed=1)
    assert read_split_info(root).counts.keys() == HERTZ.keys()
    dataset = load_custom_dataset(root, TINY.frontend)
    assert dataset.multi_label
    assert dataset.classes == tuple(sorted(HERTZ))
    recipe = changed(TINY, epochs=30, patience=0)
    recipe = recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"mix_alpha": 0.0, "speed": 1.0})})
    train(recipe, dataset, "test", tmp_path / "mine-model")
    model = load_model(tmp_path / "mine-model")
    assert model.config.multi_label
    assert model.config.answers.class_thresholds.keys() == HERTZ.keys()
    evaluation = evaluate(tmp_path / "mine-model", dataset)
    report = summarise(evaluation)
    assert report.mean_average_precision is not None
    assert report.mean_average_precision > 0.9
    assert report.macro_f1 > 0.7
    write_report(evaluation, tmp_path / "report")
    with (tmp_path / "report" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert "high;low" in {row["truth"] for row in rows}
    # A verdict follows the thresholds of the classes, here as in a service.
    assert model.config.answers.min_confidence is None
    reached = (evaluation.probabilities >= class_thresholds(dataset.classes, model.config.answers)).any(axis=1)
    named_rows = [row["verdict"] == "named" for row in rows]
    assert any(named_rows)
    assert all(one for one, named in zip(reached, named_rows, strict=True) if named)
    both = evaluation.present.sum(axis=1) > 1
    named = evaluation.probabilities >= [model.config.answers.class_thresholds[name] for name in dataset.classes]
    assert (named[both].sum(axis=1) > 1).mean() > 0.7
