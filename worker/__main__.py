"""`python -m worker`: one worker process, configured by `OTOSCOPE_*` variables."""

import signal
import sys

from otoscope.errors import OtoscopeError
from shared import tracing
from shared.bootstrap import StartupError, initialize
from worker.queue.celery_app import configure_logging, request_stop


def main() -> int:
    """Exit status: 0 after a clean stop, 1 if the worker could not start (the last line on stderr is the reason)."""
    try:
        settings = initialize("otoscope-worker", one_server=True)
    except StartupError as error:
        print(f"otoscope worker: {error}", file=sys.stderr)
        return 1
    configure_logging()
    # Until Celery installs its own handlers, so that a worker that is stopped while it starts ends cleanly, too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _request_stop)
    from worker.app import Worker  # imports torch, which takes a second or two: only after the settings are validated
    from worker.model.checkpoint import ModelError

    worker = Worker(settings)
    try:
        worker.start()
        status = worker.run()
    except (ModelError, OtoscopeError, OSError) as error:
        print(f"otoscope worker: {error}", file=sys.stderr)
        status = 1
    finally:
        worker.close()
        tracing.shutdown()
    return status


def _request_stop(*_: object) -> None:
    request_stop()


if __name__ == "__main__":
    raise SystemExit(main())
