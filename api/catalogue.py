"""What the workers offer at present: their models."""

from collections.abc import Mapping

from otoscope.errors import ModelNotFound, NotReady
from otoscope.types import ModelCard
from shared.config.settings import Settings
from shared.jobs import ShardedJobStore
from shared.ttl_cache import TTLCache


class WorkerCatalogue:
    """Read from Redis at most once a second."""

    def __init__(self, settings: Settings, store: ShardedJobStore) -> None:
        self._settings, self._store = settings, store
        self._cards: TTLCache[dict[str, ModelCard] | None] = TTLCache(self._read_cards, None)

    async def models(self) -> dict[str, ModelCard]:
        """The cards of the served models by name. Raises StoreUnavailable."""
        return await self._cards.get() or {}

    async def resolve(self, name: str | None) -> ModelCard:
        """The card of a model, or of the default one. Raises ModelNotFound, NotReady or StoreUnavailable."""
        cards = await self.models()
        if not cards:
            raise NotReady("No worker has announced a model yet; try again.", retry_after=2)
        name = name or self.default(cards)
        card = cards.get(name)
        if card is None:
            raise ModelNotFound(f"There is no model {name!r}; served are: {', '.join(cards)}.")
        return card

    def default(self, cards: Mapping[str, ModelCard]) -> str:
        """Name of the default model among the served ones; of one that is not served if none of its names is."""
        names = self._settings.default_models
        if len(cards) == 1:  # used even where it is not the configured default
            return next(iter(cards))
        return next((name for name in names if name in cards), names[-1])

    async def for_evaluate(self) -> str | None:
        """The model of `/evaluate`; None: the default one. Raises StoreUnavailable."""
        name = self._settings.evaluate_model
        return name if name in await self.models() else None

    async def _read_cards(self) -> dict[str, ModelCard] | None:
        return dict(sorted((await self._store.cards()).items())) or None
