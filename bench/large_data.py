"""Memory and throughput of training on more windows than fit into memory.

    python -m bench.large_data [--windows N] [--seconds S] [--folder DIR] [--plot FILE]

Writes a custom data set of noise in two classes, trains one epoch of the recipe `small-cnn` on it in a process of its
own, whose memory is sampled ten times a second, and compares the CPU time of training steps with windows from the file
and from memory, in turns. The data set is removed at the end. The last line is JSON.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Generator

from training.data.custom.dataset import load_custom_dataset
from training.data.custom.folders import import_folder
from training.fit.loss import TrainingLoss
from training.fit.optim import make_optimizer
from training.fit.setup import TrainingSetup, set_up_training
from training.recipe import Recipe, load_recipe
from worker.model.precision import autocast

RATE = 16_000  # Hz
_FILE_SECONDS = 600
_TURNS, _STEPS = 7, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=100_000, help="for training; a twentieth more is for the test")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a window")
    parser.add_argument("--folder", type=Path, help="where the data set is written")
    parser.add_argument("--plot", type=Path, help="a PNG of the memory over time")
    options = parser.parse_args()
    changes = {"frontend.window_seconds": f"{options.seconds:g}", "optim.epochs": "1", "optim.patience": "0"}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_noise(folder / "mine", options.windows * options.seconds)
        import_folder(folder / "mine", folder / "sounds")
        command = ["train", "--data", folder / "sounds", "--recipe", "small-cnn", "--out", folder / "model"]
        words = [*map(str, command), *(word for change in changes.items() for word in ("--set", "=".join(change)))]
        seconds, memory, output = run_measured([sys.executable, "-m", "otoscope", *words])
        recipe = load_recipe("small-cnn", changes)
        dataset = load_custom_dataset(folder / "sounds", recipe.frontend)
        clips, _ = dataset.train_validation_split("test", 0.0, 1)
        from_file, in_memory = step_times(
            recipe, set_up_training(recipe, dataset, clips[:: max(len(clips) // 2_000, 1)])
        )
    size = len(clips) * recipe.frontend.window_samples * 4 / 1e9
    peak = max(mebibytes for _, mebibytes in memory)
    print("\n".join(line for line in output.splitlines() if "windows would take" in line or "GB in" in line))
    print(
        f"{len(clips):,} training windows of {options.seconds:g} s, {size:.1f} GB as float32: one epoch, with decoding"
    )
    print(f"and evaluation, in {seconds:.0f} s, at most {peak:,.0f} MiB of memory")
    print(f"a step takes {from_file:.2f} ms of CPU a window from the file and {in_memory:.2f} ms from memory")
    if options.plot:
        plot(options.plot, memory, f"{len(clips):,} windows, {size:.1f} GB as float32")
    figures = {"windows": len(clips), "gb": round(size, 2), "seconds": round(seconds), "peak_mib": round(peak)}
    print(json.dumps({**figures, "ms_file": round(from_file, 3), "ms_memory": round(in_memory, 3)}))


def write_noise(folder: Path, seconds: float) -> None:
    """Files of ten minutes of noise, white in one class and low in the other; in `train`, and a twentieth in `test`.
    They begin at different places of one noise."""
    random = np.random.default_rng(0)
    white = random.normal(scale=3_000, size=_FILE_SECONDS * RATE)
    noises = {"white": white, "low": np.convolve(white, np.ones(16) / 4, "same")}
    whole = {label: noise.clip(-32_768, 32_767).astype(np.int16) for label, noise in noises.items()}
    for part, share in (("train", 1.0), ("test", 0.05)):
        for number in range(max(round(seconds * share / _FILE_SECONDS), 2)):
            label = ("white", "low")[number % 2]
            (folder / part / label).mkdir(parents=True, exist_ok=True)
            noise = np.roll(whole[label], int(random.integers(len(white))))
            soundfile.write(folder / part / label / f"{number}.wav", noise, RATE, "PCM_16")


def run_measured(command: list[str]) -> tuple[float, list[tuple[float, float]], str]:
    """Run a command: its seconds, its resident memory in MiB over time, and its output."""
    started = time.monotonic()
    memory: list[tuple[float, float]] = []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        while process.poll() is None:
            if resident := re.search(r"VmRSS:\s+(\d+) kB", _status(process.pid)):
                memory.append((time.monotonic() - started, int(resident[1]) / 1024))
            time.sleep(0.1)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(text)
    return time.monotonic() - started, memory, text


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def step_times(recipe: Recipe, setup: TrainingSetup) -> tuple[float, float]:
    """Milliseconds of CPU time of a training step for each window, with windows from the file and from memory: the
    median of several turns of ten steps."""
    loaded = replace(setup, windows=replace(setup.windows, waves=setup.windows.waves[:]))
    loss_of, optimizer = TrainingLoss(recipe, setup, None), make_optimizer(setup.network, recipe.optim)
    taken: tuple[list[float], list[float]] = ([], [])
    batch = recipe.optim.batch
    for turn in range(_TURNS):
        for own, times in zip((setup, loaded), taken, strict=True):
            generator = Generator().manual_seed(turn)
            started = time.process_time()
            for _ in range(_STEPS):
                rows = torch.randint(len(setup.windows), (batch,), generator=generator)
                waves, features, targets = own.augmented_batch(rows, recipe, generator, crop=False)
                with autocast(own.device):
                    logits = own.network(features).float()
                loss_of(logits, targets, waves).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
            times.append(1e3 * (time.process_time() - started) / (_STEPS * batch))
    return median(taken[0][1:]), median(taken[1][1:])


def plot(path: Path, memory: list[tuple[float, float]], title: str) -> None:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*zip(*memory, strict=True))
    axes.axhline(2_048, color="grey", linestyle="--", label="2 GiB")
    axes.set(xlabel="seconds", ylabel="resident memory, MiB", ylim=(0, 2_300), title=title)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
