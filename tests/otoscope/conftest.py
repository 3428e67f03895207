"""A fake service, and an environment without settings."""

import os
from collections.abc import Iterator

import pytest

from tests.support.fake_service import FakeService


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def no_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment may have settings of another stack."""
    for name in list(os.environ):
        if name.startswith("OTOSCOPE_"):
            monkeypatch.delenv(name)
