"""The share of a training step that is spent in the network itself.

    .venv/bin/python bench/epoch.py [--recipe NAME] [--set KEY=VALUE] [--steps 20] [--out FILE]

Runs the same number of steps on synthetic sound in two variants: bare (forward, backward, optimizer, on a batch in
memory) and whole (plus cropping, mixing, log-mel, masking and weight averaging, as in `otoscope train`). The variants
alternate, so that other load on the machine affects both; prints milliseconds per clip and the ratio, as a table and as
one line of JSON.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from training.fit.augment import block_audibility
from training.fit.averaging import WeightAverage
from training.fit.optim import make_optimizer
from training.fit.schedule import set_schedule
from training.fit.setup import LabelledWindows, TrainingSetup
from training.recipe import Recipe, load_recipe, parse_changes
from worker.inference.malloc import keep_freed_memory
from worker.model.architectures import build_network
from worker.model.base import parameters
from worker.model.frontend import LogMel
from worker.model.precision import autocast, native_bf16, pick_device

CLASSES, CLIPS, ROUNDS = 50, 256, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="esc50-best")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of the recipe")
    parser.add_argument("--steps", type=int, default=10, help="steps in each of five rounds")
    parser.add_argument("--compile", action="store_true", help="add the whole step under torch.compile")
    parser.add_argument("--out", type=Path, help="write the JSON to this file as well")
    options = parser.parse_args()
    keep_freed_memory()
    recipe = load_recipe(options.recipe, parse_changes(options.set))
    figures = measure(recipe, options.steps, compiled=options.compile)
    variants = ("bare", "whole", "compiled") if options.compile else ("bare", "whole")
    print(" ".join(f"{name:>9}" for name in variants), f"   ms per clip, {figures['recipe']}, {figures['device']}")
    print(" ".join(f"{figures[f'{name}_ms_a_clip']:>9}" for name in variants), f"   whole / bare {figures['ratio']}")
    line = json.dumps(figures)
    print(line)
    if options.out:
        options.out.write_text(line + "\n", encoding="utf-8")


def measure(
    recipe: Recipe, steps: int, *, compiled: bool = False, rounds: int = ROUNDS, device: torch.device | None = None
) -> dict[str, Any]:
    """Milliseconds a clip of both variants, and their ratio. A teacher of the recipe is left out.

    Raises ImportError for an optional package of its network.
    """
    setup = _synthetic(recipe, device or pick_device())
    network, optim = setup.network.train(), recipe.optim
    optimizer, average = make_optimizer(network, optim), WeightAverage(network, optim)
    generator = Generator().manual_seed(0)
    batch = optim.batch
    _, bare_features, bare_targets = setup.augmented_batch(torch.arange(batch), recipe, generator, crop=True)

    def step(features: Tensor, targets: Tensor, forward: nn.Module = network) -> None:
        with autocast(setup.device):
            logits = forward(features).float()
        loss = functional.cross_entropy(logits, targets, label_smoothing=optim.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), optim.clip_norm)
        optimizer.step()

    def bare() -> None:
        step(bare_features, bare_targets)

    def whole(forward: nn.Module = network) -> None:
        set_schedule(optimizer, 0, 100, optim)
        _, features, targets = setup.augmented_batch(
            torch.randint(CLIPS, (batch,), generator=generator), recipe, generator, crop=True
        )
        step(features, targets, forward)
        average.after_step()

    variants: dict[str, Callable[[], None]] = {"bare": bare, "whole": whole}
    if compiled:
        variants["compiled"] = partial(whole, torch.compile(network))
    for run_step in variants.values():
        run_step()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run_step in variants.items():
            times[name].append(_timed(run_step, steps, setup.device) / batch)
    ratios = [whole / bare for bare, whole in zip(times["bare"], times["whole"], strict=True)]
    return {
        "recipe": recipe.name,
        "parameters": parameters(network),
        "batch": batch,
        "seconds_of_sound": recipe.augment.crop_seconds or recipe.frontend.window_seconds,
        **{f"{name}_ms_a_clip": round(1000 * statistics.median(taken), 3) for name, taken in times.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "device": torch.cuda.get_device_name() if setup.device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "arithmetic": "bfloat16" if native_bf16(setup.device) else "float32",
        "torch": torch.__version__,
    }


def _synthetic(recipe: Recipe, device: torch.device) -> TrainingSetup:
    front = recipe.frontend
    waves = torch.randn(CLIPS, front.window_samples) * 0.1
    labels = torch.randint(CLASSES, (CLIPS,))
    audible = block_audibility(waves, front.sample_rate)
    targets = functional.one_hot(labels, CLASSES).float()
    windows = LabelledWindows(waves.to(device), labels.to(device), targets.to(device), audible)
    network = build_network(recipe.network.with_classes(CLASSES))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainingSetup(device, windows, LogMel(front).to(device), network, torch.channels_last)


def _timed(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Seconds per step."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main()
