"""The header that makes a browser save a response instead of showing it."""

from urllib.parse import quote


def attachment(name: str) -> str:
    """The value of Content-Disposition (RFC 6266): in ASCII for old clients, and as UTF-8 (RFC 8187)."""
    plain = "".join(each if " " <= each <= "~" and each not in '"\\%' else "_" for each in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
