"""How much of a training epoch is the network's own arithmetic?

    .venv/bin/python bench/epoch.py [--recipe NAME] [--steps 20] [--out FILE]

Runs the same number of steps twice on synthetic sound: bare (forward, backward, optimizer on a batch that lies ready)
and whole (cutting, mixing, log-mel, masks, averaging as well, the way `otoscope train` does it). In turns, so that a
noisy machine disturbs both alike; prints milliseconds a clip and the ratio, as a table and as one line of JSON.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from training.augment import audibility
from training.memory import keep_freed_memory
from training.optim import Average, make_optimizer, set_schedule
from training.prepare import Prepared, Sounds
from training.recipe import Recipe, load_recipe
from worker.model.architecture import ResidualCNN, parameters
from worker.model.frontend import LogMel
from worker.model.precision import autocast, native_bf16, pick_device

CLASSES, CLIPS, ROUNDS = 50, 256, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="esc50-best")
    parser.add_argument("--steps", type=int, default=10, help="in each of five rounds")
    parser.add_argument("--out", type=Path, help="where the JSON goes, besides stdout")
    options = parser.parse_args()
    keep_freed_memory()
    recipe = load_recipe(options.recipe)
    ready = _synthetic(recipe)
    network, optim = ready.network.train(), recipe.optim
    optimizer, average = make_optimizer(network, optim), Average(network, optim)
    generator = Generator().manual_seed(0)
    batch = optim.batch
    _, lying, wanted = ready.augmented(torch.arange(batch), recipe, generator, crop=True)

    def step(features: Tensor, targets: Tensor) -> None:
        with autocast(ready.device):
            logits = network(features).float()
        loss = functional.cross_entropy(logits, targets, label_smoothing=optim.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), optim.clip_norm)
        optimizer.step()

    def bare() -> None:
        step(lying, wanted)

    def whole() -> None:
        set_schedule(optimizer, 0, 100, optim)
        _, features, targets = ready.augmented(
            torch.randint(CLIPS, (batch,), generator=generator), recipe, generator, crop=True
        )
        step(features, targets)
        average.after_step()

    for warm in (bare, whole):
        warm()
    times: dict[str, list[float]] = {"bare": [], "whole": []}
    for _ in range(ROUNDS):
        times["bare"].append(_timed(bare, options.steps, ready.device) / batch)
        times["whole"].append(_timed(whole, options.steps, ready.device) / batch)
    ratios = [whole / bare for bare, whole in zip(times["bare"], times["whole"], strict=True)]
    figures = {
        "recipe": recipe.name,
        "parameters": parameters(network),
        "batch": batch,
        "seconds_of_sound": recipe.augment.crop_seconds or recipe.frontend.window_seconds,
        "bare_ms_a_clip": round(1000 * statistics.median(times["bare"]), 3),
        "whole_ms_a_clip": round(1000 * statistics.median(times["whole"]), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "device": torch.cuda.get_device_name() if ready.device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "arithmetic": "bfloat16" if native_bf16(ready.device) else "float32",
        "torch": torch.__version__,
    }
    print(f"{'bare':>8} {'whole':>8} {'ratio':>6}   ms a clip, {figures['recipe']}, {figures['device']}")
    print(f"{figures['bare_ms_a_clip']:>8} {figures['whole_ms_a_clip']:>8} {figures['ratio']:>6}")
    line = json.dumps(figures)
    print(line)
    if options.out:
        options.out.write_text(line + "\n", encoding="utf-8")


def _synthetic(recipe: Recipe) -> Prepared:
    device = pick_device()
    front = recipe.frontend
    waves = torch.randn(CLIPS, front.window_samples) * 0.1
    labels = torch.randint(CLASSES, (CLIPS,))
    audible = audibility(waves, front.sample_rate)
    targets = functional.one_hot(labels, CLASSES).float()
    sounds = Sounds(waves.to(device), labels.to(device), targets.to(device), audible)
    network = ResidualCNN(recipe.network.architecture(CLASSES)).to(device, memory_format=torch.channels_last)
    return Prepared(device, sounds, LogMel(front).to(device), network, torch.channels_last)


def _timed(step: Callable[[], None], steps: int, device: torch.device) -> float:
    """Seconds a step."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main()
