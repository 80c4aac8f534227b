"""rcptcheck-maildir: a recipient exists if its Maildir does, at a place that $RCPTCHECK_MAILDIR describes.

In it, `%u` is the address, `%n` the local part, `%d` the domain, all in lower case, and `%h` the home that the users
file has for the address. Opens no Maildir, and reads no password.
"""

import errno
import os
from stat import S_ISDIR

from qmail_smtpd import control
from qmail_smtpd.recipients.program import Undecided, answer, run
from tcprules.strerr import reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import NoReturn

PROGRAM = "rcptcheck-maildir"
PATTERN = b"%h"
USERS = b"/control/users"  # in the qmail home
HOME = 5  # field of a line of Dovecot's passwd-file
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
LETTERS = b"undh%"


def main() -> "NoReturn":
    """Run the program."""
    run(PROGRAM, exists)


def check_recipient(environ: "Mapping[bytes, bytes]", deadline: float | None) -> int:
    """Return the exit code of the program, called in the process of a session."""
    return answer(PROGRAM, exists, environ, deadline)


def exists(recipient: bytes, environ: "Mapping[bytes, bytes]", deadline: float | None) -> bool:
    """Whether the recipient, or the recipient without its extension, has a Maildir. Raises Undecided."""
    pattern = environ.get(b"RCPTCHECK_MAILDIR", PATTERN)
    check_pattern(pattern)
    local, _, domain = recipient.lower().rpartition(b"@")
    if not is_safe(local) or not is_safe(domain):
        return False
    homes: dict[bytes, bytes] | None = None
    users = list(names(local, environ.get(b"RCPTCHECK_DELIMITER", b"")))
    for spelling, name in [(spelling, name) for spelling in spellings(domain, environ) for name in users]:
        address = name + b"@" + spelling
        values = {b"u": address, b"n": name, b"d": spelling, b"%": b"%"}
        if b"%h" in pattern.replace(b"%%", b""):
            homes = read_homes(users_file(environ)) if homes is None else homes
            if not homes.get(address):
                continue
            values[b"h"] = homes[address]
        if is_directory(fill(pattern, values)):
            return True
    return False


def check_pattern(pattern: bytes) -> None:
    """Raise Undecided if the pattern has an unknown letter, or is the same place for all recipients."""
    letters = [part[:1] for part in pattern.replace(b"%%", b"").split(b"%")[1:]]
    if not all(letter and letter in LETTERS for letter in letters):
        raise Undecided("$RCPTCHECK_MAILDIR has a % that is not followed by u, n, d, h or %")
    if not any(letter in (b"u", b"n", b"h") for letter in letters):
        raise Undecided("$RCPTCHECK_MAILDIR has neither %u, %n nor %h")


def fill(pattern: bytes, values: dict[bytes, bytes]) -> bytes:
    """Return the pattern with its letters replaced. What replaces one is not searched for others."""
    first, *parts = pattern.replace(b"%%", b"%\0").split(b"%")
    values = {**values, b"\0": b"%"}
    return first + b"".join(values[part[:1]] + part[1:] for part in parts)


def is_safe(part: bytes) -> bool:
    """Whether a part of an address cannot lead to another directory."""
    return part != b"" and not part.startswith(b".") and b"/" not in part and b"\0" not in part


def names(local: bytes, delimiter: bytes) -> "Iterator[bytes]":
    """Yield the local part, then what precedes the first byte of $RCPTCHECK_DELIMITER in it, if that is not empty."""
    yield local
    name = local.partition(delimiter[:1])[0] if delimiter else local
    if name and name != local:
        yield name


def spellings(domain: bytes, environ: "Mapping[bytes, bytes]") -> list[bytes]:
    """Return the domain, and its other spellings where SMTPUTF8 is offered: rcpthosts accepts them, too."""
    is_plain = domain.isascii() and b"xn--" not in domain
    if is_plain or not control.exists(b"smtputf8", control.home(environ)):
        return [domain]
    from qmail_smtpd.smtp.idn import other_spellings  # loaded only for such domains

    return [domain, *other_spellings(domain)]


def users_file(environ: "Mapping[bytes, bytes]") -> bytes:
    """Return the path of the users file."""
    return environ.get(b"RCPTCHECK_USERS") or control.home(environ) + USERS


def read_homes(path: bytes) -> dict[bytes, bytes]:
    """Return the homes in a users file, by user in lower case. Raises Undecided."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            content = control.read_all(descriptor, os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Undecided(f"unable to read {os.fsdecode(path)}: {reason(error)}") from error
    homes: dict[bytes, bytes] = {}
    for line in content.split(b"\n"):
        fields = line.removesuffix(b"\r").split(b":")
        if len(fields) > HOME and not line.startswith((b"#", b":")):
            homes.setdefault(fields[0].lower(), fields[HOME])
    return homes


def is_directory(path: bytes, status: "Callable[[bytes], os.stat_result]" = os.stat) -> bool:
    """Whether the directory exists. Raises Undecided if that cannot be found out."""
    try:
        return S_ISDIR(status(path).st_mode)
    except OSError as error:
        if error.errno in ABSENT:
            return False
        raise Undecided(f"unable to look for a Maildir: {reason(error)}") from error
