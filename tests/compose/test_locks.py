"""requirements/ and pyproject.toml agree; `make lock` is what makes them."""

import re
import tomllib
from collections.abc import Iterable

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("api", "worker", "torch", "openvino")


def pins(lock: str) -> dict[str, Version]:
    """What a lock installs; each with hashes, and from wherever pip is told to look."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text
    found = {}
    for entry in re.split(r"\n(?=[a-z0-9])", text.replace("\\\n", " "))[1:]:
        line = entry.splitlines()[0]
        requirement = re.match(r"([a-z0-9._-]+)(?:\[.*?\])?==([^\s;]+)", line)
        assert requirement, line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), f"{requirement[1]} in {lock}.txt has no hash"
        found[canonicalize_name(requirement[1])] = Version(requirement[2])
    return found


def asked_for(requirements: Iterable[str]) -> list[Requirement]:
    wanted = map(Requirement, requirements)
    return [one for one in wanted if one.marker is None or one.marker.evaluate({"sys_platform": "linux"})]


@pytest.mark.parametrize(
    ("locks", "extras"),
    [
        (["api"], ["tracing"]),
        (["worker", "torch"], ["worker", "aac", "tracing"]),
        (["worker", "torch", "openvino"], ["openvino"]),
    ],
)
def test_what_is_asked_for_is_pinned_as_asked(locks: list[str], extras: list[str]) -> None:
    installed = {name: version for lock in locks for name, version in pins(lock).items()}
    optional = [requirement for extra in extras for requirement in PROJECT["optional-dependencies"][extra]]
    wanted = asked_for([*PROJECT["dependencies"], *optional])
    assert len(wanted) > 20
    for requirement in wanted:
        version = installed.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} is in none of {locks}: make lock"
        assert requirement.specifier.contains(version), f"{requirement}, and {version} is pinned: make lock"


def test_no_package_is_in_an_image_in_two_versions() -> None:
    versions: dict[str, set[Version]] = {}
    for lock in LOCKS:
        for name, version in pins(lock).items():
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_torch_stands_apart() -> None:
    """The image for processors takes another build of it, and the gateway none."""
    assert {"torch", "triton"} <= set(pins("torch"))
    for lock in ("api", "worker", "openvino"):
        assert not [name for name in pins(lock) if name in ("torch", "triton") or name.startswith("nvidia-")]
    assert "openvino" not in pins("worker"), "the image for GPUs does without"
