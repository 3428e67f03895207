"""How to install an optional dependency, for error messages. Otoscope is on no package index: pip gets its folder."""


def install_command(*extras: str) -> str:
    """The command that installs those extras of the application."""
    return f".venv/bin/pip install -e '.[{','.join(extras)}]' in Otoscope's folder"
