"""The beginning of a process, the same on both sides: settings, logs, traces, and a look at Redis."""

import logging
import os

from shared import log_config as logs
from shared import tracing
from shared.config.settings import Settings, SettingsUnusable, load_settings, misspelt
from shared.redis_client import preflight as demands

log = logging.getLogger(__name__)


class CannotStart(Exception):
    """Why, in one line."""


def begin(service: str) -> Settings:
    """The settings of this process, which logs and traces as they say from here on, under that service name.

    Raises CannotStart for what no waiting will mend.
    """
    try:
        settings = load_settings()
        logs.configure(settings.log_format)
        for line in misspelt(os.environ):
            log.warning(line)
        tracing.start(settings, service)
        demands.look(settings)
    except (SettingsUnusable, demands.RedisUnusable, tracing.TracingUnusable) as error:
        raise CannotStart(str(error)) from error
    return settings
