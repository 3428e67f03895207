"""Markers that no test sets by hand: they follow from the fixtures that a test uses and from the code that it calls.

A test that starts a process is `process`, one that trains, exports or compiles a network is `training`, one that opens
a browser is `browser`, and one that uses the Redis server of the run is `redis`. `make quick` leaves out all of them
but `redis`. What is found here is enforced: a test without the marker `process` that starts one fails
(`UnitTestGuard`).
"""

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import pytest

BY_FIXTURE = {
    "browser": "browser",
    "cuda": "gpu",
    "real_sounds": "data",
    "recipe_file": "training",
    "redis_socket": "redis",
}
"""Fixture (used directly or through others): marker."""

BY_CALL = {
    "bench.lib.rig.Rig": "process",
    "commands.stack.supervisor.Supervisor": "process",
    "hypothesis.core.given": "fuzz",
    "multiprocessing": "process",
    "subprocess": "process",
    "tests.support.hostile_requests.hostile_request": "fuzz",
    "training.diagnostics.find_learning_rate": "training",
    "training.diagnostics.overfit_one_batch": "training",
    "training.eval.crossval.cross_validate": "training",
    "training.export.onnx.export_onnx": "training",
    "training.export.quantise.quantise": "training",
    "training.fit.loop.train": "training",
    "worker.app.Worker": "process",
    "worker.decode.pool.DecoderPool": "process",
    "worker.fetch.fetcher.Fetcher": "process",
    "worker.inference.openvino.OpenVINOBackend": "training",
}
"""Module, or function or class by its full name, that the test's code reaches: marker."""

SLOW = ("process", "training", "fuzz", "browser", "data", "gpu", "slow", "long")
"""What `make quick` leaves out. Anything else is a unit test."""

FOLDERS = {"browser": ("tests/browser/",), "training": ("tests/training/", "tests/worker/")}
"""Where a part of `make test` collects its tests: to import those of every folder takes as long as some of them."""

BROWSER_HALF = "tests/browser/test_r"
"""The files before it take as long as those behind it."""

UNIT_TIMEOUT = 10  # seconds for a unit test, without its fixtures: the first one may import torch

_OUR_TESTS = ("tests.", "bench.")


def mark(item: pytest.Item) -> None:
    """Add the markers of one collected test."""
    assert isinstance(item, pytest.Function)
    for name in {BY_FIXTURE[name] for name in item.fixturenames if name in BY_FIXTURE} | _called(item):
        item.add_marker(name)
        if not item.nodeid.startswith(FOLDERS.get(name, "")):
            raise pytest.UsageError(f"{item.nodeid} is `{name}`, so its place is {' or '.join(FOLDERS[name])}")


def mark_those_beside(items: list[pytest.Item]) -> None:
    """Mark a slow test `training` if one with which it shares a fixture is, and `browser` if it is in the folder of
    those, so that they run in the same part of `make test`: the fixture would otherwise be set up twice."""
    training = {group(item) for item in items if item.get_closest_marker("training")}
    for item in items:
        if not is_slow(item):
            continue
        if not item.get_closest_marker("training") and group(item) in training:
            item.add_marker("training")
        if not item.get_closest_marker("browser") and item.nodeid.startswith(FOLDERS["browser"]):
            item.add_marker("browser")


def limit(item: pytest.Item) -> None:
    """Give a unit test its time limit, which is longer on a machine with more runnable processes than cores."""
    if not is_slow(item) and not item.get_closest_marker("timeout"):
        load = os.getloadavg()[0] / (os.cpu_count() or 1)  # over the last minute
        item.add_marker(pytest.mark.timeout(UNIT_TIMEOUT * max(1.0, load), func_only=True))


def group(item: pytest.Item) -> str:
    """The name of the group of tests that one process runs: those that share a fixture of their package or file, such
    as a running service, or the unit tests of one file. A slow test that shares nothing is a group of its own."""
    assert isinstance(item, pytest.Function)
    file = item.nodeid.partition("::")[0]
    shared = {
        f"{fixture.baseid}::{name}": fixture.scope
        for name, fixtures in item._fixtureinfo.name2fixturedefs.items()
        for fixture in fixtures
    }
    if packages := sorted(name for name, scope in shared.items() if scope == "package"):
        # Tests in the browser are too many for one process: two have a running service each.
        return f"{packages[0]} {file > BROWSER_HALF}" if item.get_closest_marker("browser") else packages[0]
    return file if not is_slow(item) or {"class", "module"} & set(shared.values()) else item.nodeid


def is_slow(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in SLOW)


def _called(item: pytest.Function) -> set[str]:
    """Markers of the test's function and of its fixtures. A session fixture counts for nothing: it is shared by so many
    tests that its cost is none of theirs."""
    found = set(_reached(item.function))
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        found.update(*(_reached(fixture.func) for fixture in definitions if fixture.scope != "session"))
    return found


_known: dict[CodeType | type, frozenset[str]] = {}


def _reached(thing: object) -> frozenset[str]:
    """Markers of everything that a function or class of the tests refers to, at any depth."""
    if isinstance(thing, MethodType):
        thing = thing.__func__
    thing = getattr(thing, "__wrapped__", thing)
    if isinstance(thing, FunctionType):
        key: CodeType | type = thing.__code__
        parts: list[object] = list(_references(thing.__code__, thing.__globals__))
    elif isinstance(thing, type):
        key = thing
        parts = [_function(value) for value in vars(thing).values()] + list(thing.__bases__)
    else:
        return frozenset()
    if key not in _known:
        _known[key] = frozenset()  # ends a recursion
        _known[key] = frozenset().union(*map(_of, parts))
    return _known[key]


def _of(thing: object) -> frozenset[str]:
    name = thing.__name__ if isinstance(thing, ModuleType) else _full_name(thing)
    if name in BY_CALL:
        return frozenset({BY_CALL[name]})
    return _reached(thing) if name.startswith(_OUR_TESTS) else frozenset()


def _references(code: CodeType, names: dict[str, Any]) -> Iterator[object]:
    """The global objects that code names, also in functions inside it, and the modules that it imports."""
    for name in code.co_names:
        if name in names:
            yield names[name]
        elif name in sys.modules and name in BY_CALL:
            yield sys.modules[name]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _references(constant, names)


def _function(value: object) -> object:
    """What is behind a static method, class method or property."""
    return getattr(value, "__func__", None) or getattr(value, "fget", None) or value


def _full_name(thing: object) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"


class UnitTestGuard:
    """A plugin of pytest for unit tests: a time limit, and no process can be started, by an audit hook (PEP 578).

    It is registered as a plugin since pytest calls the hooks of a conftest file for no fixture of the whole run.
    """

    EVENTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec")
    ALLOWED = ("ldconfig", "gcc", "cc", "ld", "objdump", "file", "uname")
    """What ctypes.util.find_library() and the module platform call, on behalf of libraries."""

    def __init__(self) -> None:
        self._closed_for = ""
        sys.addaudithook(self._audit)

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # before pytest-timeout reads the limit
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        limit(item)
        with self._closed("" if is_slow(item) else item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
        with self._closed("" if fixturedef.scope == "session" else self._closed_for):
            return (yield)

    @contextmanager
    def _closed(self, test: str) -> Iterator[None]:
        before, self._closed_for = self._closed_for, test
        try:
            yield
        finally:
            self._closed_for = before

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._closed_for or event not in self.EVENTS:
            return
        program = Path(str(arguments[0])).name if arguments else ""
        if program not in self.ALLOWED:
            raise AssertionError(
                f"{self._closed_for} starts a process ({event} {arguments[:2]!r:.200}) and is not marked `process`:"
                " name what it calls in tests/support/markers.py"
            )
