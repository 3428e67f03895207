"""How well a base model names the sounds of a data set, through the counterparts of its classes.

    .venv/bin/python -m bench.base_model models/yamnet --data ../shared/data/esc50-16k [--fold 5]

Each recording is answered as by the service. The classes with the highest scores are compared with the counterparts of
the truth (training/base_models/counterparts.py), and, for thresholds from which on classes are named, the named ones,
without those that more specific ones explain. A named class is compatible if it is a counterpart, a kind of one, or
what one is a kind of: `Animal` is compatible with a dog. Prints a table, and one line of JSON at the end.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))
from training.base_models.counterparts import counterparts
from training.data.custom.dataset import load_dataset
from training.eval.answers import answer, clip_sounds, listen
from training.eval.predict import service_precision
from worker.model.checkpoint import load_model
from worker.pipeline.answer import ancestors

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fold", help="the last one by default")
    options = parser.parse_args()
    model = load_model(options.model)
    whole = load_dataset(options.data, model.config.frontend)
    classes, above = (
        model.config.classes,
        {name: ancestors(name, model.config.parents) for name in model.config.classes},
    )
    groups = counterparts(whole.classes, classes)
    dataset = whole.select_classes(list(groups), f"{whole.info.name}, {len(groups)} of {len(whole.classes)} classes")
    fold = type(dataset.clips[0].fold)(options.fold) if options.fold else dataset.default_fold
    sounds = clip_sounds(dataset.split(fold)[1], dataset.classes, model.config.frontend.sample_rate)
    heard = answer(model, model.open_set, listen(model, sounds, precision=service_precision()))
    truths = [groups[one.sound.kind] for one in heard]
    scores = np.stack([one.answer.confidences for one in heard])  # (recordings, classes)
    allowed = [compatible(own, above) for own in truths]

    def in_first(count: int, accepted: Sequence[set[str]]) -> float:
        firsts = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return float(np.mean([any(classes[i] in own for i in row) for row, own in zip(firsts, accepted, strict=True)]))

    exact = [set(own) for own in truths]
    found = {
        "first class is a counterpart": in_first(1, exact),
        "first class is compatible": in_first(1, allowed),
        "a counterpart among the first five": in_first(5, exact),
    }
    print(f"{model.config.name} on {dataset.info.name}, fold {fold}, {len(heard)} recordings\n")
    print("\n".join(f"- {name}: {share:.1%}" for name, share in found.items()))
    print("\n| threshold | a class is named | a counterpart is named | named classes a recording | compatible |")
    print("|---:|---:|---:|---:|---:|")
    rows = {}
    for threshold in THRESHOLDS:
        named = [most_specific(row, classes, above, threshold) for row in scores]
        right = sum(len(names & own) for names, own in zip(named, allowed, strict=True))
        total = sum(map(len, named))
        rows[threshold] = (
            float(np.mean([bool(names) for names in named])),
            float(np.mean([bool(names & own) for names, own in zip(named, exact, strict=True)])),
            total / len(named),
            right / max(total, 1),
        )
        some, hit, count, share = rows[threshold]
        print(f"| {threshold:g} | {some:.1%} | {hit:.1%} | {count:.2f} | {share:.1%} |")
    print(json.dumps({"model": model.config.name, "fold": fold, "recordings": len(heard), **found, "thresholds": rows}))


def compatible(names: Sequence[str], above: Mapping[str, set[str]]) -> set[str]:
    """The classes, what they are kinds of, and their kinds."""
    own = set(names)
    return own.union(*(above[name] for name in names), {name for name, others in above.items() if others & own})


def most_specific(
    row: NDArray[np.float32], classes: Sequence[str], above: Mapping[str, set[str]], threshold: float
) -> set[str]:
    """The classes that reach the threshold, without those of which another one of them is a kind."""
    named = {classes[index] for index in np.flatnonzero(row >= threshold)}
    return named.difference(*(above[name] for name in named))


if __name__ == "__main__":
    main()
