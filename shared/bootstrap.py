"""The start of a process, the same for gateway and worker: settings, logging, tracing, and the preflight of Redis."""

import logging
import os

from shared import log_config, tracing
from shared.config.settings import ConfigurationError, Settings, load_settings, unknown_variables
from shared.redis_client import preflight

log = logging.getLogger(__name__)


class StartupError(Exception):
    """Why the process cannot start, in one line."""


def initialize(service: str, *, one_server: bool = False) -> Settings:
    """Read the settings, and configure logging and tracing of this process, under that service name. With `one_server`
    it has to be a single Redis server.

    Raises StartupError for a fault that waiting does not cure.
    """
    try:
        settings = load_settings()
        if one_server:
            settings.require_one_server()
        log_config.configure(settings.log_format)
        for line in unknown_variables(os.environ):
            log.warning(line)
        tracing.configure(settings, service)
        preflight.check(settings)
    except (ConfigurationError, preflight.PreflightError, tracing.TracingSetupError) as error:
        raise StartupError(str(error)) from error
    return settings
