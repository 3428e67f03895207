"""The layout of text files: `python -m tests.support.text_files FILE...` prints what breaks it.

A file ends with exactly one newline, has Unix line ends and no trailing spaces (Markdown has none either: a line break
is never wanted). Run by pre-commit and by the tests.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

LEFT_OUT = (".svg", ".png", ".flac", ".ogg", ".safetensors", ".lock")


def faults(paths: Iterable[Path]) -> Iterator[str]:
    """A sentence for each fault of each text file. Files that are not UTF-8, and symbolic links, are skipped."""
    for path in paths:
        if path.suffix in LEFT_OUT or path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            continue
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            yield f"{path} does not end with exactly one newline"
        for number, line in enumerate(text.split("\n"), 1):
            if line != line.rstrip(" \t\r"):
                yield f"{path}:{number} ends with spaces, a tab or a carriage return"


if __name__ == "__main__":
    found = list(faults(map(Path, sys.argv[1:])))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
