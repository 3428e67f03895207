"""The error tree: its drawing in the docstring, its codes, and pickling."""

import copy
import pickle
import re
from pathlib import Path

import pytest

from api.http.problems import STATUS
from otoscope import errors
from otoscope.errors import BY_CODE, OtoscopeError, QueueFull, StoreUnavailable, cause


def tree(root: type[OtoscopeError] = OtoscopeError, depth: int = 0) -> list[tuple[int, type[OtoscopeError]]]:
    """(depth, class) of the whole tree, parents first, in the order of definition."""
    return [(depth, root), *[line for child in children(root) for line in tree(child, depth + 1)]]


def children(kind: type[OtoscopeError]) -> list[type[OtoscopeError]]:
    """Without those of other packages."""
    return [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]


def drawn() -> list[tuple[int, str, str | None]]:
    """(depth, class name, code) of every line of the drawing in the docstring."""
    lines = re.findall(r"^    ([│├└─ ]*)([A-Z]\w+)(?: +(.*))?$", errors.__doc__ or "", re.MULTILINE)
    return [
        (len(indent) // 4, name, rest if re.fullmatch(r"[a-z0-9_]+", rest) else None) for indent, name, rest in lines
    ]


LEAVES = [kind for _, kind in tree() if not children(kind)]


def test_the_docstring_shows_the_tree() -> None:
    """Each class is in the docstring below its parent, in the order of definition, leaves with their code."""
    actual = [(depth, kind.__name__, None if children(kind) else kind.code) for depth, kind in tree()]
    assert drawn() == actual


def test_every_error_has_a_code_and_a_title_of_its_own() -> None:
    """Codes and titles are unique."""
    assert len({kind.code for kind in LEAVES}) == len(LEAVES)
    assert len({kind.title for kind in LEAVES}) == len(LEAVES)
    for kind in LEAVES:
        assert {"code", "title"} <= vars(kind).keys(), f"{kind.__name__} inherits its code"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", kind.code)


def test_every_code_maps_to_its_class() -> None:
    """An error that is read from a job record has the class of the stored one."""
    assert {kind.code: kind for kind in LEAVES} == BY_CODE


def test_every_code_has_a_status() -> None:
    """Every error has an HTTP status, and every status an error."""
    assert STATUS.keys() == BY_CODE.keys()
    assert all(400 <= status < 600 for status in STATUS.values())


def test_the_status_shows_who_is_at_fault() -> None:
    """Bad sounds and requests are 4xx; Busy is 429 or 503."""
    for kind in LEAVES:
        status = STATUS[kind.code]
        if issubclass(kind, errors.AudioError | errors.RequestError):
            assert 400 <= status < 500, kind
        if issubclass(kind, errors.Busy):
            assert status in (429, 503), kind


def test_every_code_is_a_fault_of_the_service_or_of_the_caller() -> None:
    """A 5xx is a fault of the service, any other status one of the caller, but for a full queue."""
    at_fault = {code for code in BY_CODE if errors.fault_of(code) == "service"}
    assert at_fault == errors.SERVICE_FAULTS == {code for code in BY_CODE if STATUS[code] >= 500} | {"queue_full"}


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.code)
def test_errors_survive_pickling(kind: type[OtoscopeError]) -> None:
    """Class, message and retry_after survive pickling and copying."""
    error = kind("what was found", retry_after=7)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == again.detail == "what was found"
        assert again.retry_after == 7


def test_what_is_accepted_is_the_last_sentence() -> None:
    """The error of a sound has what was found also without the list, whether or not it was pickled."""
    error = errors.NotAudio("This is text.", accepted="WAV, FLAC")
    for each in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (each.found, each.detail) == ("This is text.", "This is text. Accepted: WAV, FLAC.")
    assert errors.AudioEmpty("The file is empty.").found == "The file is empty."


def test_an_error_needs_a_message() -> None:
    """An error cannot be created without one."""
    with pytest.raises(TypeError):
        QueueFull()  # type: ignore[call-arg]
    assert StoreUnavailable("gone").retry_after is None


def test_cause(tmp_path: Path) -> None:
    """Of an error of the system the reason without number and file, of any other error its text."""
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "none").read_bytes()
    assert cause(missing.value) == "No such file or directory"
    assert cause(OSError("the disk is full")) == "the disk is full"
    assert cause(ValueError("no number")) == "no number"
