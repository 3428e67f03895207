"""Text of others for a terminal or a log: file names, names of models and classes, error messages.

Control characters in it would move the cursor, change the title of the window, or begin another line of a log;
bidirectional overrides show it in another order (CVE-2021-42574).
"""

import re

_UNSAFE = (
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1 (ECMA-48), which begin escape sequences
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # of the bidirectional algorithm (UAX 9)
    "\u2028\u2029"  # separators of lines and paragraphs
    "\ud800-\udfff"  # surrogates, which cannot be encoded
)
CONTROLS = re.compile(f"[{_UNSAFE}]")
_CONTROLS_IN_LINES = re.compile(f"(?![\n\t])[{_UNSAFE}]")


def escape_controls(text: str, *, keep_lines: bool = False) -> str:
    """The text with `\\x1b` and the like in place of control characters; line ends and tabs stay with `keep_lines`."""
    return (_CONTROLS_IN_LINES if keep_lines else CONTROLS).sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(found[0]) or (
        f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
    )
