"""The words of the page: one file per language, complete, chosen by the browser."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "api" / "static" / "js"
LANGUAGES = sorted((PAGE / "words").glob("*.js"))
TEMPLATE = re.compile(r"`([a-z][\w.]*\.)\$\{[^}`]+\}([\w.]*)`")
KEY = re.compile(r'^  "([\w.]+)":', re.MULTILINE)


def entries(path: Path) -> dict[str, str]:
    """The texts of a language by key, as they are written in the file."""
    text = path.read_text()
    marks = list(KEY.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [text.rindex("};")]
    return {mark[1]: text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)}


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_every_language_has_every_text_with_its_values(path: Path) -> None:
    """The keys of en.js, once each, and the same values in braces."""
    english, other = entries(PAGE / "words" / "en.js"), entries(path)
    assert list(other) == list(english)
    assert len(KEY.findall(path.read_text())) == len(other)
    for key, text in other.items():
        assert set(re.findall(r"\{(\w+)\}", text)) == set(re.findall(r"\{(\w+)\}", english[key])), key


def test_no_text_is_unused() -> None:
    """Each key occurs in a module, whole or as a template with one computed part."""
    modules = "".join(path.read_text() for path in PAGE.rglob("*.js") if path.parent.name != "words")
    modules += (PAGE.parent / "index.html").read_text()
    templates = [re.escape(before) + r"\w+" + re.escape(after) for before, after in TEMPLATE.findall(modules)]
    missing = [
        key
        for key in entries(PAGE / "words" / "en.js")
        if f'"{key}"' not in modules and not any(re.fullmatch(template, key) for template in templates)
    ]
    assert not missing
