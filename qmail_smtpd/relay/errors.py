"""How the relay programs report errors: one line on descriptor 2, which never delays a login or a session for long."""

from tcprules.strerr import goes_to_client, reason, say


class StoreError(Exception):
    """A store has failed. `text` is the line for the log, without the program's name."""

    def __init__(self, *parts: bytes) -> None:
        self.text = b"".join(parts)
        super().__init__(self.text)


def unable(what: bytes, error: OSError) -> StoreError:
    """Return the exception to raise, in djb's words: `unable to read /var/lib/relay: access denied`."""
    return StoreError(b"unable to ", what, b": ", reason(error).encode())


def warn(program: str, text: bytes) -> None:
    """Write one line to descriptor 2, unless its reader stalls, or it is the client's connection, as under inetd."""
    if not goes_to_client():
        say(program, ": warning: ", text)
