"""Sentences about invalid input."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from otoscope.types import JobOptions
from shared.validation import describe_validation_errors


class Outer(BaseModel):
    sounds: list[JobOptions]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"channel": "foo"}, "channel: must be a valid integer or 'mean', 'left' or 'loudest', not 'foo'."),
        ({"top_k": "x"}, "top_k: must be a valid integer, not 'x'."),
        ({"top_k": 0}, "top_k: must be greater than or equal to 1, not 0."),
        ({"window": 1.5}, "window: must be a valid integer, not 1.5."),
        ({"colour": "red"}, "colour: is not known."),
        ({"overlap": 2, "strict": "x" * 99},
         f"strict: must be a valid boolean, not '{'x' * 39}…; overlap: must be less than or equal to 0.9, not 2."),
    ],
)  # fmt: skip
def test_an_error_has_the_field_what_is_accepted_and_what_was_found(given: dict[str, Any], text: str) -> None:
    """In one clause for each field, also where it may be of several types."""
    with pytest.raises(ValidationError) as error:
        JobOptions.model_validate(given)
    assert describe_validation_errors(error.value.errors()) == text


def test_an_element_of_a_list_is_named_by_its_value() -> None:
    """Not by its index."""
    with pytest.raises(ValidationError) as error:
        JobOptions.model_validate({"include": ["maps", "foo"]})
    text = describe_validation_errors(error.value.errors())
    assert text.startswith("include: must be 'windows', ")
    assert text.endswith("or 'detections', not 'foo'.")


def test_values_are_left_out_where_the_errors_have_none() -> None:
    """As for settings, of which one may be a password; a field of an element keeps its index."""
    with pytest.raises(ValidationError) as error:
        Outer.model_validate({"sounds": [{"top_k": 0}]})
    text = describe_validation_errors(error.value.errors(include_input=False))
    assert text == "sounds.0.top_k: must be greater than or equal to 1."
    with pytest.raises(ValidationError) as error:
        Outer.model_validate(7)
    assert describe_validation_errors(error.value.errors()).startswith("request: must be a valid dictionary")
