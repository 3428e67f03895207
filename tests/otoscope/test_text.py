"""Control characters in text of others."""

import io

import pytest

from otoscope.cli.console import SafeConsole
from otoscope.cli.tables import classified_table, models_table
from otoscope.text import escape_controls
from otoscope.types import ModelList
from tests.api.conftest import card

EVIL = "a\x1b[2J\x1b]0;title\x07\x9b31m\r\u202eb"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("dog.wav é 犬 🐕", "dog.wav é 犬 🐕"),
        ("a\x1b[2J", "a\\x1b[2J"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x7f\x9b\u202e\u2028\ud800", "\\x7f\\x9b\\u202e\\u2028\\ud800"),
    ],
)
def test_control_characters_are_escaped(text: str, escaped: str) -> None:
    """Everything else stays as it is."""
    assert escape_controls(text) == escaped


def test_lines_can_be_kept() -> None:
    """Of a table or a traceback; a carriage return would overwrite its line."""
    assert escape_controls("a\n\tb\r\x1b", keep_lines=True) == "a\n\tb\\r\\x1b"


def test_tables_of_the_command_line_are_safe() -> None:
    """Names of files and models do not control the terminal; rich's own colours do."""
    out = io.StringIO()
    console = SafeConsole(file=out, force_terminal=True, width=400)
    console.print(classified_table([(EVIL, None)]))
    console.print(models_table(ModelList(models=[card("tiny").model_copy(update={"licence": EVIL})], default="tiny")))
    text = out.getvalue()
    assert "\x1b[1;31mfailed" in text
    assert text.count("a\\x1b[2J\\x1b]0;t") == 2
    assert not any(unsafe in text for unsafe in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\r", "\u202e"))
