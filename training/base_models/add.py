"""From a file of weights to a model directory: `otoscope models add`."""

import hashlib
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from tqdm import tqdm

from training.base_models.audioset import parents
from training.base_models.registry import BaseModel, OfficialFile
from training.base_models.tensor_bundle import data_file
from training.data.background import background
from training.download import Download, default_cache
from training.errors import BaseModelError, DownloadError, cause
from worker.model.base import Network
from worker.model.checkpoint import ModelConfig, save_model
from worker.model.frontend import LogMel

PACKAGE = "package"
MAX_BYTES = 1 << 30  # bytes; the largest base model has 0.4 GiB


@dataclass(frozen=True)
class Source:
    """A file of weights, and what is stated about it."""

    path: Path
    origin: str
    licence: str


@dataclass(frozen=True)
class Difference:
    """How far the scores of the converted network are from those of its source."""

    largest: float
    mean: float
    scores: int  # compared
    largest_unrounded: float  # with a quantised source computed in floating point: the difference of the conversion


@dataclass(frozen=True)
class Added:
    """The model directory that was written."""

    directory: Path
    config: ModelConfig
    source: Source
    difference: Difference | None  # None: the source cannot be run here


SOUNDS = 40
"""Windows of synthesised sounds on which a converted network is compared with its source."""

TOLERANCE = 1e-3
"""Largest difference of a score from that of the source in floating point."""


def find_source(model: BaseModel, requested: str | None) -> Source:
    """The weights of a model: `requested` is a file, a folder with a SavedModel, or `package` for those in an installed
    Python package.

    Without a request they are downloaded, or read from the package where that fails. Raises BaseModelError and
    DownloadError.
    """
    if requested == PACKAGE:
        return packaged(model)
    if requested is not None:
        return given(model, Path(requested))
    if model.download is None:
        return packaged(model)
    try:
        return downloaded(model, model.download)
    except DownloadError as error:
        try:
            source = packaged(model)
        except BaseModelError:
            raise error from None
        tqdm.write(f"{error}\nFrom {source.origin} instead", file=sys.stderr)
        return source


def downloaded(model: BaseModel, official: OfficialFile, cache: Path | None = None) -> Source:
    """The file at the official address, from the cache if it has been downloaded before. Raises DownloadError."""
    folder = cache or default_cache()
    file = Download(folder / PurePosixPath(urlsplit(official.url).path).name, official.url, MAX_BYTES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.fetch()
        try:
            file.verify(official.sha256)
        except DownloadError as error:
            file.delete()
            raise DownloadError(f"the file from {official.url} is not the expected one: {error}") from error
    except OSError as error:
        raise DownloadError(f"{model.title} cannot be stored in {folder}: {cause(error)}") from error
    return Source(file.path, official.url, official.licence)


def packaged(model: BaseModel) -> Source:
    """The file in the installed package, without importing it. Raises BaseModelError."""
    package = model.package
    if package is None:
        where = f": {model.address} (its checksum is not known here)" if model.address else ""
        raise BaseModelError(f"{model.title} is in no Python package; give its file with --from{where}")
    spec = find_spec(package.package)
    if spec is None or not spec.submodule_search_locations:
        raise BaseModelError(
            f"the package {package.package} is not installed: {package.install}, or give a file with --from"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / package.path
    if not path.is_file() or _sha256(path) != package.sha256:
        raise BaseModelError(
            f"the installed version of {package.package} has other weights than expected; give a file with --from"
        )
    return Source(path, f"the package {package.package}", package.licence)


def given(model: BaseModel, path: Path) -> Source:
    """A file of the user, or a SavedModel, whose values are in one file. Raises BaseModelError."""
    file = data_file(path)
    if not file.is_file():
        raise BaseModelError(f"{path} is not a file" if file == path else f"{path} is no SavedModel: it has no {file}")
    known = {each.sha256: each.licence for each in (model.download, model.package) if each is not None}
    return Source(file, path.name or path.resolve().name, known.get(_sha256(file), model.licence))


def add(model: BaseModel, source: Source, into: Path) -> Added:
    """Convert the weights, compare them with their source, and write the model directory `into/<name>`.

    Raises BaseModelError, and then nothing is written.
    """
    network = model.convert(source.path)
    difference = compare(model, source.path, network)
    if difference is not None and not difference.largest_unrounded <= TOLERANCE:  # so that NaN fails, too
        raise BaseModelError(
            f"a score of the converted network differs by {difference.largest_unrounded:.2g} from {source.path}; at"
            f" most {TOLERANCE:g} is allowed"
        )
    config = ModelConfig(
        name=model.name,
        description=model.description,
        architecture=network.config,
        frontend=model.frontend,
        classes=model.classes,
        multi_label=model.multi_label,
        parents=parents(model.classes),
        answers=model.answers,
        licence=source.licence,
        training={
            "data": {"name": model.data},
            "source": {"from": source.origin, "sha256": _sha256(source.path), "credit": model.credit},
        },
    )
    try:
        config = save_model(into / model.name, network, config)
        card = model_card(model, config, source, difference)
        (into / model.name / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise BaseModelError(f"{into / model.name} cannot be written: {cause(error)}") from error
    return Added(into / model.name, config, source, difference)


def model_card(model: BaseModel, config: ModelConfig, source: Source, difference: Difference | None) -> str:
    """README.md of the model directory."""
    front, seconds = config.frontend, f"{config.frontend.window_seconds:g}"
    compared = "Its scores could not be compared with those of the source here."
    if difference is not None:
        compared = (
            f"{difference.scores:,} scores of synthesised sounds differ from those of the source by"
            f" {difference.largest_unrounded:.1e} at most if it is computed in floating point, and as it is by"
            f" {difference.largest:.2f}, on average by {difference.mean:.1e}."
        )
    several = "; several can be right at once, so confidences do not sum to 1" if config.multi_label else ""
    return f"""# {config.name}

{config.description}.

| | |
|---|---|
| network | {config.architecture.summary} |
| input | {seconds} s at {front.sample_rate:,} Hz, {front.n_mels} mels of {front.f_min:g}–{front.f_max:g} Hz |
| classes | {len(config.classes)} of {model.data}{several} |
| source | {source.origin}, SHA-256 `{config.training["source"]["sha256"][:16]}…` |
| credit | {model.credit} |
| licence | {config.licence} |

Made by `otoscope models add {model.name}`. {compared}
{_about_scores(model, config)}{model.measured}"""


def _about_scores(model: BaseModel, config: ModelConfig) -> str:
    if not config.parents:
        return ""
    chosen = "" if model.measured else ", which was not chosen by a measurement"
    return f"""
The names of the classes and what they are kinds of are from the AudioSet ontology, CC BY-SA 4.0. The confidences are
the scores of the network; they are not calibrated. A class is named from a score of
{config.answers.detection_threshold:g} on{chosen}.
"""


@torch.no_grad()
def compare(model: BaseModel, path: Path, network: Network) -> Difference | None:
    """The scores of the network beside those of its source; None if that cannot be run here. Raises BaseModelError."""
    front = model.frontend
    if model.run is None:
        return None
    sounds = torch.from_numpy(background(SOUNDS, front.window_samples, front.sample_rate))
    features = LogMel(front)(torch.cat([sounds, torch.zeros_like(sounds[:1])]))  # (sounds, 1, mels, frames)
    scores = network(features).sigmoid().numpy()
    as_is, unrounded = (model.run(path, features.numpy(), rounding=rounding) for rounding in (True, False))
    if as_is is None or unrounded is None:
        return None
    differences = abs(scores - as_is)
    return Difference(
        float(differences.max()), float(differences.mean()), differences.size, float(abs(scores - unrounded).max())
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
