"""requirements/ and pyproject.toml agree; `make lock` writes requirements/."""

import re
import tomllib
from collections.abc import Iterable

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
CLIENT = tomllib.loads((ROOT / "otoscope" / "pyproject.toml").read_text())["project"]
ARCHITECTURES = ("x86_64", "aarch64")
IMAGE_LOCKS = ("api", "worker", "torch", "openvino")
LOCKS = (*(f"{architecture}/{name}" for architecture in ARCHITECTURES for name in IMAGE_LOCKS), "local")


def pins(lock: str) -> dict[str, Version]:
    """The pins of a lock for CPython 3.11; each has hashes, and no index is named."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text
    found = {}
    for entry in re.split(r"\n(?=[a-z0-9])", text.replace("\\\n", " "))[1:]:
        line = entry.splitlines()[0]
        requirement = re.match(r"([a-z0-9._-]+)(?:\[.*?\])?==([^\s;]+)(?: ; (.*?) +--hash)?", line)
        assert requirement, line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), f"{requirement[1]} in {lock}.txt has no hash"
        environment = {"python_full_version": "3.11.9", "python_version": "3.11", "sys_platform": "linux"}
        if requirement[3] and not Marker(requirement[3]).evaluate(environment):
            continue
        found[canonicalize_name(requirement[1])] = Version(requirement[2])
    return found


def for_linux(requirements: Iterable[str]) -> list[Requirement]:
    parsed = map(Requirement, requirements)
    return [one for one in parsed if one.marker is None or one.marker.evaluate({"sys_platform": "linux"})]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("locks", "extras"),
    [
        (["api"], ["tracing"]),
        (["worker", "torch"], ["worker", "tracing", "s3"]),
        (["worker", "torch", "openvino"], ["openvino"]),
    ],
)
def test_images_pin_what_the_project_requires(architecture: str, locks: list[str], extras: list[str]) -> None:
    """Every requirement of an image has a pin within its range."""
    installed = {name: version for lock in locks for name, version in pins(f"{architecture}/{lock}").items()}
    optional = [requirement for extra in extras for requirement in OPTIONAL[extra]]
    required = for_linux([*PROJECT["dependencies"], *optional])
    assert len(required) > 18
    check(required, installed)


def test_make_up_installs_pins_of_the_application_and_the_client() -> None:
    """Everything but torch, of which a machine may take another build; no older than its range, as everywhere."""
    optional = [requirement for extra in ("worker", "local", "train") for requirement in OPTIONAL[extra]]
    required = for_linux([*PROJECT["dependencies"], *optional, *CLIENT["dependencies"]])
    check(required, pins("local") | pins("x86_64/torch"))


def check(required: list[Requirement], installed: dict[str, Version]) -> None:
    for requirement in required:
        version = installed.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} has no pin: make lock"
        assert requirement.specifier.contains(version), f"{requirement}, and {version} is pinned: make lock"


def test_no_package_is_pinned_in_two_versions() -> None:
    """Over all images, architectures and `make up`."""
    versions: dict[str, set[Version]] = {}
    for lock in LOCKS:
        for name, version in pins(lock).items():
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_torch_has_a_lock_of_its_own() -> None:
    """The image for CPUs and `make up` take another build of it, and the gateway none."""
    for architecture in ARCHITECTURES:
        assert {"torch", "triton"} <= set(pins(f"{architecture}/torch"))
        assert "openvino" not in pins(f"{architecture}/worker"), "the image for GPUs does without"
    for lock in LOCKS:
        if not lock.endswith("/torch"):
            assert not [name for name in pins(lock) if name in ("torch", "triton") or name.startswith("nvidia-")]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gateway_has_neither_celery_nor_an_http_client(architecture: str) -> None:
    """It writes job ids to Redis; the worker alone makes Celery messages of them."""
    assert not pins(f"{architecture}/api").keys() & {"celery", "kombu", "httpx", "httpx2"}
