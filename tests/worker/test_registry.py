"""The models directory as it changes while a worker runs: real directories, read by the real loader."""

import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from otoscope.errors import ModelNotFound
from otoscope.types import ModelCard
from tests.conftest import write_tiny_model
from worker.inference.engine import Engine, LoadedModel, read_model
from worker.inference.registry import Registry
from worker.model.checkpoint import CONFIG, WEIGHTS, ModelError

torch.set_num_threads(1)  # for tensors this small, two threads mostly wait for each other
ENGINE = Engine(torch.device("cpu"), "torch")


def load(directory: Path) -> LoadedModel:
    return ENGINE.load(read_model(directory))


def describe(directory: Path) -> ModelCard:
    return ENGINE.describe(read_model(directory))


class Loads:
    """A registry of which `a` answers requests that name no model, and what it loaded and described."""

    def __init__(self, models: Path) -> None:
        self.loaded: list[str] = []
        self.described: list[str] = []
        self.registry = Registry(models, (), self._load, describe=self._describe, at_start={"a"})

    def _load(self, directory: Path) -> LoadedModel:
        self.loaded.append(directory.name)
        return load(directory)

    def _describe(self, directory: Path) -> ModelCard:
        self.described.append(directory.name)
        return describe(directory)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models directory with one model, `a`."""
    write_tiny_model(tmp_path / "models" / "a")
    return tmp_path / "models"


@pytest.fixture
def registry(models: Path) -> Registry:
    """With all models of the directory loaded."""
    registry = Registry(models, (), load, describe=describe)
    assert registry.refresh() == set()
    return registry


def test_models_are_served_by_the_names_of_their_directories(registry: Registry) -> None:
    """With the cards that the gateway serves."""
    assert registry.get("a").name == "a"
    assert list(registry.cards) == ["a"]
    assert registry.cards["a"].classes[0] == "dog"


def test_the_error_of_an_unknown_model_names_the_known_ones(registry: Registry, models: Path) -> None:
    """So that a misspelled name is easy to find."""
    write_tiny_model(models / "b")
    registry.refresh()
    with pytest.raises(ModelNotFound, match="no model 'c' here; served are: a, b"):
        registry.get("c")


def test_nothing_is_loaded_twice(models: Path) -> None:
    """A refresh of an unchanged directory only reads the status of its two files."""
    loaded: list[str] = []

    def counting(directory: Path) -> LoadedModel:
        loaded.append(directory.name)
        return load(directory)

    registry = Registry(models, (), counting, describe=describe)
    registry.refresh()
    first = registry.get("a")
    registry.refresh()
    assert registry.get("a") is first
    assert loaded == ["a"]


def test_a_model_is_loaded_by_its_first_job(models: Path) -> None:
    """Only those that answer requests without a name are loaded at the start: each needs memory and time."""
    write_tiny_model(models / "b", seed=1)
    loads = Loads(models)
    loads.registry.refresh()
    assert list(loads.registry.cards) == ["a", "b"]
    assert (loads.loaded, loads.described) == (["a"], ["b"])
    before = loads.registry.cards["b"]
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(loads.registry.get, ["b"] * 4)
    assert all(other is first for other in others)
    assert loads.loaded == ["a", "b"]
    assert first.card == loads.registry.cards["b"] == before


def test_models_that_were_named_are_loaded_at_the_start(models: Path) -> None:
    """`OTOSCOPE_MODELS` names what shall be served, so that no job waits for it."""
    write_tiny_model(models / "b")
    loaded: list[str] = []

    def counting(directory: Path) -> LoadedModel:
        loaded.append(directory.name)
        return load(directory)

    Registry(models, ("a", "b"), counting, describe=describe, at_start={"a"}).refresh()
    assert loaded == ["a", "b"]


def test_a_new_version_is_loaded_at_once_if_the_old_one_was(models: Path) -> None:
    """Jobs of a model that is used wait for it no longer than before."""
    for name in ("b", "c"):
        write_tiny_model(models / name)
    loads = Loads(models)
    loads.registry.refresh()
    loads.registry.get("b")
    for name in ("b", "c"):
        write_tiny_model(models / name, seed=1)
    loads.registry.refresh()
    assert (loads.loaded, loads.described) == (["a", "b", "b"], ["b", "c", "c"])


def test_a_model_that_its_first_job_cannot_load_is_no_longer_served(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its jobs go to other workers; it is tried again when one of its files changes."""
    for name in ("b", "c"):
        write_tiny_model(models / name)
    loads = Loads(models)
    loads.registry.refresh()
    weights = (models / "b" / WEIGHTS).read_bytes()
    (models / "b" / WEIGHTS).write_bytes(weights[:-10])
    with pytest.raises(ModelNotFound, match="no model 'b' here; served are: a, c"):
        loads.registry.get("b")
    assert list(loads.registry.cards) == ["a", "c"]
    assert "cannot load model b" in caplog.text
    loads.registry.refresh()
    assert list(loads.registry.cards) == ["a", "c"]
    (models / "b" / WEIGHTS).write_bytes(weights)
    loads.registry.refresh()
    assert list(loads.registry.cards) == ["a", "b", "c"]


def test_a_new_directory_is_loaded(registry: Registry, models: Path) -> None:
    """The models that were loaded before stay the same objects."""
    before = registry.get("a")
    write_tiny_model(models / "b", seed=1)
    assert registry.refresh() == set()
    assert sorted(registry.cards) == ["a", "b"]
    assert registry.get("a") is before


def test_a_changed_model_replaces_its_older_version(registry: Registry, models: Path) -> None:
    """New jobs get the new weights; a job that uses the old version keeps it."""
    old = registry.get("a")
    write_tiny_model(models / "a", seed=1)
    registry.refresh()
    assert registry.get("a") is not old
    assert registry.cards["a"].version != old.card.version


def test_a_removed_directory_is_dropped(registry: Registry, models: Path) -> None:
    """Its name is returned, so that its card can be removed."""
    shutil.rmtree(models / "a")
    assert registry.refresh() == {"a"}
    with pytest.raises(ModelNotFound, match="served are: none"):
        registry.get("a")
    assert registry.refresh() == set()


def test_a_model_that_is_restored_unchanged_is_loaded_again(registry: Registry, models: Path, tmp_path: Path) -> None:
    """Moved away and back, with its old modification times."""
    (models / "a").rename(tmp_path / "away")
    registry.refresh()
    (tmp_path / "away").rename(models / "a")
    registry.refresh()
    assert list(registry.cards) == ["a"]


def test_a_broken_version_leaves_the_old_one_in_service(
    registry: Registry, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is logged once, and a repaired version is loaded."""
    old = registry.get("a")
    config = (models / "a" / CONFIG).read_text()
    (models / "a" / CONFIG).write_text("{")
    for _ in range(3):
        registry.refresh()
    assert registry.get("a") is old
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "cannot load model a" in errors[0]
    assert "the previous version stays" in errors[0]
    (models / "a" / CONFIG).write_text(config + " ")
    registry.refresh()
    assert registry.get("a") is not old


@pytest.mark.parametrize("damage", ["truncated weights", "weights missing", "other weights", "invalid config"])
def test_a_broken_directory_is_skipped(registry: Registry, models: Path, damage: str) -> None:
    """The other models are loaded."""
    write_tiny_model(models / "b")
    weights, config = models / "b" / WEIGHTS, models / "b" / CONFIG
    if damage == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "weights missing":
        weights.unlink()
    elif damage == "other weights":
        write_tiny_model(models / "c", seed=7)
        os.replace(models / "c" / WEIGHTS, weights)
        shutil.rmtree(models / "c")
    else:
        config.write_text('{"name": 3}')
    registry.refresh()
    assert list(registry.cards) == ["a"]


def test_a_directory_is_served_when_its_copy_is_complete(registry: Registry, models: Path, tmp_path: Path) -> None:
    """`cp -r` copies the small config first: the directory is tried again while the weights arrive."""
    source, copy = tmp_path / "b", models / "b"
    write_tiny_model(source)
    whole = (source / WEIGHTS).read_bytes()
    copy.mkdir()
    shutil.copy2(source / CONFIG, copy / CONFIG)
    registry.refresh()
    for part in (len(whole) // 2, len(whole) - 1):
        (copy / WEIGHTS).write_bytes(whole[:part])
        registry.refresh()
        assert list(registry.cards) == ["a"]
    (copy / WEIGHTS).write_bytes(whole)
    registry.refresh()
    assert list(registry.cards) == ["a", "b"]


def test_a_hidden_directory_is_ignored(registry: Registry, models: Path) -> None:
    """For example one in which a copy is prepared before it is renamed."""
    shutil.copytree(models / "a", models / ".b")
    registry.refresh()
    assert list(registry.cards) == ["a"]
    (models / ".b").rename(models / "b")
    registry.refresh()
    assert list(registry.cards) == ["a", "b"]


def test_only_named_models_are_served(models: Path) -> None:
    """If names are configured, all other directories are ignored."""
    write_tiny_model(models / "b")
    registry = Registry(models, ("b",), load, describe=describe)
    registry.refresh()
    assert list(registry.cards) == ["b"]
    registry.require()


def test_a_worker_does_not_start_without_the_models_that_were_named(models: Path) -> None:
    """The error names the missing models and the directory."""
    registry = Registry(models, ("a", "b", "c"), load, describe=describe)
    registry.refresh()
    with pytest.raises(ModelError, match=f"cannot serve from {models}: b, c"):
        registry.require()


@pytest.mark.parametrize("directory", ["empty", "missing"])
def test_a_worker_does_not_start_without_any_model(tmp_path: Path, directory: str) -> None:
    """Also if the directory does not exist."""
    if directory == "empty":
        (tmp_path / directory).mkdir()
    registry = Registry(tmp_path / directory, (), load, describe=describe)
    registry.refresh()
    with pytest.raises(ModelError, match=r"no model at all \(no folder in it has a config\.json\)"):
        registry.require()


def test_two_refreshes_at_once_load_once(models: Path) -> None:
    """The second waits for the first, and has nothing left to load."""
    loaded: list[str] = []
    both = threading.Barrier(2)

    def slow(directory: Path) -> LoadedModel:
        loaded.append(directory.name)
        return load(directory)

    registry = Registry(models, (), slow, describe=describe)

    def refresh() -> set[str]:
        both.wait()
        return registry.refresh()

    with ThreadPoolExecutor(2) as pool:
        assert [future.result() for future in [pool.submit(refresh) for _ in range(2)]] == [set(), set()]
    assert loaded == ["a"]


def test_readers_see_consistent_models_during_refreshes(models: Path) -> None:
    """Jobs look up models from many threads while the directory changes."""
    one = load(models / "a")
    registry = Registry(models, (), lambda directory: one, describe=describe)
    registry.refresh()
    stop = threading.Event()

    def read() -> int:
        rounds = 0
        while not stop.wait(0.0005):
            assert registry.get("a") is one
            assert "a" in registry.cards
            rounds += 1
        return rounds

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for n in range(20):
            shutil.copytree(models / "a", models / f"b{n}")
            registry.refresh()
            shutil.rmtree(models / f"b{n}")
            registry.refresh()
        stop.set()
        assert all(reader.result() > 0 for reader in readers)
