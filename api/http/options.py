"""The options of a submission, from whichever part of the request they come."""

from typing import Any

from pydantic import BaseModel, ValidationError

from api.http.forms import UNSET
from otoscope.errors import InvalidRequest
from otoscope.types import JobOptions
from shared.validation import UNKNOWN, describe_validation_errors

MAX_OPTIONS = 32  # of a request, and values of `include`


def validate_options(*parts_of_request: dict[str, Any]) -> JobOptions:
    """The options of the parts of a request, of which the last that has an option counts. Raises InvalidRequest."""
    given = {name: value for part in parts_of_request for name, value in part.items() if _is_set(value)}
    include = given.get("include")
    if isinstance(include, str):
        include = given["include"] = [part.strip() for part in include.split(",") if part.strip()]
    if isinstance(include, list):
        include = given["include"] = [part for part in include if _is_set(part)]
    parts = include if isinstance(include, list) else []
    if max(len(given), len(parts)) > MAX_OPTIONS:  # pydantic would describe every one of them
        raise InvalidRequest(f"At most {MAX_OPTIONS} options and {MAX_OPTIONS} parts are accepted.")
    if not all(isinstance(part, str) for part in parts):  # pydantic would print them, however deeply nested
        raise InvalidRequest("include: the names of parts must be strings.")
    if parts:
        given["include"] = list(dict.fromkeys(parts))
    try:
        return JobOptions.model_validate(given)
    except ValidationError as error:
        raise invalid_options(error, JobOptions) from error


def invalid_options(error: ValidationError, kind: type[BaseModel]) -> InvalidRequest:
    """The error of options; an unknown one is answered with the names of all."""
    errors = error.errors()
    known = f" The options are {', '.join(kind.model_fields)}." if any(one["type"] == UNKNOWN for one in errors) else ""
    return InvalidRequest(describe_validation_errors(errors) + known)


def _is_set(value: Any) -> bool:
    return value is not None and value not in UNSET
