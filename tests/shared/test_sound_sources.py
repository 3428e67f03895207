"""Which addresses of sounds may be fetched."""

import pytest

from otoscope.errors import UrlNotAllowed
from shared.sound_sources import SoundSources

SOURCES = SoundSources((
    "https://media.example.org", "https://*.files.example", "http://10.0.0.7:9000", "http://[::1]:80", "s3://sounds"
))  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        "https://media.example.org/a/dog.wav?token=1", "HTTPS://MEDIA.example.org:443/dog.wav", "http://[::1]/x.wav",
        "https://eu.files.example/dog.wav", "http://10.0.0.7:9000/x", "s3://sounds/a/b%20c.flac",
        "https://media.example.org./a.wav",
    ],
)  # fmt: skip
def test_a_listed_origin_is_allowed(url: str) -> None:
    """By scheme, host and port, in any case."""
    assert SOURCES.check(url).host


@pytest.mark.parametrize(
    "url",
    [
        "http://media.example.org/a.wav", "https://media.example.org:8443/a.wav", "https://example.org/a.wav",
        "https://media.example.org.evil.test/a", "https://evil.test/media.example.org", "https://files.example/a",
        "https://a@media.example.org/a", "https://media.example.org@evil.test/a",
        "https://evil.test\\@media.example.org/a",
        "https://media.example.org\t/a", "https://[::1/a", "file:///etc/passwd", "gopher://media.example.org/",
        "", "/a",
        "https://10.0.0.7:9000/", "http://10.0.0.7/", "http://[::2]/a", "s3://other/a", "s3://sounds/", "s3://sounds",
        "https://media.example.org:99999/", "https://media.example.org/" + "a" * 2_048, "https://médiа.example.org/a",
    ],
)  # fmt: skip
def test_any_other_address_is_refused(url: str) -> None:
    """Also one that looks like a listed one to a careless parser."""
    with pytest.raises(UrlNotAllowed):
        SOURCES.check(url)


def test_no_source_is_allowed_by_default() -> None:
    """The error names the setting."""
    with pytest.raises(UrlNotAllowed, match="OTOSCOPE_SOUND_SOURCES"):
        SoundSources(()).check("https://media.example.org/a.wav")


@pytest.mark.parametrize(
    "origin",
    [
        "media.example.org",
        "https://a/b",
        "*",
        "https://*",
        "https://*.org",
        "ftp://a.example",
        "https://u@a.b",
        "s3://",
    ],
)
def test_a_wrong_origin_is_refused(origin: str) -> None:
    """When the settings are read."""
    with pytest.raises(ValueError, match="is not an origin"):
        SoundSources((origin,))


def test_the_name_of_the_file_is_the_last_part_of_the_path() -> None:
    """Without the query, unescaped."""
    assert SOURCES.check("https://media.example.org/a/dog%20bark.wav?x=/y").name == "dog bark.wav"
