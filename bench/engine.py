"""Upper bound of the inference throughput on this machine, and how much of it the batcher keeps.

    .venv/bin/python bench/engine.py [--model resnet-21m] [--engines torch openvino] [--int8] [--batches 1 8 32]
        [--format OGG]

`limit` decodes, computes the log-mel spectrogram and runs the network, so many clips at a time, in as many threads as
the engine has device threads, in one process without HTTP or queue. `engine` submits the same clips to the batcher, as
the threads of a worker do. On a GPU, the bare forward pass and the copy of its input are measured too. Prints a table
and one line of JSON.
"""

import argparse
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))
from bench.lib.clips import MODEL, clips, encoded, model_directory
from bench.lib.machine import describe
from shared.audio.decode import decode
from shared.config.settings import usable_cores
from training.export.quantise import measure_ranges
from worker.inference.batcher import Batcher
from worker.inference.engine import Engine, LoadedModel, Window, WindowOutput, read_model
from worker.inference.malloc import keep_freed_memory
from worker.model.checkpoint import Model
from worker.model.precision import pick_device

WARM_UP = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help=f"{MODEL}, or one of models/")
    parser.add_argument("--engines", nargs="*", default=["auto"], help="auto, torch, openvino")
    parser.add_argument("--int8", action="store_true", help="in 8 bits")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--format", default="OGG", choices=("OGG", "MP3", "FLAC", "WAV"), help="of the sounds")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    keep_freed_memory()
    report: dict[str, Any] = {"machine": describe(), "options": vars(options), "figures": []}
    sounds = encoded(options.format)
    for choice in options.engines:
        for figure in measure(options.model, choice, options.int8, options.batches, options.seconds, sounds):
            report["figures"].append(figure)
            name, what = f"{figure['engine']}, batch {figure['batch']}", figure["what"]
            print(f"{name:32s} {what:8s} {figure['per_second']:8.1f} clips/s", file=sys.stderr)
    print(json.dumps(report))


def measure(
    name: str, choice: str, int8: bool, batches: list[int], seconds: float, sounds: list[bytes]
) -> list[dict[str, Any]]:
    """Clips a second of one engine with one model."""
    with tempfile.TemporaryDirectory() as folder:
        model = read_model(model_directory(name, Path(folder)) / name)
    device = pick_device()
    engine = Engine(device, choice, int8=int8, cores=usable_cores())  # type: ignore[arg-type]
    served = engine.load(with_ranges(model) if int8 else model, batches)
    figures: list[dict[str, Any]] = []

    def add(what: str, batch: int, per_second: float) -> None:
        figure = {"engine": served.backend.name, "what": what, "batch": batch, "per_second": round(per_second, 1)}
        figures.append(figure)

    for batch in batches:
        add("limit", batch, limit(engine, served, batch, seconds, sounds))
        if device.type == "cuda":
            for what, step in on_gpu(engine, served, batch).items():
                add(what, batch, rate(lambda step=step: (step(), torch.cuda.synchronize()), batch, seconds, 1))  # type: ignore[misc]
    for batch in batches:
        add("engine", batch, batched(engine, served, batch, seconds))
    return figures


def with_ranges(model: Model) -> Model:
    """The model with ranges of noise if it has none of its own: the cost of the arithmetic is the same."""
    if model.config.int8_ranges:
        return model
    ranges = measure_ranges(model, torch.from_numpy(clips(4)[0])[None])
    config = model.config.model_copy(update={"int8_ranges": ranges})
    return type(model)(config, model.frontend, model.network)


def limit(engine: Engine, served: LoadedModel, batch: int, seconds: float, sounds: list[bytes]) -> float:
    """Files in, results out. A single clip at a time uses all cores."""
    rest, wanted = itertools.cycle(sounds), served.model.config.frontend.sample_rate
    lock = threading.Lock()

    def step() -> None:
        with lock:
            files = list(itertools.islice(rest, batch))
        engine.run(served, [Window(decode(file, wanted).waveform) for file in files])

    return rate(step, batch, seconds, 1 if batch == 1 else engine.device_threads)


def batched(engine: Engine, served: LoadedModel, size: int, seconds: float) -> float:
    """Waveforms in, results out, from as many threads as a worker has."""
    batcher: Batcher[Window, WindowOutput] = Batcher(
        engine.run, size=size, window=0.0, device_threads=engine.device_threads
    )
    batcher.start()
    waves, wanted = itertools.cycle(clips()), served.model.config.frontend.window_samples
    try:
        return rate(
            lambda: batcher.submit(Window(next(waves)[:wanted]), key=served).result(60),
            1, seconds, 1 if size == 1 else 2 * size * engine.device_threads,
        )  # fmt: skip
    finally:
        batcher.stop()


def on_gpu(engine: Engine, served: LoadedModel, batch: int) -> dict[str, Callable[[], object]]:
    """The two steps that every batch on a GPU needs."""
    from worker.inference.backend import OutputRequest

    front = served.model.config.frontend
    host = torch.zeros(batch, front.window_samples).pin_memory()
    features = torch.zeros(batch, 1, front.rows, front.window_frames, device=engine.device)
    with torch.no_grad():
        return {
            "forward": lambda: served.backend(features, OutputRequest(), alone=True),
            "copy": lambda: host.to(engine.device, non_blocking=True),
        }


def rate(step: Callable[[], object], clips_a_step: int, seconds: float, threads: int) -> float:
    """Clips a second, all threads together, after a warm-up."""
    done = [0] * threads
    begin = time.perf_counter() + WARM_UP
    end = begin + seconds

    def work(number: int) -> None:
        while (now := time.perf_counter()) < end:
            step()
            done[number] += clips_a_step * (begin <= now)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
