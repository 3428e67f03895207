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

from training.data.base import Dataset
from training.data.windows import Windows, in_parts
from training.errors import DatasetError, cause
from training.progress import progress_bar
from worker.model.frontend import FrontendConfig, LogMel

_BATCH = 64  # windows whose log-mels are in memory


def export_spectrograms(dataset: Dataset, frontend: FrontendConfig, path: Path) -> dict[str, tuple[int, ...]]:
    """Write for each fold `x_FOLD` float32 (windows, mels, frames), in dB before normalisation, `y_FOLD` int64
    (windows,) and `file_FOLD`, and the names of the classes as `classes`. Returns the shapes.

    Each clip is decoded once. Memory is that of the windows of one fold, or of a batch where these are in a file, as in
    training. Raises DatasetError.
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
                windows, clip_index = dataset.open(clips, frontend)
                mels = _log_mels(windows, raw)
                first = next(mels)
                shape = (len(windows), *first.shape[1:])
                with archive.open(f"x_{fold}.npy", "w", force_zip64=True) as file:
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    npy.write_array_header_2_0(cast(BinaryIO, file), header)
                    file.write(first.tobytes())
                    batches = -(-len(windows) // _BATCH)
                    for part in progress_bar(mels, desc=str(fold), initial=1, total=batches, unit="batch"):
                        file.write(part.tobytes())
                owners = [clips[index] for index in clip_index.tolist()]
                _write(archive, f"y_{fold}", np.array([clip.label for clip in owners]))
                names = [os.path.relpath(clip.path, dataset.root) for clip in owners]
                _write(archive, f"file_{fold}", np.array(names))
                shapes |= {f"x_{fold}": shape, f"y_{fold}": (len(owners),)}
        os.replace(partial, path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {cause(error)}") from error
    finally:
        partial.unlink(missing_ok=True)
    return shapes


@torch.no_grad()
def _log_mels(windows: Windows, raw: LogMel) -> Iterator[NDArray[np.float32]]:
    for part in in_parts(windows, _BATCH):
        yield raw(part)[:, 0].numpy()  # (windows, mels, frames)


def _write(archive: zipfile.ZipFile, name: str, values: NDArray[np.generic]) -> None:
    with archive.open(f"{name}.npy", "w") as file:
        npy.write_array(cast(BinaryIO, file), values, allow_pickle=False)
