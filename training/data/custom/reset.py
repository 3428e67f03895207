"""Removes everything from a custom data set that can be generated again."""

import shutil
from pathlib import Path

from training.data.custom.manifest import CACHE_DIR, REPORT_DIR, SPLIT_DIR, lock_dataset, read_manifest
from training.errors import DatasetError, cause


def reset(root: Path) -> list[Path]:
    """Remove `cache/`, `split/` and `report/` of a custom data set, and nothing else.

    Returns the removed folders. Raises DatasetError, also for a folder that is not a custom data set.
    """
    read_manifest(root, missing_ok=True)
    removed: list[Path] = []
    with lock_dataset(root):
        for name in (CACHE_DIR, SPLIT_DIR, REPORT_DIR):
            folder = root / name
            if folder.is_dir():
                try:
                    shutil.rmtree(folder)
                except OSError as error:
                    raise DatasetError(f"{folder} cannot be removed: {cause(error)}") from error
                removed.append(folder)
    return removed
