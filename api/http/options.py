"""The options of a submission, from whichever part of the request they come."""

from typing import Any

from pydantic import ValidationError

from api.http.forms import UNSET
from api.http.problems import describe_validation_errors
from otoscope.errors import InvalidRequest
from otoscope.types import JobOptions

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
        known = ", ".join(JobOptions.model_fields)
        raise InvalidRequest(f"{describe_validation_errors(error.errors())} The options are {known}.") from error


def _is_set(value: Any) -> bool:
    return value is not None and value not in UNSET
