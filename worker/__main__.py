"""`python -m worker`: one worker process, configured by `OTOSCOPE_*` variables."""

import logging
import signal
import sys
import warnings

from celery.platforms import SecurityWarning
from celery.signals import setup_logging

from shared import tracing
from shared.errors import OtoscopeError
from shared.start import CannotStart, begin


def main() -> int:
    """Exit status: 0 after a clean stop, 1 when it could not start (the last line says why)."""
    # Celery warns root of pickled messages; only JSON is accepted here, and containers do not run as root.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    try:
        settings = begin("otoscope-worker")
    except CannotStart as error:
        print(f"otoscope worker: {error}", file=sys.stderr)
        return 1
    logging.getLogger("celery").setLevel(logging.WARNING)
    setup_logging.connect(_leave_logging_alone)
    from worker.app import Worker  # torch takes a second or two: not before the settings are known to be sound
    from worker.model.checkpoint import ModelError

    # Until Celery has handlers of its own: whoever stops a worker that starts sees an orderly end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
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


def _leave_logging_alone(**_: object) -> None:
    """Where anybody listens to this signal, Celery does; otherwise it silences everything below its own level."""


if __name__ == "__main__":
    raise SystemExit(main())
