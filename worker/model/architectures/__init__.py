"""Network architectures, looked up by the `type` field of their config.

A new architecture is one module of this package. It defines a config, a network, and registers both:

    class MyConfig(ArchitectureConfig):
        type: Literal["mine"] = "mine"

    @register(MyConfig)
    class MyNetwork(Network):
        def __init__(self, config: MyConfig) -> None: ...

Every module of the package is imported at the first look-up, so no other file has to name it. Model directories and
training recipes then accept `type: mine`. A package of one's own names such a module as an entry point; it is imported
by the trainer and by workers alike:

    [project.entry-points."otoscope.architectures"]
    mine = "my_package.my_network"
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any, TypeVar

from worker.model.base import ArchitectureConfig, Network

AnyNetwork = TypeVar("AnyNetwork", bound=type[Network])

GROUP = "otoscope.architectures"
"""The group of entry points of modules that register architectures."""

_configs: dict[str, type[ArchitectureConfig]] = {}
_networks: dict[str, Callable[[Any], Network]] = {}


def register(config: type[ArchitectureConfig]) -> Callable[[AnyNetwork], AnyNetwork]:
    """Class decorator of a network that is built from `config`, under the default of the config's `type` field.

    Raises ValueError for a type without a name, or one that another config has.
    """
    name = config.model_fields["type"].default
    if not isinstance(name, str) or not name:
        raise ValueError(f"{config.__name__} needs a default for its field `type`")
    if name in _configs:
        raise ValueError(f"two architectures are called {name!r}: {_configs[name].__name__} and {config.__name__}")

    def add(network: AnyNetwork) -> AnyNetwork:
        _configs[name], _networks[name] = config, network
        return network

    return add


def names() -> list[str]:
    """The types that are known, sorted."""
    _import_all()
    return sorted(_configs)


def parse(value: object) -> ArchitectureConfig:
    """A mapping of keys to values (of a config.json or a recipe) as the config of its `type`.

    A config is returned as it is. Raises ValueError (pydantic's ValidationError for single keys).
    """
    if isinstance(value, ArchitectureConfig):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("an architecture is a mapping of keys to values")
    name = value.get("type", _type_without_field(value))
    if name not in names():
        raise ValueError(f"unknown architecture type {name!r}; known: {', '.join(names())}")
    return _configs[name].model_validate(value)


def build_network(config: ArchitectureConfig) -> Network:
    """With random initial weights. Raises ImportError for an optional package that is missing, ValueError for values
    that the network does not support."""
    names()
    return _networks[config.type](config)


def _type_without_field(value: Mapping[Any, Any]) -> str:
    """The type of a config that was written before there was a `type` field."""
    return "timm" if "backbone" in value else "resnet"


@cache
def _import_all() -> None:
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    for entry in entry_points(group=GROUP):
        entry.load()
