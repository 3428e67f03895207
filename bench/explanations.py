"""Which explanation is the most faithful: deletion and insertion of class activation, occlusion and gradients.

    .venv/bin/python -m bench.explanations models/esc50 [MODEL ...] --data ../shared/data/esc50-16k [--clips 100]

The spectrogram of each clip is divided into the 60 tiles of `include=occlusion`: ten in time, six in frequency. An
explanation orders them by how much they matter for the predicted class. Deletion mutes them in this order and insertion
adds them to silence; the figure is the mean confidence of the class on the way (Petsiuk et al., "RISE", 2018,
arXiv:1806.07421). A faithful explanation has a low deletion and a high insertion. Integrated gradients (Sundararajan et
al., 2017, arXiv:1703.01365) go from silence to the sound. Clips without a correct prediction are left out. Prints a
table, and one line of JSON at the end.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

sys.path.append(str(Path(__file__).parents[1]))
from training.data.custom.dataset import load_dataset
from training.eval.answers import clip_sounds, spread_evenly
from worker.model.activations import ActivationRecorder
from worker.model.checkpoint import Model, load_model
from worker.model.occlusion import COLUMNS, ROWS, TILES, muted

STEPS = 32  # of the path from silence to the sound
Explain = Callable[
    [Model, Tensor, Tensor, int], Tensor
]  # model, sound and silence (1, 1, mels, frames), class -> (TILES,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fold", default=5)
    parser.add_argument("--clips", type=int, default=100, help="so many at most, evenly spread")
    options = parser.parse_args()
    report = {}
    for path in options.models:
        model = load_model(path)
        dataset = load_dataset(options.data, model.config.frontend)
        fold = type(dataset.clips[0].fold)(options.fold)
        clips = clip_sounds(dataset.split(fold)[1], dataset.classes, model.config.frontend.sample_rate)
        curves: dict[str, list[tuple[float, float]]] = {name: [] for name in EXPLANATIONS}
        for clip in tqdm(spread_evenly(clips, options.clips), desc=path.name, unit="clip"):
            sound, silence = spectrograms(model, clip.load())
            target = int(confidences(model, sound).argmax())
            if target == clip.label:
                for name, explain in EXPLANATIONS.items():
                    order = explain(model, sound, silence, target).argsort(descending=True, stable=True)
                    curves[name].append(deletion_and_insertion(model, sound, silence, target, order))
        found = {name: np.mean(values, axis=0).round(3).tolist() for name, values in curves.items()}
        report[path.name] = {"clips": len(curves["random"]), **found}
        print(
            f"\n{path.name}, {len(curves['random'])} clips\n\n| explanation | deletion | insertion |\n|---|---:|---:|"
        )
        for name, (deletion, insertion) in found.items():
            print(f"| {name} | {deletion:.3f} | {insertion:.3f} |")
    print(json.dumps(report))


def spectrograms(model: Model, waveform: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Of the first window, and of silence: (1, 1, mels, frames) each."""
    window = torch.zeros(1, model.config.frontend.window_samples)
    samples = torch.from_numpy(waveform[: window.shape[1]])
    window[0, : len(samples)] = samples
    with torch.no_grad():
        sound = model.frontend(window)
        return sound, model.frontend.silence.expand_as(sound)


def confidences(model: Model, spectrogram: Tensor) -> Tensor:
    """(rows, 1, mels, frames) -> (rows, classes)."""
    small = spectrogram.split(4)  # of these the activations fit into the cache of a CPU
    with torch.no_grad():
        return model.probabilities(torch.cat([model.network(batch) for batch in small]))


def tiles(model: Model, sound: Tensor) -> Tensor:
    """The cells of each tile, (TILES, 1, mels, frames), 0 or 1."""
    return torch.stack([muted(model.frontend, tile, sound.shape[-1])[None] for tile in range(TILES)]).float()


def by_tile(model: Model, values: Tensor) -> Tensor:
    """Means over each tile of (1, 1, mels, frames): (TILES,)."""
    cells = tiles(model, values)
    return (cells * values).sum(dim=(1, 2, 3)) / cells.sum(dim=(1, 2, 3))


def deletion_and_insertion(
    model: Model, sound: Tensor, silence: Tensor, target: int, order: Tensor
) -> tuple[float, float]:
    """Mean confidence of the class while the tiles are muted, and while they are added to silence, in this order."""
    added = torch.zeros(TILES + 1, TILES)
    for step, tile in enumerate(order.tolist()):
        added[step + 1 :, tile] = 1
    with_them = torch.einsum("st,tcmf->scmf", added, tiles(model, sound))
    inserted = confidences(model, silence + with_them * (sound - silence))
    deleted = confidences(model, sound + with_them * (silence - sound))
    return float(deleted[:, target].mean()), float(inserted[:, target].mean())


def class_activation(model: Model, sound: Tensor, silence: Tensor, target: int) -> Tensor:
    """Grad-CAM of the last stage, as `include=cam`."""
    recorder = ActivationRecorder(model.network, maps=[], embedding=[], cam=[0])
    with torch.no_grad():
        model.network(sound, recorder)
    found = recorder.cam(model.frontend.shown_at, torch.tensor([target]))[:, None]  # (1, 1, height, width)
    fine = functional.interpolate(found, (ROWS * 20, COLUMNS * 20), mode="nearest")
    return functional.avg_pool2d(fine, 20).reshape(-1)


def occlusion(model: Model, sound: Tensor, silence: Tensor, target: int) -> Tensor:
    """How far the confidence falls without each tile, as `include=occlusion`."""
    return -confidences(model, sound + tiles(model, sound) * (silence - sound))[:, target]


def integrated_gradients(model: Model, sound: Tensor, silence: Tensor, target: int) -> Tensor:
    """The gradient of the class's logit along the way from silence to the sound, times the difference."""
    share = ((torch.arange(STEPS) + 0.5) / STEPS).reshape(-1, 1, 1, 1)
    points = (silence + share * (sound - silence)).requires_grad_()
    (gradient,) = torch.autograd.grad(model.network(points)[:, target].sum(), points)
    return by_tile(model, gradient.mean(dim=0, keepdim=True) * (sound - silence))


def loudness(model: Model, sound: Tensor, silence: Tensor, target: int) -> Tensor:
    """For comparison: the mean level of each tile, whatever the class."""
    return by_tile(model, sound)


def random(model: Model, sound: Tensor, silence: Tensor, target: int) -> Tensor:
    """For comparison."""
    return torch.rand(TILES, generator=torch.Generator().manual_seed(target))


EXPLANATIONS: dict[str, Explain] = {
    "occlusion": occlusion, "integrated gradients": integrated_gradients, "class activation": class_activation,
    "loudness": loudness, "random": random,
}  # fmt: skip

if __name__ == "__main__":
    main()
