"""`python -m api`: one gateway process, configured by `OTOSCOPE_*` variables."""

import signal
import sys

import uvicorn

from api.http.protocol import bounded
from api.main import create_app
from shared import tracing
from shared.api_keys import KeysUnusable
from shared.bootstrap import CannotStart, begin


def main() -> int:
    """Exit status: 0 after a clean stop, 1 when the settings, or the Redis they name, are unusable."""
    try:
        settings = begin("otoscope-gateway")
        app = create_app(settings)
    except (CannotStart, KeysUnusable) as error:
        print(f"otoscope gateway: {error}", file=sys.stderr)
        return 1
    # After so long a thread that renders lets the event loop have the interpreter; Python's own 5 ms are what everybody
    # else would wait for at every turn.
    sys.setswitchinterval(0.0005)
    # uvicorn drains on these and then raises them again; what is left to do for the second time is nothing.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            timeout_graceful_shutdown=5,  # an open event stream must not hold up a restart
            timeout_keep_alive=30,
            access_log=False,
            log_config=None,
            server_header=False,
            http=bounded(settings.upload_seconds),
            ws="none",  # there are no WebSockets here, and the guard judges HTTP alone
            proxy_headers=bool(settings.proxies),  # uvicorn's own default believes whoever is on this machine
            forwarded_allow_ips=list(settings.proxies),
        )
    finally:
        tracing.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
