"""The label of a sound: one class, or several of a multi-label data set, written as `dog;rain` or as a JSON list."""

import json
import unicodedata

SEPARATOR = ";"


def normalise_label(label: str) -> str:
    """Strip white space and compose accents (Unicode NFC): some file systems store them decomposed.

    Several classes are sorted and joined with semicolons; each counts once.
    """
    text = label.strip()
    parts = [text]
    if text.startswith("["):
        try:
            listed = json.loads(text)
        except ValueError:
            listed = None
        if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
            parts = listed
    elif SEPARATOR in text:
        parts = text.split(SEPARATOR)
    names = {unicodedata.normalize("NFC", part.strip()) for part in parts}
    return SEPARATOR.join(sorted(filter(None, names)))


def split_label(label: str) -> tuple[str, ...]:
    """The classes of a normalised label."""
    return tuple(label.split(SEPARATOR))
