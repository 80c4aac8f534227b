"""How the relay programs say what is wrong: one line on descriptor 2, which never holds up a login or a session."""

import os
from select import POLLOUT, poll

from tcprules.strerr import reason, say

PATIENCE = 1000  # milliseconds that the reader of the log may stall


class Trouble(Exception):
    """Why a store cannot do what it is asked; `text` is the line without the program's name."""

    def __init__(self, *parts: bytes) -> None:
        self.text = b"".join(parts)
        super().__init__(self.text)


def unable(what: bytes, error: OSError) -> Trouble:
    """What to raise, in djb's words: `unable to read /var/lib/relay: access denied`."""
    return Trouble(b"unable to ", what, b": ", reason(error).encode())


def warn(program: str, text: bytes) -> None:
    """Write the line, unless nobody takes it or descriptor 2 is the client, as under inetd. A terminal is none."""
    try:
        log = os.fstat(2)
        if not os.isatty(2) and any(os.path.samestat(log, os.fstat(descriptor)) for descriptor in (0, 1)):
            return
    except OSError:
        return
    poller = poll()
    poller.register(2, POLLOUT)
    if poller.poll(PATIENCE):
        say(program, ": warning: ", text)
