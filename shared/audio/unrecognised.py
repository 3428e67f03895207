"""What a file of no accepted format looks like, for the error message."""

from otoscope.errors import AudioUnsupported, NotAudio

_OTHER_SOUND = {
    b"ADIF": "AAC without frames (ADIF)", b"MAC ": "Monkey's Audio", b"MThd": "MIDI",
    b"OggS": "the middle of an Ogg stream",
    b"TTA1": "True Audio", b"MPCK": "Musepack", b"MP+": "Musepack", b"DSD ": "DSD", b"FRM8": "DSD",
    b".RMF": "RealMedia",
    b"Creative Voice File": "Creative Voice", b"2BIT": "AVR",
    b"\x7f\xfe\x80\x01": "DTS", b"OMA\0": "ATRAC", b"ea3\x03": "ATRAC", b"\xb7\xd8\x00\x20": "Windows TV",
    b".SoX": "SoX native", b"XoS.": "SoX native",
    b"\x64\xa3": "IRCAM", b"\x00\x01\xa3\x64": "IRCAM", b"nut/multimedia": "NUT", b"\x02dss": "DSS dictation",
    b"\x03ds2": "DSS dictation", b"\x06\x0e\x2b\x34": "MXF video", b"WAC ": "Wildlife Acoustics WAC", b"tBaK": "TAK",
    b"ajkg": "Shorten", b"qoaf": "QOA", b"#!iLBC": "iLBC", b"#!SILK": "SILK", b"\x02#!SILK": "SILK", b"LA04": "LA",
    b"OFR ": "OptimFROG", b"Extended Instrument": "a sampler instrument", b" paf": "PAF", b"fap ": "PAF",
    b"PVF": "PVF", b"KVAG": "KVAG", b"FWS": "Flash", b"CWS": "Flash", b"RealMedia": "RealMedia", b"GXF": "GXF video",
}  # fmt: skip
_NO_SOUND = {
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "gzip data", b"RIFF": "a RIFF file that is not WAVE",
    b"RIFX": "a RIFF file that is not WAVE",
    b"FORM": "an IFF file that is not AIFF", b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text", b"{": "JSON",
    b"[": "JSON", b"<": "HTML or XML",
}  # fmt: skip


def unrecognised(data: bytes, start: int, accepted: str) -> NotAudio | AudioUnsupported:
    """The error for a file that is of no accepted format; `start` is behind its tags, `accepted` lists the formats."""
    for signature, name in _OTHER_SOUND.items():
        if data.startswith(signature, start):
            return AudioUnsupported(f"The file starts like {name}, which is not accepted.", accepted=accepted)
    if start and not data[:start].isspace():
        return NotAudio(f"Behind its tag the file has {_looks_like(data[start:])}, and no sound.")
    return NotAudio(f"The file starts like {_looks_like(data)}, not like a sound file.")


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
