"""`python -m worker`: one worker process, configured by `OTOSCOPE_*` variables."""

import logging
import signal
import sys
import warnings

from celery.platforms import SecurityWarning
from celery.signals import setup_logging
from celery.worker import state

from otoscope.errors import OtoscopeError
from shared import tracing
from shared.bootstrap import StartupError, initialize


def main() -> int:
    """Exit status: 0 after a clean stop, 1 when it could not start (the last line says why)."""
    # Celery warns root of pickled messages; only JSON is accepted here, and containers do not run as root.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    try:
        settings = initialize("otoscope-worker")
    except StartupError as error:
        print(f"otoscope worker: {error}", file=sys.stderr)
        return 1
    logging.getLogger("celery").setLevel(logging.WARNING)
    setup_logging.connect(_leave_logging_alone)
    # Until Celery has handlers of its own: whoever stops a worker that starts sees an orderly end, too. They set
    # Celery's flag and raise nothing, since Python loses what is raised in the middle of an import or a callback.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_soon)
    from worker.app import Worker  # torch takes a second or two: not before the settings are known to be sound
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
        tracing.stop()
    return status


def _stop_soon(*_: object) -> None:
    state.should_stop = 0


def _leave_logging_alone(**_: object) -> None:
    """Where anybody listens to this signal, Celery does; otherwise it silences everything below its own level."""


if __name__ == "__main__":
    raise SystemExit(main())
