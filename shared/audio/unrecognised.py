"""What an upload of no accepted format looks like, for the error message."""

from otoscope.errors import AudioUnsupported, NotAudio

_OTHER_SOUND = {
    b"caff": "CAF", b".snd": "AU", b"RIFX": "big-endian WAV (RIFX)", b"riff\x2e\x91\xcf\x11": "Wave64", b"ADIF": "AAC",
    b"\xff\xf1": "bare AAC (ADTS)", b"\xff\xf9": "bare AAC (ADTS)", b"#!AMR": "AMR",
    b"\x1aE\xdf\xa3": "Matroska or WebM", b"0&\xb2u\x8ef\xcf\x11": "Windows Media", b"MAC ": "Monkey's Audio",
    b"wvpk": "WavPack", b"MThd": "MIDI", b"FLV": "Flash video", b"\xff\xfd": "MPEG layer II",
    b"\xff\xfc": "MPEG layer II",
}  # fmt: skip
_NO_SOUND = {
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "gzip data", b"RIFF": "a RIFF file that is not WAVE",
    b"FORM": "an IFF file that is not AIFF", b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text", b"{": "JSON",
    b"[": "JSON", b"<": "HTML or XML",
}  # fmt: skip


def unrecognised(data: bytes, accepted: str) -> NotAudio | AudioUnsupported:
    """The error for a file that no accepted format's recogniser matches; `accepted` lists these formats."""
    for signature, name in _OTHER_SOUND.items():
        if data.startswith(signature):
            return AudioUnsupported(f"The upload starts like {name}, which is not accepted. Accepted: {accepted}.")
    return NotAudio(f"The upload starts like {_looks_like(data)}, not like a sound file.")


def _looks_like(data: bytes) -> str:
    head = data[:64]
    for signature, name in _NO_SOUND.items():
        if head.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(signature):
            return name
    text = head.decode("utf-8", errors="ignore")
    whole = len(text.encode()) > len(head) - 4  # the last character may be cut in half
    if whole and all(char.isprintable() or char in "\r\n\t\f\ufeff" for char in text):
        return "text"
    return f"unknown binary data ({head[:8].hex(' ')})"
