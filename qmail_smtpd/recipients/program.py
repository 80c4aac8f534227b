"""What the programs for $RCPTCHECK share: SENDER and RECIPIENT in the environment, the answer in the exit code.

A program is also called in the process of a session that has it loaded: check_recipient(environ, deadline).
"""

import os

from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

YES, NO, LATER = 0, 100, 111
POSTMASTER = b"postmaster"  # RFC 5321 section 4.5.1: mail to it is accepted without a domain


class Undecided(Exception):
    """Why it cannot be decided now whether a recipient exists. Never contains bytes of the client."""


def run(program: str, decide: "Callable[[bytes, Mapping[bytes, bytes], float | None], bool]") -> "NoReturn":
    """Run as a program."""
    os._exit(answer(program, decide, os.environb, None))


def answer(
    program: str,
    decide: "Callable[[bytes, Mapping[bytes, bytes], float | None], bool]",
    environ: "Mapping[bytes, bytes]",
    deadline: float | None,
) -> int:
    """Return the exit code. If there is no decision, write the reason to descriptor 2."""
    recipient = environ.get(b"RECIPIENT")
    try:
        if recipient is None:
            raise Undecided("$RECIPIENT is not set")
        if recipient.lower() == POSTMASTER:
            return YES
        return YES if decide(recipient, environ, deadline) else NO
    except Undecided as why:
        strerr.say(program, ": fatal: ", str(why))
        return LATER
