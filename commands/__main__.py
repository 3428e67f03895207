"""`python -m commands ...`: `otoscope ...` with the application's commands where it is not installed, as in its images.

There are no entry points without an installation, so the commands are given to the command line here.
"""

from importlib.metadata import EntryPoint

from commands import COMMANDS
from otoscope.cli import main as cli

if __name__ == "__main__":
    cli.main([EntryPoint(name, value, cli.GROUP) for name, value in COMMANDS.items()])
