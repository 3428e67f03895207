"""The models that this worker serves, kept in step with the models directory while it runs."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from otoscope.errors import ModelNotFound
from otoscope.types import ModelCard
from worker.inference.engine import LoadedModel
from worker.model.checkpoint import CONFIG, WEIGHTS, ModelError

log = logging.getLogger(__name__)

_Stamp = tuple[int, ...]  # modification time in ns and size of both files; a copy in progress changes it all the time


class Registry:
    """`load` is called with a model directory and returns the model ready to run, or raises."""

    def __init__(self, directory: Path, names: tuple[str, ...], load: Callable[[Path], LoadedModel]) -> None:
        self._directory, self._names, self._load = directory, names, load
        self._served: dict[str, LoadedModel] = {}  # replaced, never changed: it is read from other threads
        self._stamps: dict[str, _Stamp] = {}  # of what was loaded, or tried, last
        self._refreshing = threading.Lock()

    def refresh(self) -> set[str]:
        """Load what is new or changed and drop what is gone; returns the names that were dropped.

        A directory that cannot be loaded is logged and tried again when one of its files changes; an older version of
        it stays in service.
        """
        with self._refreshing:
            found = self._stamps_on_disk()
            for name, stamp in found.items():
                if self._stamps.get(name) == stamp:
                    continue
                try:
                    self._served = {**self._served, name: self._load(self._directory / name)}
                    log.info("serving model %s from %s", name, self._directory / name)
                except Exception as error:
                    kept = "; the version before it stays" if name in self._served else ""
                    log.error("cannot load model %s: %s%s", name, error, kept)
            self._stamps = found
            dropped = set(self._served) - set(found)
            for name in sorted(dropped):
                log.info("model %s is gone from %s", name, self._directory)
            self._served = {name: served for name, served in self._served.items() if name in found}
            return dropped

    def require(self) -> None:
        """Raises ModelError unless every model that was named, and at least one, is served."""
        missing = [name for name in self._names if name not in self._served]
        if missing or not self._served:
            what = ", ".join(missing) or "no model at all"
            raise ModelError(f"cannot serve from {self._directory.resolve()}: {what} (the log above says why)")

    def get(self, name: str) -> LoadedModel:
        """Raises ModelNotFound."""
        models = self._served
        if name not in models:
            raise ModelNotFound(f"There is no model {name!r} here; served are: {', '.join(sorted(models)) or 'none'}.")
        return models[name]

    @property
    def cards(self) -> dict[str, ModelCard]:
        return {name: served.card for name, served in sorted(self._served.items())}

    def _stamps_on_disk(self) -> dict[str, _Stamp]:
        stamps: dict[str, _Stamp] = {}
        for config in sorted(self._directory.glob(f"[!.]*/{CONFIG}")):  # a hidden one is still being put together
            name = config.parent.name
            if self._names and name not in self._names:
                continue
            files = [_stamp(config), _stamp(config.with_name(WEIGHTS))]
            if files[0]:
                stamps[name] = tuple(number for file in files for number in file)
        return stamps


def _stamp(file: Path) -> _Stamp:
    try:
        stat = file.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size
