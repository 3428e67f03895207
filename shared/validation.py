"""Pydantic's errors as sentences: which field, what it must be, and what was found."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

UNKNOWN = "extra_forbidden"
"""The type of the error of a field that does not exist."""

_PARTS_OF_REQUEST = ("body", "query", "header", "path")
_MOST = 40  # characters of a value


def describe_validation_errors(errors: Iterable[Mapping[str, Any]], request: str = "request") -> str:
    """For each field one clause: `top_k: must be greater than or equal to 1, not 0`. `request` names what an error is
    of that is of no field. Values are quoted where the errors have them (`include_input`) and they are short."""
    clauses: dict[str, list[str]] = {}  # several of a field where it may be of one of several types
    found: dict[str, str] = {}
    for error in errors:
        names = [part for part in error["loc"] if part not in _PARTS_OF_REQUEST and not _is_type(part)]
        while names and isinstance(names[-1], int):  # which element of a list is known by its value
            names.pop()
        field = ".".join(map(str, names)) or request
        text = error["msg"].removeprefix("Value error, ")
        if error["type"] == UNKNOWN:
            text = "is not known"
        elif error["type"] == "missing":
            text = "is missing"
        elif text.startswith("Input should be "):
            text = "must be " + re.split(r", (?:got|unable) ", text.removeprefix("Input should be "))[0]
            if "input" in error and isinstance(error["input"], str | int | float | None):
                found.setdefault(field, f", not {_short(error['input'])}")
        clauses.setdefault(field, []).append(text)
    return (
        "; ".join(
            f"{field}: {' or '.join(dict.fromkeys(texts)).replace(' or must be ', ' or ')}{found.get(field, '')}"
            for field, texts in clauses.items()
        )
        + "."
    )


def _is_type(part: str | int) -> bool:
    """Whether a part of the location names one of the types of a union, as `literal['mean','left']`."""
    return isinstance(part, str) and (not part.isidentifier() or part in ("int", "float", "str", "bool"))


def _short(value: str | float | None) -> str:
    text = repr(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"
