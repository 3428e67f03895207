"""The models that this worker serves, synchronised with the models directory while it runs."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from otoscope.errors import ModelNotFound
from otoscope.types import ModelCard
from worker.inference.engine import LoadedModel
from worker.model.checkpoint import CONFIG, WEIGHTS, ModelError

log = logging.getLogger(__name__)

_Stamp = tuple[int, ...]  # modification time in ns and size of both files; both change while a copy is in progress


class Registry:
    """`load` is called with a model directory and returns the model ready to run, or raises."""

    def __init__(self, directory: Path, names: tuple[str, ...], load: Callable[[Path], LoadedModel]) -> None:
        """`names` limits what is served; empty: every model in `directory`."""
        self._directory, self._names, self._load = directory, names, load
        self._models: dict[str, LoadedModel] = {}  # replaced, never modified: other threads read it without a lock
        self._stamps: dict[str, _Stamp] = {}  # of the last attempt to load
        self._refreshing = threading.Lock()

    def refresh(self) -> set[str]:
        """Load what is new or changed and drop what was removed; returns the names of the dropped models.

        A directory that cannot be loaded is logged and tried again when one of its files changes; the version that was
        loaded before stays in service.
        """
        with self._refreshing:
            found = self._stamps_on_disk()
            for name, stamp in found.items():
                if self._stamps.get(name) == stamp:
                    continue
                try:
                    self._models = {**self._models, name: self._load(self._directory / name)}
                    log.info("serving model %s from %s", name, self._directory / name)
                except Exception as error:
                    kept = "; the previous version stays in service" if name in self._models else ""
                    log.error("cannot load model %s: %s%s", name, error, kept)
            self._stamps = found
            dropped = set(self._models) - set(found)
            for name in sorted(dropped):
                log.info("model %s was removed from %s", name, self._directory)
            self._models = {name: loaded for name, loaded in self._models.items() if name in found}
            return dropped

    def require(self) -> None:
        """Raises ModelError unless at least one model, and every model of `names`, is loaded."""
        missing = [name for name in self._names if name not in self._models]
        if missing or not self._models:
            what = ", ".join(missing) or "no model at all"
            logged = self._stamps.keys() - self._models.keys()
            why = "the log above has the reason" if logged else f"no folder in it has a {CONFIG}"
            raise ModelError(f"cannot serve from {self._directory.resolve()}: {what} ({why})")

    def get(self, name: str) -> LoadedModel:
        """Raises ModelNotFound."""
        models = self._models
        if name not in models:
            known = ", ".join(sorted(models)) or "none"
            raise ModelNotFound(f"There is no model {name!r} here; served are: {known}.")
        return models[name]

    @property
    def cards(self) -> dict[str, ModelCard]:
        """The cards of the loaded models by name, sorted."""
        return {name: loaded.card for name, loaded in sorted(self._models.items())}

    def _stamps_on_disk(self) -> dict[str, _Stamp]:
        stamps: dict[str, _Stamp] = {}
        for config in sorted(self._directory.glob(f"[!.]*/{CONFIG}")):  # a hidden directory is still being written
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
