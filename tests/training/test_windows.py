"""Windows that stay in a file: the same values as in memory, whichever way they are read."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny_recipe import TINY, changed, windows_of
from training.data import base
from training.data.esc50 import load_esc50
from training.data.windows import StoredWindows, WindowFile, in_parts, open_windows
from training.fit.loop import train
from worker.model.checkpoint import load_model


@pytest.mark.parametrize("samples", [40, 30, 50])
def test_rows_of_a_file(samples: int, tmp_path: Path) -> None:
    """Indexed by tensors, slices and masks, cut and padded, as float32 of full scale 1."""
    stored = np.random.default_rng(0).integers(-32_768, 32_767, (12, 40)).astype(np.int16)
    np.save(tmp_path / "w.npy", stored)
    rows = np.array([3, 1, 11, 0, 7])
    windows = open_windows(np.load(tmp_path / "w.npy", mmap_mode="r"), rows, samples, 32_768)
    expected = torch.zeros(5, samples)
    width = min(samples, 40)
    expected[:, :width] = torch.from_numpy(stored[rows, :width].astype(np.float32) / 32_768)
    assert windows.shape == (5, samples)
    assert torch.equal(windows[:], expected)
    assert torch.equal(windows[torch.tensor([4, 0, 0])], expected[[4, 0, 0]])
    assert torch.equal(windows[1:3], expected[1:3])
    mask = torch.tensor([True, False, True, False, False])
    assert torch.equal(windows.take(mask)[:], expected[mask])
    assert torch.equal(windows.take(torch.tensor([2, 1]))[:], expected[[2, 1]])
    assert torch.equal(torch.cat(list(in_parts(windows, 2))), expected)


def test_temporary_file() -> None:
    """Rows are written in any order; those that were never written are zeros."""
    file = WindowFile(3)
    file.write(2, np.float32([1, 2, 3]))
    file.write(0, np.float32([4, 5, 6]))
    assert file.windows(np.array([2, 1, 0]))[:].tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 6]]


def test_a_run_from_files_equals_one_in_memory(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights bit for bit, with clips of several windows."""
    recipe = changed(TINY, epochs=2)
    recipe = recipe.model_copy(update={"frontend": recipe.frontend.model_copy(update={"window_seconds": 0.5})})
    weights = []
    for name, limit in (("memory", 2**30), ("file", 0)):
        monkeypatch.setattr(base, "_IN_MEMORY", limit)
        waves, _ = load_esc50(data).open(load_esc50(data).clips[:5], windows_of(0.5))
        assert isinstance(waves, StoredWindows) == (name == "file")
        train(recipe, load_esc50(data), 2, tmp_path / name)
        weights.append(load_model(tmp_path / name).network.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
