"""Writes the log-mels of a data set into one `.npz` file, for programs that take arrays, part by part."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from tqdm import tqdm

from training.data.base import Clip, Dataset
from training.errors import DatasetError
from worker.model.frontend import FrontendConfig, LogMel

_BATCH = 64  # windows whose log-mels are in memory


def export_spectrograms(dataset: Dataset, frontend: FrontendConfig, path: Path) -> dict[str, tuple[int, ...]]:
    """Write for each fold `x_FOLD` float32 (windows, mels, frames), in dB before normalisation, `y_FOLD` int64
    (windows,) and `file_FOLD`, and the names of the classes as `classes`. Returns the shapes.

    Memory does not depend on the number of windows. Raises DatasetError.
    """
    raw = LogMel(frontend.model_copy(update={"mean": 0.0, "std": 1.0})).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            _write(archive, "classes", np.array(dataset.classes))
            for fold in dataset.folds:
                clips = [clip for clip in dataset.clips if clip.fold == fold]
                parts = [clips[at : at + _BATCH] for at in range(0, len(clips), _BATCH)]
                counted = [_windows(dataset, part, frontend)[1] for part in parts]
                owners = [part[index] for part, indices in zip(parts, counted, strict=True) for index in indices]
                mels = _log_mels(dataset, parts, frontend, raw)
                first = next(mels)
                shape = (len(owners), *first.shape[1:])
                with archive.open(f"x_{fold}.npy", "w", force_zip64=True) as file:
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    npy.write_array_header_2_0(cast(BinaryIO, file), header)
                    file.write(first.tobytes())
                    for part in tqdm(mels, desc=str(fold), total=len(parts), unit="batch", leave=False):
                        file.write(part.tobytes())
                _write(archive, f"y_{fold}", np.array([clip.label for clip in owners]))
                names = [os.path.relpath(clip.path, dataset.root) for clip in owners]
                _write(archive, f"file_{fold}", np.array(names))
                shapes |= {f"x_{fold}": shape, f"y_{fold}": (len(owners),)}
        os.replace(partial, path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return shapes


def _windows(dataset: Dataset, clips: list[Clip], frontend: FrontendConfig) -> tuple[torch.Tensor, list[int]]:
    """Waveforms (windows, samples), and the clip of each."""
    waves, clip_index = dataset.load(clips, frontend.sample_rate, frontend.window_samples)
    return waves, clip_index.tolist()


@torch.no_grad()
def _log_mels(
    dataset: Dataset, parts: list[list[Clip]], frontend: FrontendConfig, raw: LogMel
) -> Iterator[NDArray[np.float32]]:
    for part in parts:
        yield raw(_windows(dataset, part, frontend)[0])[:, 0].numpy()  # (windows, mels, frames)


def _write(archive: zipfile.ZipFile, name: str, values: NDArray[np.generic]) -> None:
    with archive.open(f"{name}.npy", "w") as file:
        npy.write_array(cast(BinaryIO, file), values, allow_pickle=False)
