"""The limit of file descriptors, of which every connection needs one."""

import logging
import resource

log = logging.getLogger(__name__)

_OWN = 127
"""Descriptors of the process itself: files, pipes, and those of an upload that is on disk."""
_OF_A_SERVER = 65
"""Connections to a Redis server: 64 for requests, and one for probes."""


def raise_limit(max_connections: int, servers: int) -> int:
    """Raise the soft limit (RLIMIT_NOFILE) to the hard limit; returns how many connections may be open.

    A limit too low for `max_connections` requests is logged.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError) as error:  # a limit of the system that is lower than the hard limit
            log.warning("the limit of file descriptors stays at %d: %s", soft, error)
    connections = max(soft - _OWN - _OF_A_SERVER * servers, 1)
    if soft != resource.RLIM_INFINITY and connections < max_connections:
        log.warning(
            "OTOSCOPE_MAX_CONNECTIONS=%d cannot be reached: %d file descriptors are the limit (ulimit -Hn), which"
            " permits %d connections",
            max_connections,
            soft,
            connections,
        )
    return connections
