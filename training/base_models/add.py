"""From a file of weights to a model directory: `otoscope models add`."""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shared.install_hints import install_command
from training.base_models.registry import BaseModel, Difference
from training.errors import BaseModelError
from worker.model.checkpoint import ModelConfig, save_model


@dataclass(frozen=True)
class Source:
    """A file of weights, and what is stated about it."""

    path: Path
    origin: str
    licence: str


@dataclass(frozen=True)
class Added:
    """The model directory that was written."""

    directory: Path
    config: ModelConfig
    source: Source
    difference: Difference | None  # None: the source cannot be run here


def packaged(model: BaseModel) -> Source:
    """The file in the installed package, without importing it. Raises BaseModelError."""
    package = model.package
    if package is None:
        raise BaseModelError(f"{model.title} is in no Python package; give a file with --from")
    spec = find_spec(package.package)
    if spec is None or not spec.submodule_search_locations:
        raise BaseModelError(
            f"the package {package.package} is not installed: {install_command('audioset')}, or give a file with --from"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / package.path
    return Source(path, f"the package {package.package}", package.licence)


def given(model: BaseModel, path: Path) -> Source:
    """A file of the user. Raises BaseModelError."""
    if not path.is_file():
        raise BaseModelError(f"{path} is not a file")
    return Source(path, path.name, model.licence)


def add(model: BaseModel, source: Source, into: Path) -> Added:
    """Convert the weights, compare them with their source, and write the model directory `into/<name>`.

    Raises BaseModelError, and then nothing is written.
    """
    network = model.convert(source.path)
    difference = model.compare(source.path, network, model.frontend) if model.compare else None
    config = ModelConfig(
        name=model.name,
        description=model.description,
        architecture=network.config,
        frontend=model.frontend,
        classes=model.classes,
        multi_label=True,
        licence=source.licence,
        training={
            "data": {"name": "AudioSet"},
            "source": {"from": source.origin, "sha256": _sha256(source.path), "credit": model.credit},
        },
    )
    try:
        config = save_model(into / model.name, network, config)
    except OSError as error:
        raise BaseModelError(f"{into / model.name} cannot be written: {error}") from error
    return Added(into / model.name, config, source, difference)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
