"""What the workers offer at present: their models, and whether they decode AAC."""

from contextlib import suppress
from dataclasses import replace

from otoscope.errors import ModelNotFound, NotReady, StoreUnavailable
from otoscope.types import ModelCard
from shared.audio.formats import format_names
from shared.audio.limits import AudioLimits
from shared.config.settings import Settings
from shared.jobs import AsyncJobStore
from shared.ttl_cache import TTLCache


class WorkerCatalogue:
    """Read from Redis at most once a second."""

    def __init__(self, settings: Settings, store: AsyncJobStore) -> None:
        self._settings, self._store = settings, store
        self._cards: TTLCache[dict[str, ModelCard] | None] = TTLCache(self._read_cards, None)
        self._aac: TTLCache[bool | None] = TTLCache(self._read_aac, None)

    async def models(self) -> dict[str, ModelCard]:
        """The cards of the served models by name. Raises StoreUnavailable."""
        return await self._cards.get() or {}

    async def resolve(self, name: str | None) -> ModelCard:
        """The card of a model, or of the default one. Raises ModelNotFound, NotReady or StoreUnavailable."""
        cards = await self.models()
        if not cards:
            raise NotReady("No worker has announced a model yet; try again.", retry_after=2)
        if name is None:
            # A single model is used even where it is not the configured default.
            name = self._settings.default_model if len(cards) > 1 else next(iter(cards))
        card = cards.get(name)
        if card is None:
            raise ModelNotFound(f"There is no model {name!r}; served are: {', '.join(cards)}.")
        return card

    async def audio_limits(self) -> AudioLimits:
        """The limits of uploads. M4A is decoded by the workers, and accepted unless every one of them lacks AAC."""
        with suppress(StoreUnavailable):  # Redis is not needed to check a sound
            await self._aac.get()
        return replace(self._settings.audio_limits, formats=format_names(optional=self._aac.value is not False))

    async def _read_cards(self) -> dict[str, ModelCard] | None:
        return dict(sorted((await self._store.cards()).items())) or None

    async def _read_aac(self) -> bool | None:
        """While there is no worker, the last known value; None before the first one."""
        reported = {worker.aac for worker in await self._store.workers()}
        return reported != {False} if reported else self._aac.value
