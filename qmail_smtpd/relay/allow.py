"""relay-allow: record the client's address for the user who has just logged in, and become the next program.

Stands behind the checker of passwords. Whatever goes wrong with the store, the login goes on.
"""

import os
import sys

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.prepared import before_fork, store_for
from qmail_smtpd.relay.trouble import Trouble, warn
from tcprules import strerr
from tcpserver import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

__all__ = ["before_fork", "main"]

PROGRAM = "relay-allow"
SERVICES = {b"110": b"pop3", b"143": b"imap", b"993": b"imaps", b"995": b"pop3s"}  # IANA's names
PORT_DIGITS = 5


def main() -> "NoReturn":
    """The program."""
    if len(sys.argv) < 2:
        strerr.die(strerr.PERMANENT, PROGRAM, ": usage: ", PROGRAM, " program [ arg ... ]")
    try:
        record(os.environb)
    except Trouble as trouble:
        warn(PROGRAM, trouble.text)
    error = chain.become_rest()
    strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: unable to run ", sys.argv[1], ": ", strerr.reason(error))


def record(environ: "Mapping[bytes, bytes]") -> None:
    """Record who is there, unless the user may not relay. Raises Trouble."""
    user = environ.get(b"USER")
    if not user:
        raise Trouble(b"USER is not set: is there a checker of passwords before this program?")
    store = store_for(environ)
    if store.settings.may_relay(user):
        store.allow(environ.get(b"TCPREMOTEIP", b""), escaped(user), service(environ.get(b"TCPLOCALPORT", b"")))


def service(port: bytes) -> bytes:
    """What the client logged in to: a name, or a port without one."""
    return SERVICES.get(port) or (port if port.isdigit() and len(port) <= PORT_DIGITS else b"unknown")
