"""Lua scripts for Redis, read from the `.lua` files of a package's folder `scripts`.

Each file opens with a comment that names its KEYS, its ARGV and its reply. Up to about four arguments are positional;
more are one MessagePack map (`cmsgpack.unpack`, which Redis and Valkey have built in). A line `--!include other.lua`
stands for the contents of that file of the same folder.
"""

import re
from functools import cache
from importlib.resources import files

_INCLUDE = re.compile(r"^--!include (\S+)$", re.MULTILINE)


@cache
def load_script(package: str, name: str) -> str:
    """The text of `{package}/scripts/{name}.lua`, included files in their places. Raises FileNotFoundError."""
    folder = files(package) / "scripts"
    text = (folder / f"{name}.lua").read_text("utf-8")
    return _INCLUDE.sub(lambda line: (folder / line[1]).read_text("utf-8").rstrip("\n"), text)
