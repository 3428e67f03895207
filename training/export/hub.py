"""Model directories on the Hugging Face Hub: push one as a repository with a model card, pull one into `models`.

The address is that of HF_ENDPOINT, the key that of HF_TOKEN or `hf auth login`, as for every client of the Hub.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.install_hints import install_command
from training.errors import DownloadError, ExportError, TrainingError
from worker.model.checkpoint import CONFIG, ModelConfig, ModelError, load_model, read_config

FILES = (
    CONFIG, "model.safetensors", "open_set.safetensors", "recipe.yaml", "README.md", "learning_curve.png",
    "training_sounds.npy", "training_fingerprints.npy",
)  # fmt: skip
"""What of a model directory is pushed and pulled; by the last two `evaluate` recognises sounds of the training."""

LIBRARY = "otoscope"
_LICENCES = {  # beginning of a licence in a config, identifier of the Hub
    "CC BY-NC 3.0": "cc-by-nc-3.0", "CC BY-NC 4.0": "cc-by-nc-4.0", "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY 4.0": "cc-by-4.0", "CC0": "cc0-1.0", "Apache-2.0": "apache-2.0", "MIT": "mit",
}  # fmt: skip
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)
_NEEDS = f"needs the extra `hub`: {install_command('hub')}"


def push(directory: Path, repository: str, *, private: bool = False) -> str:
    """Upload a model directory to `repository` (owner/name), which is created if it does not exist, in one commit.

    Returns the address of the commit. Raises ExportError.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError as error:
        raise ExportError(f"`otoscope models push` {_NEEDS} ({error})") from error
    try:
        load_model(directory)  # nobody is given weights that do not load
    except ModelError as error:
        raise ExportError(str(error)) from error
    config = read_config(directory)
    readme = directory / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else f"# {config.name}\n\n{config.description}.\n"
    operations = [CommitOperationAdd("README.md", (front_matter(config) + without_front_matter(text)).encode())]
    for name in FILES:
        if name != "README.md" and (directory / name).is_file():
            operations.append(CommitOperationAdd(name, directory / name))
    api = HfApi()
    with _hub_errors(f"{directory} cannot be pushed to {repository}", ExportError):
        api.create_repo(repository, private=private, exist_ok=True)
        made = api.create_commit(repository, operations, commit_message=f"{config.name}: {config.description}")
    return str(made.commit_url)


def pull(repository: str, into: Path, *, revision: str | None = None) -> Path:
    """Download the model of a repository to `into/NAME`, by the name in its config. Only files of a model directory are
    fetched, none of which can contain code, and the model is loaded before it is kept.

    Raises DownloadError, also if the folder exists.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise DownloadError(f"`otoscope models pull` {_NEEDS} ({error})") from error
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=into) as partial:
        with _hub_errors(f"{repository} cannot be pulled", DownloadError):
            snapshot_download(repository, revision=revision, local_dir=partial, allow_patterns=list(FILES))
        shutil.rmtree(Path(partial) / ".cache", ignore_errors=True)
        if not (Path(partial) / CONFIG).is_file():
            raise DownloadError(f"{repository} is no model of Otoscope: it has no {CONFIG}")
        try:
            load_model(Path(partial))
            config = read_config(Path(partial))
        except ModelError as error:
            raise DownloadError(
                f"{repository} is no usable model: {str(error).replace(partial, repository)}"
            ) from error
        target = into / config.name
        if target.exists():
            raise DownloadError(f"{target} already exists; remove it, or choose another directory")
        os.rename(partial, target)
        target.chmod(0o755)
        Path(partial).mkdir()  # for the context manager to remove
    return target


def front_matter(config: ModelConfig) -> str:
    """The metadata of a model card, by which the Hub finds, filters and describes a model."""
    from huggingface_hub import EvalResult, ModelCardData

    known = [name for start, name in _LICENCES.items() if config.licence.startswith(start)]
    single = known[0] if known and ";" not in config.licence else "other"
    data = ModelCardData(
        license=single,
        license_name=config.licence if single == "other" and config.licence else None,
        library_name=LIBRARY,
        pipeline_tag="audio-classification",
        tags=["audio", "environmental-sound", config.architecture.type],
        metrics=["accuracy"] if config.accuracy else None,
        model_name=config.name,
        eval_results=[
            EvalResult(
                task_type="audio-classification",
                dataset_type=re.sub(r"[^a-z0-9]+", "-", one.data.lower()).strip("-"),
                dataset_name=one.data,
                metric_type="accuracy",
                metric_value=round(one.correct / one.total, 4),
                metric_name=f"accuracy ({one.protocol})",
            )
            for one in config.accuracy
        ]
        or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def without_front_matter(text: str) -> str:
    """The text of a model card that may have been pulled."""
    return _FRONT_MATTER.sub("", text)


@contextmanager
def _hub_errors(what: str, kind: type[TrainingError]) -> Iterator[None]:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx.HTTPError, OSError, ValueError) as error:
        raise kind(f"{what}: {' '.join(str(error).split())}") from error
