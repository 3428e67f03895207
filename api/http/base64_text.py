"""Base64 as clients send it: both alphabets, with or without padding, as a data URL, with line breaks."""

import binascii

from otoscope.errors import AudioEmpty, InvalidBase64, PayloadTooLarge

_WHITESPACE = b"\r\n \t"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_PERCENT = ((b"%2B", b"+"), (b"%2F", b"/"), (b"%3D", b"="), (b"%0A", b""), (b"%0D", b""))
_MAX_PREFIX = 1_024  # characters of a data URL in front of its data


def too_large(limit: int) -> PayloadTooLarge:
    """The error for a sound of more than `limit` bytes."""
    return PayloadTooLarge(f"The sound is larger than the accepted {limit:,} bytes.")


def decode_base64(encoded: str, limit: int) -> bytes:
    """Base64 (RFC 4648), standard or URL-safe, padded or not; a data URL (RFC 2397) and whitespace are accepted.

    Raises AudioEmpty, InvalidBase64 or PayloadTooLarge.
    """
    if encoded[:5].lower() == "data:":
        encoded = _data_of_url(encoded)
    try:
        text = encoded.encode("ascii")
        if b"%" in text:  # percent-encoded, as in a URL or a form
            for escaped, character in _PERCENT:
                text = text.replace(escaped, character).replace(escaped.lower(), character)
        if _lost_plus(text):
            raise InvalidBase64(
                "The base64 has spaces where it had the character '+', as after decoding as a form; send '+' as %2B,"
                " or use JSON or multipart/form-data."
            )
        if any(blank in text for blank in _WHITESPACE):
            text = text.translate(None, _WHITESPACE)
        if len(text) // 4 * 3 > limit + 2:
            raise too_large(limit)
        if not text:
            raise AudioEmpty("The base64 of the sound is empty.")
        if b"-" in text or b"_" in text:
            text = text.translate(_URL_SAFE)
        if len(text) % 4 and not text.endswith(b"="):
            text += b"=" * (-len(text) % 4)
        body = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidBase64(f"The sound is not base64: {error}.") from error
    if len(body) > limit:
        raise too_large(limit)
    return body


def _data_of_url(url: str) -> str:
    """The base64 of a data URL, whose parameters may contain commas, as in `codecs="opus, mp4a"`.

    Raises InvalidBase64.
    """
    head = url[:_MAX_PREFIX].lower()
    at = head.find(";base64,")
    if at < 0:
        raise InvalidBase64("The data URL has no ';base64,' in front of its data, which must be base64.")
    return url[at + len(";base64,") :]


def _lost_plus(text: bytes) -> bool:
    """Whether spaces are in the places of `+`, and not between lines of one length."""
    if b" " not in text or any(other in text for other in b"+-\r\n\t"):
        return False
    lines = text.split(b" ", 4)
    few = len(lines) < 5
    full = lines[:-1] if few else lines[:4]
    if len({len(line) for line in full}) > 1:
        return True
    return few and (len(full[0]) % 4 != 0 or len(text) % 4 == 0)  # with the spaces as characters, it is complete
