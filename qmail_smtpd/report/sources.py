"""The files of a log: plain or gzip, a directory of multilog or svlogd in its order, standard input. Streams them."""

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from qmail_smtpd.report.lines import Reader
from tcprules import strerr

CHUNK = 1 << 20
GZIP = b"\x1f\x8b"
STDIN = "-"
CURRENT = "current"
ARCHIVED = (".s", ".u")  # multilog and svlogd: `@TAI64N.s`, and `.u` of a file that was not finished


class Unreadable(Exception):
    """A log cannot be read. The argument is the line for the administrator."""


class Source(NamedTuple):
    """A file to read, and when it was last changed: None for what is no regular file."""

    path: str
    changed: float | None


def sources(paths: tuple[str, ...]) -> list[Source]:
    """Return the files of these arguments, the oldest first; pipes and standard input last. Raise Unreadable."""
    found = [source for path in paths for source in expand(path)]
    return sorted(found, key=lambda one: float("inf") if one.changed is None else one.changed)


def expand(path: str) -> Iterator[Source]:
    """Yield a file, or the files of a directory."""
    if path == STDIN:
        yield Source(path, None)
        return
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            yield Source(path, status.st_mtime if stat.S_ISREG(status.st_mode) else None)
            return
        names = [os.path.join(path, name) for name in archived(path)]
        if os.path.exists(os.path.join(path, CURRENT)):
            names.append(os.path.join(path, CURRENT))
    except OSError as error:
        raise unable("read", path, error) from error
    if not names:
        raise Unreadable(f"{path} has no log: neither {CURRENT} nor @*.s")
    changed = 0.0
    for name in names:
        changed = max(changed, mtime(name))  # a copy may have lost the times: the names have the order
        yield Source(name, changed)


def mtime(path: str) -> float:
    """Return when a file was last changed, 0 if it has gone meanwhile."""
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def archived(directory: str) -> list[str]:
    """Return the names of a directory's finished files, the oldest first."""
    return sorted(name for name in os.listdir(directory) if name[:1] == "@" and name.endswith(ARCHIVED))


def read_all(found: list[Source], reader: Reader) -> None:
    """Read the files, except those that were last changed before the reader's time. Raise Unreadable."""
    for source in found:
        if reader.since is None or source.changed is None or source.changed >= reader.since:
            read(source.path, reader)


def read(path: str, reader: Reader) -> None:
    """Read one file to its end."""
    try:
        with opened(path) as file:
            while data := file.read(CHUNK):
                reader.feed(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        strerr.say("relayreport: warning: ", path, f" is broken gzip, and is read up to there: {error}")
    except FileNotFoundError:
        if os.path.basename(path)[:1] != "@":  # multilog may remove old files at any time
            raise Unreadable(f"unable to read {path}: file does not exist") from None
    except OSError as error:
        raise unable("read", path, error) from error
    reader.finish()


def opened(path: str) -> IO[bytes]:
    """Return the file, uncompressed."""
    if path == STDIN:
        return os.fdopen(os.dup(0), "rb")
    file = open(path, "rb")
    if file.peek(len(GZIP))[: len(GZIP)] == GZIP:
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    return file


def unable(what: str, path: str, error: OSError) -> Unreadable:
    """Return the exception to raise, in djb's words."""
    return Unreadable(f"unable to {what} {path}: {strerr.reason(error)}")
