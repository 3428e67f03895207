"""The pictures of reports: the names in them are those of any folder."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from training.eval.plots import confusion_image, save_batch, save_confusion_matrix

NAMES = ["Hahn \N{ROOSTER}", r"$\x$ bill", "a_b"]


def test_any_name_of_a_class(tmp_path: Path) -> None:
    """Emoji, which the font lacks, and dollar signs, which begin a formula, without an error or a warning."""
    matrix = np.eye(3, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert confusion_image(matrix, NAMES, NAMES[1]).shape[2] == 3
        save_confusion_matrix(tmp_path / "matrix.png", matrix, NAMES, NAMES[1])
        save_batch(tmp_path / "batch.png", np.zeros((3, 8, 9), np.float32), NAMES)
    assert (tmp_path / "matrix.png").stat().st_size


def test_a_picture_has_the_name_that_was_given(tmp_path: Path) -> None:
    """Also one without an extension: what is printed, or refused, is that path."""
    save_batch(tmp_path / "batch", np.zeros((3, 8, 9), np.float32), NAMES)
    assert [*tmp_path.iterdir()] == [tmp_path / "batch"]
    with pytest.raises(IsADirectoryError):
        save_batch(tmp_path, np.zeros((3, 8, 9), np.float32), NAMES)
