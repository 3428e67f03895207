"""The parts of bench/gpu.py that run a network in this process: agreement and engine."""

import argparse
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.lib.clips import MODEL, clips
from bench.lib.gpu_rows import TREE, Write, model_folders, row_of_error
from otoscope.types import Part
from shared.audio.decode import decode
from shared.config.settings import usable_cores
from worker.inference.batcher import Batcher, ItemFuture
from worker.inference.engine import Engine, LoadedModel, Window, WindowOutput, read_model
from worker.model.activations import ActivationRecorder
from worker.model.checkpoint import Model, read_config

ARITHMETIC = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


def agreement(options: argparse.Namespace, write: Write) -> None:
    """Each model on the device, batched and alone, against the same clips in float32 on the CPU."""
    size = 4 if options.short else 64
    with model_folders() as folders:
        for folder in folders[:2] if options.short else folders:
            with row_of_error(write, model=folder.name):
                _agree(folder, size, options.device, write)


def _agree(folder: Path, size: int, device: torch.device, write: Write) -> None:
    reference = read_model(folder)
    expected, spectrograms = _in_float32(reference, windows := real_windows(reference, size))
    engine = Engine(device, "torch")
    loaded = engine.load(read_model(folder), (1,))
    requested = [Window(window, frozenset({Part.SPECTROGRAM})) for window in windows]
    together = outputs(engine.run(loaded, requested))
    alone = [outputs(engine.run(loaded, [window]))[0] for window in requested]
    batched, single = (np.stack([output.probabilities for output in ran]) for ran in (together, alone))
    heights = np.stack([np.asarray(output.spectrogram, np.float32) for output in together])
    write(
        model=folder.name,
        clips=size,
        against_cpu=round(float(np.abs(batched - expected).max()), 7),
        same_first_class=int((batched.argmax(1) == expected.argmax(1)).sum()),
        batched_against_alone=round(float(np.abs(batched - single).max()), 7),
        same_first_class_alone=int((batched.argmax(1) == single.argmax(1)).sum()),
        spectrogram_db=round(float(np.abs(heights - spectrograms).max()), 3),
    )


@torch.no_grad()
def _in_float32(model: Model, windows: list[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities (windows, classes) and spectrograms (windows, mels, frames) on the CPU."""
    probabilities, spectrograms = [], []
    for window in windows:
        waveform = torch.from_numpy(window)[None]
        probabilities.append(model.probabilities(model.network(model.frontend(waveform))))
        floor = model.config.frontend.floor_db
        spectrograms.append(model.frontend.log_power(waveform)[:, 0].clamp_min(floor))
    return torch.cat(probabilities).numpy(), torch.cat(spectrograms).numpy()


def real_windows(model: Model, count: int) -> list[NDArray[np.float32]]:
    """Windows of the page's sounds, (samples,) each, then of noise."""
    front = model.config.frontend
    found: list[NDArray[np.float32]] = []
    for path in sorted((TREE / "api" / "static" / "sounds").glob("*.flac")):
        sound = decode(path.read_bytes(), front.sample_rate).waveform
        found += [sound[at : at + front.window_samples] for at in range(0, len(sound), front.window_samples)]
    found += [clip[: front.window_samples] for clip in clips(count)]
    return [np.pad(each, (0, front.window_samples - len(each))) for each in found[:count]]


def outputs(ran: Sequence[WindowOutput | Exception]) -> list[WindowOutput]:
    """Raises the first exception."""
    for output in ran:
        if isinstance(output, Exception):
            raise output
    return list(ran)  # type: ignore[arg-type]


def engine(options: argparse.Namespace, write: Write) -> None:
    """Clips a second of the bare forward pass in each arithmetic, and of the engine through the batcher."""
    batches, seconds = ((1, 4), 0.1) if options.short else ((64, 1, 8, 32, 128), 0.5)
    with model_folders() as folders:
        names = {"esc50-light"} if options.short else {MODEL, "esc50"}
        chosen = [folder for folder in folders if folder.name in names]
        for folder in chosen:
            _measure_engine(folder, options.device, batches, seconds, write)
        for folder in chosen:  # last, since it may take longer than is left
            _measure_compiled(folder, options.device, batches[0], seconds, write)


def _measure_engine(folder: Path, device: torch.device, batches: Sequence[int], seconds: float, write: Write) -> None:
    runner = Engine(device, "torch", cores=usable_cores())
    loaded = runner.load(read_model(folder), batches)
    front, network = loaded.model.config.frontend, loaded.model.network
    largest = max(batches)
    inputs = torch.randn(largest, 1, front.rows, front.window_frames, device=device)
    inputs = inputs.contiguous(memory_format=torch.channels_last)

    def measured(what: str, arithmetic: str, batch: int, step: Callable[[], object]) -> None:
        with row_of_error(write, model=folder.name, what=what, arithmetic=arithmetic, batch=batch), torch.no_grad():
            write(model=folder.name, what=what, arithmetic=arithmetic, batch=batch,
                  per_second=round(batch * steps_a_second(step, seconds, device), 1))  # fmt: skip

    for batch in batches:
        of_engine = partial(through_batcher, runner, loaded, batch, seconds)
        with row_of_error(write, model=folder.name, what="engine", batch=batch):
            reset_peak(device)
            write(model=folder.name, what="engine", arithmetic=loaded.backend.name, batch=batch,
                  per_second=round(of_engine(frozenset()), 1), peak_mb=peak_mb(device))  # fmt: skip
            parts = frozenset({Part.MAPS, Part.SPECTROGRAM})
            write(model=folder.name, what="engine, maps and spectrogram", arithmetic=loaded.backend.name, batch=batch,
                  per_second=round(of_engine(parts), 1), peak_mb=peak_mb(device))  # fmt: skip
        rows = inputs[:batch]
        for name in ARITHMETIC:
            measured("forward", name, batch, partial(_forward, network, rows, name))
        measured("forward, maps", "bf16", batch, partial(_forward, network, rows, "bf16", maps=True))
        waveforms = torch.randn(batch, front.window_samples, device=device)
        measured("log-mel", "fp32", batch, partial(loaded.model.frontend, waveforms))
        if device.type == "cuda":
            measured("CUDA graph", "bf16", batch, _captured(partial(_forward, network, rows, "bf16")))
            host = torch.zeros(batch, front.window_samples)
            measured("copy to the device", "fp32", batch, lambda host=host: host.to(device))


def _measure_compiled(folder: Path, device: torch.device, batch: int, seconds: float, write: Write) -> None:
    labels = {"model": folder.name, "what": "torch.compile", "arithmetic": "bf16", "batch": batch}
    with row_of_error(write, **labels), torch.no_grad():
        network = read_model(folder).network.to(device, memory_format=torch.channels_last)
        front = read_config(folder).frontend
        rows = torch.randn(batch, 1, front.rows, front.window_frames, device=device)
        step = partial(_forward, torch.compile(network), rows.contiguous(memory_format=torch.channels_last), "bf16")
        began = time.monotonic()
        step()
        started = round(time.monotonic() - began, 1)
        write(**labels, per_second=round(batch * steps_a_second(step, seconds, device), 1), start_s=started)


def _forward(network: Any, features: Tensor, arithmetic: str, *, maps: bool = False) -> Tensor:
    dtype = ARITHMETIC[arithmetic]
    # A cache of converted weights must not outlive the context: a captured graph would read freed memory.
    context: AbstractContextManager[None] = (
        nullcontext() if dtype is None else torch.autocast(features.device.type, dtype, cache_enabled=False)
    )
    with context:
        if not maps:
            return network(features)  # type: ignore[no-any-return]
        recorder = ActivationRecorder(network, maps=list(range(len(features))), embedding=[], cam=[])
        return network(features, recorder, recorder.expanded_blocks)  # type: ignore[no-any-return]


def _captured(step: Callable[[], object]) -> Callable[[], object]:
    """The step as a CUDA graph, captured when it is first called."""
    graph: list[torch.cuda.CUDAGraph] = []

    def replay() -> None:
        if not graph:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                step()
            graph.append(captured)
        graph[0].replay()

    return replay


def steps_a_second(step: Callable[[], object], seconds: float, device: torch.device, at_once: int = 8) -> float:
    """After two steps of warm-up. Up to `at_once` steps are queued on a GPU, so that it never waits for Python."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    step()
    step()
    wait()
    done, began = 0, time.perf_counter()
    while (lasted := time.perf_counter() - began) < seconds:
        for _ in range(at_once if device.type == "cuda" else 1):
            step()
            done += 1
        wait()
    return done / lasted


def through_batcher(engine: Engine, loaded: LoadedModel, size: int, seconds: float, parts: frozenset[Part]) -> float:
    """Clips a second with two batches in flight, as a worker has; one clip at a time for a batch of one."""
    batcher: Batcher[Window, WindowOutput] = Batcher(
        engine.run, size=size, window=0.0, device_threads=engine.device_threads
    )
    batcher.start()
    turn = itertools.cycle([Window(window, parts) for window in real_windows(loaded.model, 32)])
    in_flight: deque[ItemFuture[Window, WindowOutput]] = deque()
    most = 1 if size == 1 else 2 * size * engine.device_threads
    done, began = 0, 0.0
    warm = time.perf_counter() + seconds / 2
    try:
        while True:
            while len(in_flight) < most:
                in_flight.append(batcher.submit(next(turn), key=loaded))
            in_flight.popleft().result(60)
            now = time.perf_counter()
            if not began:
                began = now if now > warm else 0.0
                continue
            done += 1
            if now - began > seconds:
                return done / (now - began)
    finally:
        batcher.stop(drain=False, timeout=20)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()  # of the batches before
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> int | None:
    """Of the memory that PyTorch has reserved on the GPU since `reset_peak`."""
    return torch.cuda.max_memory_reserved(device) >> 20 if device.type == "cuda" else None
