"""relay-allow: record the client's address for the user who has just logged in, then run the next program.

It runs after the password checker. If the store fails, the login still goes on.
"""

import os
import sys

from qmail_smtpd.log import escaped
from qmail_smtpd.relay.errors import StoreError, warn
from qmail_smtpd.relay.prepared import before_fork, store_for
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
    """Run the program."""
    if len(sys.argv) < 2:
        strerr.die(strerr.PERMANENT, PROGRAM, ": usage: ", PROGRAM, " program [ arg ... ]")
    try:
        record(os.environb)
    except StoreError as failure:
        warn(PROGRAM, failure.text)
    error = chain.become_rest()
    strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: unable to run ", sys.argv[1], ": ", strerr.reason(error))


def record(environ: "Mapping[bytes, bytes]") -> None:
    """Record the client, unless its user may not relay. Raise StoreError if that fails.

    With NORELAY the address is that of a proxy, whose client is unknown.
    """
    user = environ.get(b"USER")
    if not user:
        raise StoreError(b"USER is not set: is there a password checker before this program?")
    if b"NORELAY" in environ:
        return
    store = store_for(environ)
    if store.settings.may_relay(user):
        try:
            store.allow(environ.get(b"TCPREMOTEIP", b""), escaped(user), service(environ.get(b"TCPLOCALPORT", b"")))
        finally:
            store.close()  # the next program gets no descriptor
        for text in store.warnings:
            warn(PROGRAM, text)


def service(port: bytes) -> bytes:
    """Return the name of the service for the local port, the port's number if it has no name, or `unknown`."""
    return SERVICES.get(port) or (port if port.isdigit() and len(port) <= PORT_DIGITS else b"unknown")
