"""Writes the tables of docs/formats.md: what is accepted, and what became of each file that the tests make.

    .venv/bin/python docs/formats.py [--check]

The text around the tables is kept. `--check` writes nothing and ends with status 1 if the tables are not current.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from otoscope.errors import AudioError
from shared.audio.decode import decode
from shared.audio.formats import FORMATS, read_header
from shared.audio.headers import Decoder
from tests.support.odd_files import BEHIND, IN_FRONT, ODD, whole
from tests.support.sounds import AV_FORMS, FORMS, chirp, encode, encode_av

PAGE = Path(__file__).with_suffix(".md")
NAMES = {Decoder.PCM: "numpy", Decoder.SNDFILE: "libsndfile", Decoder.PYAV: "FFmpeg"}
RATE = 16_000


def accepted() -> Iterator[tuple[str, ...]]:
    yield "format", "extensions", "codecs"
    for each in FORMATS:
        yield str(each), " ".join(f"`{extension}`" for extension in each.extensions), ", ".join(each.codecs)


def answers() -> Iterator[tuple[str, ...]]:
    yield "file", "container", "codec", "decoder", "answer"
    for name, form in FORMS.items():
        wave = chirp(2.0, form.rates[-1])
        yield row(name, encode(wave, form.rates[-1], form.container, form.subtype, endian=form.endian))
    for name, av_form in AV_FORMS.items():
        yield row(name, encode_av(chirp(2.0, av_form.rate), av_form))
    surrounded = {f"{kind}, {tag}" for kind in whole() for tag in (*IN_FRONT, *BEHIND)}
    for name, odd in ODD.items():
        if name not in surrounded:
            yield row(name, odd.make())
    for tag in (*IN_FRONT, *BEHIND):  # of one of the formats, since all give the same answer
        yield row(f"MP3, {tag}", ODD[f"MP3, {tag}"].make())


def row(name: str, file: bytes) -> tuple[str, ...]:
    try:
        header = read_header(file)
        container, codec, decoder = header.container, header.codec, NAMES[header.decoder]
    except AudioError:
        container = codec = decoder = "—"
    try:
        sound = decode(file, RATE)
    except AudioError as error:
        return name, container, codec, decoder, f"error `{error.code}`"
    codes = [warning.code for warning in sound.warnings if warning.code == "truncated"]
    return name, container, codec, decoder, ", ".join([f"{sound.seconds:.2f} s", *(f"`{code}`" for code in codes)])


def table(rows: Iterator[tuple[str, ...]]) -> str:
    head, *body = rows
    lines = [head, tuple("---" for _ in head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    text = PAGE.read_text()
    for name, rows in (("accepted", accepted()), ("answers", answers())):
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        current = table(rows)
        text = re.sub(
            pattern, lambda found, current=current: f"{found[1]}\n{current}\n\n{found[2]}", text, flags=re.DOTALL
        )
    if "--check" in sys.argv:
        raise SystemExit(text != PAGE.read_text())
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
