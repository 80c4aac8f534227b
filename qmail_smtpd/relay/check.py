"""relay-check: let a client relay if it has a live entry in the store, then run the next program.

It runs before rblsmtpd and qmail-smtpd. If the store fails, the client may not relay.
"""

import os
import sys

from qmail_smtpd.relay.errors import StoreError, warn
from qmail_smtpd.relay.prepared import before_fork, store_for
from tcprules import strerr
from tcpserver import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import NoReturn

__all__ = ["before_fork", "main", "serve_connection"]

PROGRAM = "relay-check"


def main() -> "NoReturn":
    """Run the program."""
    if len(sys.argv) < 2:
        strerr.die(strerr.PERMANENT, PROGRAM, ": usage: ", PROGRAM, " program [ arg ... ]")
    check(os.environb)
    fail(chain.become_rest())


def serve_connection(environ: dict[bytes, bytes]) -> int:
    """Do the same as main in a process that serves one client after the other (tcpserver --reuse)."""
    program = sys.argv[1:]
    if not program:
        main()
    check(environ)
    try:
        return chain.serve_rest(environ)
    except OSError as error:
        sys.argv[1:] = program
        fail(error)


def check(environ: "MutableMapping[bytes, bytes]") -> None:
    """Set RELAYCLIENT if the store says so."""
    try:
        allow_relaying(environ)
    except StoreError as failure:
        warn(PROGRAM, b"no relaying: " + failure.text)


def fail(error: OSError) -> "NoReturn":
    """Report that the next program cannot be run, and exit."""
    strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: unable to run ", sys.argv[1], ": ", strerr.reason(error))


def allow_relaying(environ: "MutableMapping[bytes, bytes]") -> None:
    """Set RELAYCLIENT if the client has a live entry, unless it is already set. Raise StoreError if the store fails.

    With NORELAY the address is that of a proxy, whose client is unknown.
    """
    if b"RELAYCLIENT" in environ or b"NORELAY" in environ:
        return
    store = store_for(environ)
    entry = store.check(environ.get(b"TCPREMOTEIP", b""))
    while store.warnings:
        warn(PROGRAM, store.warnings.pop())
    if not entry:
        return
    environ[b"RELAYCLIENT"] = b""
    if b"RBLSMTPD" not in environ:
        environ[b"RBLSMTPD"] = b""  # block lists contain the address ranges of roaming users
    environ[b"RELAY_USER"] = entry.user
