"""What makes a program a checker: djb's checkpassword interface (cr.yp.to/checkpwd/interface.html), from the inside.

Descriptor 3, the exit codes, the program that it becomes. Whose password is right is the checkers' own question.
"""

import os
import sys

from qmail_smtpd.auth.secret import apop, cram_md5, equal, is_challenge, is_digest, matches, plaintext
from qmail_smtpd.auth.trouble import Trouble
from tcprules import strerr
from tcpserver.chain import become

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn

DESCRIPTOR = 3
LIMIT = 512  # bytes on it, all told
WRONG, MISUSED = 1, 2  # with strerr.TEMPORARY, 111, all that the interface knows


class Credentials:
    """The fields: login, password and timestamp, or of CRAM-MD5 digest and challenge, in whatever order."""

    __slots__ = ("login", "second", "third")

    def __init__(self, login: bytes, second: bytes, third: bytes) -> None:
        self.login = login
        self.second = second
        self.third = third


def run(program: str, usage: str, judge: "Callable[[Credentials, dict[bytes, bytes]], bool]") -> "NoReturn":
    """Be the checker `program`. `judge` says yes or no, may raise Trouble, and may change the environment of PROG."""
    sys.excepthook = crash
    words = [os.fsencode(word) for word in sys.argv[1:]]
    environ = dict(os.environb)
    environ.pop(b"", None)  # `=value` is legal to inherit, and nothing that could be handed on
    if not words:
        strerr.die(MISUSED, program, ": usage: ", usage)
    try:
        right = judge(credentials(program), environ)
    except Trouble as trouble:
        strerr.die(strerr.TEMPORARY, program, ": fatal: ", trouble.why)
    if not right:
        os._exit(WRONG)
    failure = become(words, environ)
    strerr.die(strerr.TEMPORARY, program, ": fatal: unable to run ", words[0], ": ", strerr.reason(failure))


def crash(kind: type[BaseException], error: BaseException, trace: "TracebackType | None") -> None:
    """A fault of ours is not a wrong password, which Python's own exit status 1 would say."""
    sys.__excepthook__(kind, error, trace)
    os._exit(strerr.TEMPORARY)


def credentials(program: str) -> Credentials:
    """What the caller says on descriptor 3. Ends the process where it is too much or too little, as checkpassword.c."""
    data = read_all()
    if len(data) > LIMIT:
        os._exit(WRONG)
    login, first_nul, rest = data.partition(b"\0")
    second, second_nul, rest = rest.partition(b"\0")
    if not first_nul or not second_nul:
        strerr.die(MISUSED, program, ": fatal: no login and password on descriptor 3")
    return Credentials(login, second, rest.partition(b"\0")[0])


def read_all() -> bytes:
    """Up to its end, or to the first byte too many. Closes it: PROG shall not have it. Raises Trouble."""
    data = b""
    try:
        while len(data) <= LIMIT and (part := os.read(DESCRIPTOR, LIMIT + 1 - len(data))):
            data += part
        os.close(DESCRIPTOR)
    except OSError as error:
        raise Trouble(b"unable to read descriptor 3: " + strerr.reason(error).encode()) from error
    return data


def accepts(stored: bytes, given: Credentials) -> bool:
    """Is the second field the password, or do second and third answer one another? Raises Trouble.

    A caller without CRAM-MD5 has a timestamp in the third, or nothing: it is not looked at where the second is right.
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
    """Told apart by their shapes: up to qmail-smtpd-auth 0.31 the challenge comes first, since then the digest."""
    for digest, challenge in ((given.second, given.third), (given.third, given.second)):
        if is_digest(digest) and is_challenge(challenge):
            return digest, challenge
    return None
