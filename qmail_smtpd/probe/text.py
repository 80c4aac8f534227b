"""What a server says, for people: printable ASCII and nothing else, whatever it sent. Pure.

No control character reaches a terminal, a page or a parser from here, and no byte is lost: `\\x1b` stands for an ESC.
"""

import os

LONGEST = 300  # characters of one line that are shown
ESCAPES = {byte: f"\\x{byte:02x}" for byte in range(256) if not 0x20 <= byte <= 0x7E} | {ord("\\"): "\\\\"}


def shown(text: bytes, longest: int = LONGEST) -> str:
    """One line of it."""
    kept = "".join(ESCAPES.get(byte) or chr(byte) for byte in text[: longest + 1])
    return kept if len(kept) <= longest and len(text) <= longest else kept[:longest] + "..."


def octets(text: str) -> bytes:
    """The bytes of a word of the command line."""
    return os.fsencode(text)
