r"""Text from a server, made printable: ASCII without control characters, whatever was sent. Pure.

So no control character reaches a terminal, a page or a parser. Every byte stays recognisable: `\x1b` stands for ESC.
"""

import os

LONGEST = 300  # characters of one line that are kept
ESCAPES = {byte: f"\\x{byte:02x}" for byte in range(256) if not 0x20 <= byte <= 0x7E} | {ord("\\"): "\\\\"}


def printable(text: bytes, longest: int = LONGEST) -> str:
    """Return one line as printable text, cut after `longest` characters."""
    kept = "".join(ESCAPES.get(byte) or chr(byte) for byte in text[: longest + 1])
    return kept if len(kept) <= longest and len(text) <= longest else kept[:longest] + "..."


def octets(text: str) -> bytes:
    """Return the bytes of a word of the command line."""
    return os.fsencode(text)
