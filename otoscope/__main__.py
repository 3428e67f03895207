"""`otoscope` and `python -m otoscope`: the command line, whose packages are the extra `cli`."""

import sys

from otoscope.cli import end_interrupted


def main() -> None:
    """Run the command line, or fail with what to install: `pip install ./otoscope` alone installs the library."""
    try:
        from otoscope.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "typer"):
            raise
        print(
            f"otoscope: the command line needs the package {error.name}, which is not installed:"
            " pip install './otoscope[cli]' in Otoscope's source folder",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    except KeyboardInterrupt:  # the imports alone take a while on a slow disk
        end_interrupted()
    run()


if __name__ == "__main__":
    main()
