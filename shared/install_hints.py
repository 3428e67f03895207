"""How an optional part is installed. Otoscope is on no package index, so that pip is given its folder."""


def install(*extras: str) -> str:
    """The command, for people."""
    return f".venv/bin/pip install -e '.[{','.join(extras)}]' in Otoscope's folder"
