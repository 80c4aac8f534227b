"""Numbers, times and names for people. Pure. A name is printable ASCII, whatever a client has sent."""

import time

LONGEST = 300  # characters of a name
ESCAPES = {byte: f"\\x{byte:02x}" for byte in range(256) if not 0x20 <= byte <= 0x7E}
UNITS = ("B", "kB", "MB", "GB", "TB")


def shown(name: bytes) -> str:
    """Return a name of a log as text. What is escaped there stays so; every other unprintable byte is escaped, too."""
    text = "".join(ESCAPES.get(byte) or chr(byte) for byte in name[: LONGEST + 1])
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def plural(count: int, word: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def clock(seconds: float) -> str:
    """Return a time in local time, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(min(seconds, 1e11)))


def size(count: int) -> str:
    """Return a number of bytes with a unit."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 or value >= 100 else f"{value:.1f} {UNITS[unit]}"
