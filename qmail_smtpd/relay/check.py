"""relay-check: let a client relay that has just fetched its mail, and become the next program.

Stands before rblsmtpd and qmail-smtpd. Whatever goes wrong with the store, nobody relays by it.
"""

import os
import sys

from qmail_smtpd.relay.prepared import before_fork, store_for
from qmail_smtpd.relay.trouble import Trouble, warn
from tcprules import strerr
from tcpserver import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import NoReturn

__all__ = ["before_fork", "main"]

PROGRAM = "relay-check"


def main() -> "NoReturn":
    """The program."""
    if len(sys.argv) < 2:
        strerr.die(strerr.PERMANENT, PROGRAM, ": usage: ", PROGRAM, " program [ arg ... ]")
    try:
        let_relay(os.environb)
    except Trouble as trouble:
        warn(PROGRAM, b"no relaying: " + trouble.text)
    error = chain.become_rest()
    strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: unable to run ", sys.argv[1], ": ", strerr.reason(error))


def let_relay(environ: "MutableMapping[bytes, bytes]") -> None:
    """Set RELAYCLIENT if the client has a live entry and none of the rules has set it. Raises Trouble."""
    if b"RELAYCLIENT" in environ:
        return
    entry = store_for(environ).check(environ.get(b"TCPREMOTEIP", b""))
    if not entry:
        return
    environ[b"RELAYCLIENT"] = b""
    if b"RBLSMTPD" not in environ:
        environ[b"RBLSMTPD"] = b""  # block lists have the ranges that roaming users come from
    environ[b"RELAY_USER"] = entry.user
