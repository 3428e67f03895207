"""The environment of the tests of commands."""

from tests.otoscope.conftest import no_settings_of_the_environment as no_settings_of_the_environment
