"""What the checker programs share: djb's checkpassword interface (cr.yp.to/checkpwd/interface.html).

That is descriptor 3, the exit codes, and the exec of PROG. Each program decides itself whether a password is right.
"""

import os
import sys

from qmail_smtpd.auth.errors import CannotVerify, UnsuitableScheme
from qmail_smtpd.auth.secret import apop, cram_md5, equal, is_challenge, is_digest, matches, plaintext
from tcprules import strerr
from tcpserver.chain import become

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn

DESCRIPTOR = 3
LIMIT = 512  # bytes of all fields together
WRONG, MISUSED = 1, 2  # the interface's exit codes; the third is strerr.TEMPORARY, 111
UNSUITABLE = 79  # after sysexits.h's. Callers treat it like 1; qmail-smtpd and qmail-popup log reason=scheme


class Credentials:
    """The fields: login, password and timestamp; or login, and CRAM-MD5's digest and challenge in either order."""

    __slots__ = ("login", "second", "third")

    def __init__(self, login: bytes, second: bytes, third: bytes) -> None:
        self.login = login
        self.second = second
        self.third = third


def run(program: str, usage: str, check: "Callable[[Credentials, dict[bytes, bytes]], bool]") -> "NoReturn":
    """Run as the checker `program`. `check` tells whether the credentials are right, or raises one of auth/errors.

    It may change the environment, which is PROG's.
    """
    sys.excepthook = crash
    words = [os.fsencode(word) for word in sys.argv[1:]]
    environ = dict(os.environb)
    environ.pop(b"", None)  # `=value` is legal to inherit, but cannot be passed on
    if not words:
        strerr.die(MISUSED, program, ": usage: ", usage)
    try:
        right = check(read_credentials(program), environ)
    except CannotVerify as error:
        strerr.die(strerr.TEMPORARY, program, ": fatal: ", error.why)
    except UnsuitableScheme:
        os._exit(UNSUITABLE)
    if not right:
        os._exit(WRONG)
    failure = become(words, environ)
    strerr.die(strerr.TEMPORARY, program, ": fatal: unable to run ", words[0], ": ", strerr.reason(failure))


def crash(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
    """Exit with 111 after a bug: Python's own exit status 1 would mean a wrong password."""
    try:
        strerr.report_bug(kind, error, trace)
    finally:  # also without memory for the report
        os._exit(strerr.TEMPORARY)


def read_credentials(program: str) -> Credentials:
    """Read the fields from descriptor 3. Exits if there is too much or too little, like checkpassword.c."""
    data = read_all()
    if len(data) > LIMIT:
        os._exit(WRONG)
    login, first_nul, rest = data.partition(b"\0")
    second, second_nul, rest = rest.partition(b"\0")
    if not first_nul or not second_nul:
        strerr.die(MISUSED, program, ": fatal: no login and password on descriptor 3")
    return Credentials(login, second, rest.partition(b"\0")[0])


def read_all() -> bytes:
    """Read descriptor 3 to its end, or to one byte over the limit, and close it: PROG must not inherit it."""
    data = b""
    try:
        while len(data) <= LIMIT and (part := os.read(DESCRIPTOR, LIMIT + 1 - len(data))):
            data += part
        os.close(DESCRIPTOR)
    except OSError as error:
        raise CannotVerify(b"unable to read descriptor 3: " + strerr.reason(error).encode()) from error
    return data


def accepts(stored: bytes, given: Credentials) -> bool:
    """Whether the second field is the password, or the second and third are a digest and its challenge.

    Without CRAM-MD5 a caller passes a timestamp in the third field, or nothing: it does not matter if the second is
    the password. Raises CannotVerify.
    """
    if matches(stored, given.second):
        return True
    password = plaintext(stored)
    pair = digest_and_challenge(given)
    if password is None or pair is None:
        return False
    digest, challenge = pair
    right = [equal(answer(password, challenge), digest.lower()) for answer in (cram_md5, apop)]
    return True in right


def digest_and_challenge(given: Credentials) -> tuple[bytes, bytes] | None:
    """Return digest and challenge, found by their form, or None. Up to qmail-smtpd-auth 0.31 the digest is last."""
    for digest, challenge in ((given.second, given.third), (given.third, given.second)):
        if is_digest(digest) and is_challenge(challenge):
            return digest, challenge
    return None
