"""Cat or dog, from 64 clips: transfer learning from images, from AudioSet, and from other sounds of ESC-50.

    .venv/bin/python examples/cat_dog.py ESC-50 [--out runs/cat-dog]

The 80 clips of two classes of ESC-50 with the official five folds, which never separate the clips of a recording: from
YAMNet (recipe `audioset-finetune`, if `otoscope models add yamnet` was run), from ImageNet weights (recipe `pictures`),
and from a residual CNN that is trained here on the other 48 classes, without any cat or dog. All results are kept in
--out, and an interrupted run is resumed. The last line is JSON.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from training.data.base import Dataset
from training.data.esc50 import load_esc50
from training.eval.evaluate import Evaluation, evaluate
from training.eval.report import write_report
from training.fit.answers import refit_answers
from training.fit.loop import train
from training.fit.pretrained import MODELS, load_pretrained
from training.fit.run_state import resumable
from training.recipe import Recipe, load_recipe
from worker.inference.malloc import keep_freed_memory
from worker.model.checkpoint import CONFIG, Model

CLASSES = ("cat", "dog")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/cat-dog"))
    options = parser.parse_args()
    keep_freed_memory()
    started = time.monotonic()
    esc50 = load_esc50(options.data)
    animals = esc50.select_classes(CLASSES, "ESC-50, cats and dogs")
    others = esc50.select_classes(
        [name for name in esc50.classes if name not in CLASSES], "ESC-50 without cats and dogs"
    )

    figures: dict[str, Any] = {"example": "cat-dog"}
    if (MODELS / "yamnet" / CONFIG).is_file():
        recipe, yamnet = load_recipe("audioset-finetune"), load_pretrained(MODELS / "yamnet")
        figures["audioset"] = cross_validate(recipe, animals, options.out / "audioset", yamnet)
        print(f"\nfrom AudioSet: {figures['audioset']:.1%}\n", flush=True)
    figures["imagenet"] = cross_validate(load_recipe("pictures"), animals, options.out / "imagenet")
    print(f"\nfrom ImageNet: {figures['imagenet']:.1%}\n", flush=True)

    base = options.out / "base"
    train_or_resume(load_recipe("esc50-best", {"name": "base", "optim.epochs": "60"}), others, 5, base)
    evaluation = evaluate(base, others)
    figures["base_accuracy_on_48_classes"] = float((evaluation.predicted == evaluation.truth).mean())
    longer = {"frontend.window_seconds": "5", "optim.epochs": "40", "start.head_epochs": "40"}
    recipe = load_recipe("own-sounds", longer)
    figures["test_accuracy"] = cross_validate(recipe, animals, options.out / "sounds", load_pretrained(base))
    print(f"\nfrom other sounds: {figures['test_accuracy']:.1%}\n", flush=True)
    refit_answers(options.out / "sounds" / "fold5", animals)  # models/cat-dog: thresholds from its test fold
    figures |= {"clips": len(animals.clips), "folds": 5, "seconds": round(time.monotonic() - started)}
    print(json.dumps(figures))


def cross_validate(recipe: Recipe, dataset: Dataset, out: Path, pretrained: Model | None = None) -> float:
    """Accuracy over all clips, each predicted by the network that was trained without its fold."""
    evaluations: list[Evaluation] = []
    for fold in dataset.folds:
        train_or_resume(recipe, dataset, fold, out / f"fold{fold}", pretrained)
        evaluations.append(evaluate(out / f"fold{fold}", dataset))
        write_report(evaluations[-1], out / f"fold{fold}" / "evaluation")
    correct = sum(int((one.predicted == one.truth).sum()) for one in evaluations)
    return correct / sum(len(one.truth) for one in evaluations)


def train_or_resume(recipe: Recipe, dataset: Dataset, fold: Any, out: Path, pretrained: Model | None = None) -> None:
    train(recipe, dataset, fold, out, pretrained=pretrained, resume=resumable(out))


if __name__ == "__main__":
    main()
