"""`python -m api`: one gateway process, configured by `OTOSCOPE_*` variables."""

import logging
import signal
import sys

import uvicorn

from api.descriptors import raise_limit
from api.http.protocol import WEBSOCKETS, bounded_protocol
from api.main import create_app
from shared import tracing
from shared.api_keys import KeyFileError
from shared.bootstrap import StartupError, initialize

log = logging.getLogger(__name__)


def main() -> int:
    """Exit status: 0 after a clean stop, 1 when the settings, or the Redis that they name, are unusable."""
    try:
        settings = initialize("otoscope-gateway")
        app = create_app(settings)
    except (StartupError, KeyFileError) as error:
        print(f"otoscope gateway: {error}", file=sys.stderr)
        return 1
    if settings.exposure:
        log.warning(settings.exposure)
    # How long a rendering thread may hold the interpreter lock before the event loop gets it: with Python's default of
    # 5 ms every other request would wait that long at each switch.
    sys.setswitchinterval(0.0005)
    # uvicorn drains on these signals and then raises them again; by then nothing is left to do.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            timeout_graceful_shutdown=5,  # an open event stream must not delay a restart
            timeout_keep_alive=30,
            access_log=False,
            log_config=None,
            server_header=False,
            http=bounded_protocol(
                settings.upload_seconds, raise_limit(settings.max_connections, len(settings.redis_servers))
            ),
            **WEBSOCKETS,
            proxy_headers=bool(settings.proxies),  # uvicorn's own default trusts every process on this machine
            forwarded_allow_ips=list(settings.proxies),
        )
    finally:
        tracing.shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
