"""The stamps that loggers put before a line: multilog, svlogd, s6-log, syslog, journalctl. Pure.

A line without a known stamp stays as it is. Seconds are since 1970, in UTC.
"""

import calendar
import time

TAI_EPOCH = 2**62 + 10  # what multilog and svlogd write for 1970 (libtai's tai_unix)
LONGEST_STAMP = 64  # bytes
MONTHS = {name.encode(): number for number, name in enumerate(calendar.month_abbr) if name}
DAY = 86400
LATEST = 1e11  # seconds since 1970: the year 5138, which every C library can show
MOST_REMEMBERED = 10_000  # stamps whose seconds are kept


class Stamps:
    """Reads stamps. Remembers seconds that it has converted: many lines have the same."""

    def __init__(self, now: float) -> None:
        self.now = now  # a stamp without a year is at most a day later than this
        self.known: dict[bytes, int] = {}

    def split(self, line: bytes) -> tuple[float | None, bytes]:
        """Return the seconds of a line's stamp, None if it has none, and what follows the stamp."""
        first = line[:1]
        if first == b"@":
            return self.tai64n(line)
        try:
            if first.isdigit():
                return self.date(line) if line[4:5] == b"-" else self.unix(line)
            if line[:3] in MONTHS:
                return self.seconds(line[:15], self.syslog), line[16:]
            if line[3:4] == b" " and line[8:9] == b"-" and line[4:8].isdigit():  # journalctl -o short-full
                return self.full(line)
        except (ValueError, OverflowError):
            pass
        return None, line

    def tai64n(self, line: bytes) -> tuple[float | None, bytes]:
        """Split off `@` and 24 hexadecimal digits: multilog t, svlogd -t, s6-log t."""
        try:
            return int(line[1:17], 16) - TAI_EPOCH + int(line[17:25], 16) * 1e-9, line[26:]
        except ValueError:
            return None, line

    def unix(self, line: bytes) -> tuple[float | None, bytes]:
        """Split off seconds since 1970: journalctl -o short-unix."""
        end = line.find(b" ", 0, LONGEST_STAMP)
        if not line[: max(end, 0)].replace(b".", b"", 1).isdigit():
            return None, line
        return float(line[:end]), line[end + 1 :]

    def date(self, line: bytes) -> tuple[float | None, bytes]:
        """Split off a date and a time: svlogd -tt, -ttt, journalctl -o short-iso, s6-log T, tai64nlocal."""
        end = line.find(b" ", 11, LONGEST_STAMP)
        if end < 0:
            return None, line
        zone = line[19:end].lstrip(b".,0123456789")
        seconds = self.seconds(line[:19] + zone, self.iso)
        fraction = line[19 : end - len(zone)]
        return seconds + (float(fraction) if fraction[:1] == b"." else 0.0), line[end + 1 :].lstrip(b" ")

    def full(self, line: bytes) -> tuple[float | None, bytes]:
        """Split off `Tue 2026-11-24 08:11:03 UTC`: journalctl -o short-full."""
        zone, _, rest = line[24:].partition(b" ")
        return self.seconds(line[4:23] + (b"Z" if zone == b"UTC" else b""), self.iso), rest

    def seconds(self, text: bytes, convert: "Converter") -> int:
        """Return the seconds of a text. Raise ValueError if it is no time."""
        found = self.known.get(text)
        if found is None:
            if len(self.known) >= MOST_REMEMBERED:
                self.known.clear()
            found = self.known[text] = convert(text)
        return found

    def iso(self, text: bytes) -> int:
        """Convert `2026-11-24T08:11:03+0100`. `_` or `T` without a zone is UTC (svlogd), a blank is local time."""
        fields = (text[:4], text[5:7], text[8:10], text[11:13], text[14:16], text[17:19])
        if not all(field.isdigit() for field in fields):
            raise ValueError
        year, month, day, hour, minute, second = map(int, fields)
        if not (year >= 1970 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
            raise ValueError
        zone = text[19:].replace(b":", b"")
        if not zone and text[10:11] == b" ":
            return int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))
        return calendar.timegm((year, month, day, hour, minute, second)) - offset(zone)

    def syslog(self, text: bytes) -> int:
        """Convert `Nov 24 08:11:03`, which is local time and in the last twelve months."""
        fields = (text[4:6].strip(), text[7:9], text[10:12], text[13:15])
        if not all(field.isdigit() for field in fields):
            raise ValueError
        day, hour, minute, second = map(int, fields)
        year = time.localtime(self.now).tm_year
        for candidate in (year, year - 1):
            found = int(time.mktime((candidate, MONTHS[text[:3]], day, hour, minute, second, 0, 0, -1)))
            if found <= self.now + DAY:
                break
        return found


def offset(zone: bytes) -> int:
    """Return the seconds of `+0100`, `-05`, `Z` or nothing. Raise ValueError for anything else."""
    if zone in (b"", b"Z"):
        return 0
    if zone[:1] not in (b"+", b"-") or not zone[1:].isdigit() or len(zone) not in (3, 5):
        raise ValueError
    seconds = int(zone[1:3]) * 3600 + int(zone[3:5] or 0) * 60
    return -seconds if zone[:1] == b"-" else seconds


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Converter = Callable[[bytes], int]
