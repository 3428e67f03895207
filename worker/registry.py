"""The models that this worker serves, kept in step with the models directory while it runs."""

import logging
from collections.abc import Callable
from pathlib import Path

from shared.errors import ModelNotFound
from shared.schemas import ModelCard
from worker.engine import Served
from worker.model.checkpoint import CONFIG, ModelError

log = logging.getLogger(__name__)

_Stamp = tuple[int, int]  # modification time in ns and size of config.json, which is written last


class Registry:
    """`load` is called with a model directory and returns the model ready to run, or raises."""

    def __init__(self, directory: Path, names: tuple[str, ...], load: Callable[[Path], Served]) -> None:
        self._directory, self._names, self._load = directory, names, load
        self._served: dict[str, Served] = {}
        self._stamps: dict[str, _Stamp] = {}

    def refresh(self) -> set[str]:
        """Load what is new or changed and drop what is gone; returns the names that were dropped.

        A directory that cannot be loaded is logged and tried again when its config changes; an older version of it
        stays in service.
        """
        found = self._stamps_on_disk()
        for name, stamp in found.items():
            if self._stamps.get(name) == stamp:
                continue
            self._stamps[name] = stamp
            try:
                self._served[name] = self._load(self._directory / name)
                log.info("serving model %s from %s", name, self._directory / name)
            except Exception as error:
                kept = "; the version before it stays" if name in self._served else ""
                log.error("cannot load model %s: %s%s", name, error, kept)
        dropped = set(self._served) - set(found)
        for name in dropped:
            del self._served[name], self._stamps[name]
            log.info("model %s is gone from %s", name, self._directory)
        return dropped

    def require(self) -> None:
        """Raises ModelError unless every model that was named, and at least one, is served."""
        missing = [name for name in self._names if name not in self._served]
        if missing or not self._served:
            what = ", ".join(missing) or "no model at all"
            raise ModelError(f"cannot serve from {self._directory.resolve()}: {what} (the log above says why)")

    def get(self, name: str) -> Served:
        """Raises ModelNotFound."""
        served = self._served.get(name)
        if served is None:
            known = ", ".join(sorted(self._served))
            raise ModelNotFound(f"There is no model {name!r} here; served are: {known}.")
        return served

    @property
    def cards(self) -> dict[str, ModelCard]:
        return {name: served.card for name, served in sorted(self._served.items())}

    def _stamps_on_disk(self) -> dict[str, _Stamp]:
        stamps: dict[str, _Stamp] = {}
        for config in sorted(self._directory.glob(f"*/{CONFIG}")):
            name = config.parent.name
            if self._names and name not in self._names:
                continue
            try:
                stat = config.stat()
            except FileNotFoundError:
                continue
            stamps[name] = (stat.st_mtime_ns, stat.st_size)
        return stamps
