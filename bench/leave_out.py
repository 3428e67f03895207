"""Leave-classes-out: a network is trained on 40 classes of ESC-50, and the other ten are unknown to it.

    .venv/bin/python -m bench.leave_out ESC-50 [--out runs/leave-out] [--from yamnet] [--fold 5] [--offset 4]

The unknown classes are every fifth one from `--offset` on, two of each of the five groups of ESC-50; all of their clips
are measured, since none was seen in training. The known sounds are the held-out fold of the 40 others. With `--from`
the recipe is audioset-finetune, otherwise esc50-best with 40 epochs; `--set` changes it. Prints Markdown; an
interrupted run is resumed.
"""

import argparse
from pathlib import Path

from training.data.esc50 import load_esc50
from training.eval.answer_report import as_markdown, measure_model
from training.eval.evaluate import evaluate
from training.eval.report import headline, write_report
from training.fit.loop import train
from training.fit.pretrained import load_pretrained
from training.fit.run_state import resumable
from training.recipe import load_recipe, parse_changes
from worker.inference.malloc import keep_freed_memory

EVERY = 5
SHORT = {"optim.epochs": "40"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/leave-out"))
    parser.add_argument("--from", type=Path, dest="base", help="the model to fine-tune")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of the recipe")
    parser.add_argument("--fold", type=int, default=5)
    parser.add_argument("--offset", type=int, default=4, choices=range(EVERY), help="the first unknown class")
    options = parser.parse_args()
    keep_freed_memory()
    esc50 = load_esc50(options.data)
    left_out = esc50.classes[options.offset :: EVERY]
    known = esc50.select_classes(
        [name for name in esc50.classes if name not in left_out], f"ESC-50 without every fifth class, {options.offset}"
    )
    name, changes = ("audioset-finetune", {}) if options.base else ("esc50-best", SHORT)
    overrides = parse_changes(options.set)
    recipe = load_recipe(name, {**changes, **overrides, "name": "leave-out"})
    out = options.out / f"offset{options.offset}"
    pretrained = load_pretrained(options.base) if options.base else None
    train(recipe, known, options.fold, out, pretrained=pretrained, resume=resumable(out), threshold_fold=options.fold)
    unknown = [clip for clip in esc50.clips if esc50.classes[clip.label] in left_out]
    answers = measure_model(out, known, options.fold, (), unknown, esc50.classes)
    report = write_report(evaluate(out, known), out / "evaluation", answers)
    areas = [group.auroc or 0.0 for group in answers.outside]
    softmax = [group.auroc_softmax for group in answers.outside]
    print(f"{headline(report)}, {recipe.optim.epochs} epochs\n")
    print(f"Left out: {', '.join(left_out)}.")
    print(f"AUROC {sum(areas) / len(areas):.3f} (largest probability {sum(softmax) / len(softmax):.3f})\n")
    print("\n".join(as_markdown(answers)))


if __name__ == "__main__":
    main()
