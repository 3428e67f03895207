"""kubernetes/ as kustomize builds it. There is no cluster: the documents are checked, not applied."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

KUBERNETES = ROOT / "kubernetes"
OVERLAYS = ("cpu", "gpu")
NAME = "app.kubernetes.io/name"


def builder() -> list[str]:
    """The command that builds a kustomization. Skips the test if there is none."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    pytest.skip("needs kustomize, or kubectl, which includes it")


def build(directory: Path) -> list[dict[str, Any]]:
    """The documents of a kustomization."""
    done = subprocess.run([*builder(), str(directory)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def built(overlay: str) -> list[dict[str, Any]]:
    return build(KUBERNETES / "overlays" / overlay)


@dataclass(frozen=True)
class Cluster:
    """The documents of an overlay, and queries for some of them."""

    documents: list[dict[str, Any]]

    def all(self, *kinds: str) -> list[dict[str, Any]]:
        return [document for document in self.documents if document["kind"] in kinds]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = (document for document in self.all(kind) if document["metadata"]["name"] == name)
        return found

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and pod template of every workload."""
        for owner in self.all("Deployment", "StatefulSet"):
            yield owner["metadata"]["name"], owner["spec"]["template"]

    def selected(self, selector: dict[str, Any]) -> set[str]:
        """Names of the pods that a label selector finds."""
        return {name for name, pod in self.pods() if _selects(selector, pod["metadata"]["labels"])}

    def settings(self) -> dict[str, str]:
        (found,) = (
            document["data"]
            for document in self.all("ConfigMap")
            if document["metadata"]["name"].startswith("otoscope-settings-")
        )
        return dict(found)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    exact = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        exact &= labels.get(expression["key"]) in expression["values"]
    return exact


@pytest.fixture(params=OVERLAYS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Each overlay in turn."""
    return Cluster(built(request.param))


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str, str], Cluster]:
    """An overlay with one line of its kustomization changed, as an operator would."""

    def change(overlay: str, before: str, after: str) -> Cluster:
        copy = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
        file = copy / "overlays" / overlay / "kustomization.yaml"
        assert before in file.read_text()
        file.write_text(file.read_text().replace(before, after))
        return Cluster(build(file.parent))

    return change
