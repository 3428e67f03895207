"""The models that this worker serves, synchronised with the models directory while it runs.

A model needs memory and a second or two to be compiled, so most are loaded by their first job. When one is found, it is
only read and run once, for its card: a damaged one is not served.
"""

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from otoscope.errors import ModelNotFound
from otoscope.types import ModelCard
from worker.inference.engine import LoadedModel
from worker.model.checkpoint import CONFIG, WEIGHTS, ModelError

log = logging.getLogger(__name__)

_Stamp = tuple[int, ...]  # modification time in ns and size of both files; both change while a copy is in progress


@dataclass(frozen=True)
class _Served:
    card: ModelCard
    loaded: LoadedModel | None = None  # None: no job has used it yet


class Registry:
    """`load` is called with a model directory and returns the model ready to run, `describe` only its card; both raise
    if the model cannot run."""

    def __init__(
        self, directory: Path, names: tuple[str, ...], load: Callable[[Path], LoadedModel], *,
        describe: Callable[[Path], ModelCard], at_start: Collection[str] = (),
    ) -> None:  # fmt: skip
        """`names` limits what is served; empty: every model in `directory`. They are loaded at once, as are those of
        `at_start` and a model that is the only one."""
        self._directory, self._names = directory, names
        self._load, self._describe, self._at_start = load, describe, {*names, *at_start}
        self._models: dict[str, _Served] = {}  # replaced, never modified: other threads read it without a lock
        self._stamps: dict[str, _Stamp] = {}  # of the last attempt to load or describe
        self._changing = threading.Lock()

    def refresh(self) -> set[str]:
        """Add what is new or changed and drop what was removed; returns the names of the dropped models.

        A directory that cannot be loaded is logged and tried again when one of its files changes; the version that was
        loaded before stays in service.
        """
        with self._changing:
            found = self._stamps_on_disk()
            for name, stamp in found.items():
                if self._stamps.get(name) == stamp:
                    continue
                before = self._models.get(name)
                at_once = (
                    name in self._at_start or len(found) == 1 or (before is not None and before.loaded is not None)
                )
                try:
                    self._add(name, at_once=at_once)
                except Exception as error:
                    kept = "; the previous version stays in service" if before else ""
                    log.error("cannot load model %s: %s%s", name, error, kept)
            self._stamps = found
            dropped = set(self._models) - set(found)
            for name in sorted(dropped):
                log.info("model %s was removed from %s", name, self._directory)
            self._models = {name: served for name, served in self._models.items() if name in found}
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
        """The model, which its first job loads. Raises ModelNotFound, also if it cannot be loaded."""
        served = self._models.get(name)
        if served is not None and served.loaded is None:
            self._load_once(name)
            served = self._models.get(name)
        if served is None or served.loaded is None:
            known = ", ".join(sorted(self._models)) or "none"
            raise ModelNotFound(f"There is no model {name!r} here; served are: {known}.")
        return served.loaded

    @property
    def cards(self) -> dict[str, ModelCard]:
        """The cards of the served models by name, sorted."""
        return {name: served.card for name, served in sorted(self._models.items())}

    def _load_once(self, name: str) -> None:
        """Load a model for its first job, unless that of another thread has; one that cannot be loaded is dropped."""
        with self._changing:
            served = self._models.get(name)
            if served is None or served.loaded is not None:
                return
            try:
                self._add(name, at_once=True)
            except Exception as error:
                log.error("cannot load model %s: %s; it is no longer served", name, error)
                self._models = {other: kept for other, kept in self._models.items() if other != name}

    def _add(self, name: str, *, at_once: bool) -> None:
        directory = self._directory / name
        loaded = self._load(directory) if at_once else None
        card = loaded.card if loaded else self._describe(directory)
        self._models = {**self._models, name: _Served(card, loaded)}
        log.info("serving model %s from %s%s", name, directory, "" if loaded else ", loaded by its first job")

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
