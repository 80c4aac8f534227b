"""Fetch mail from a POP3 server of this host, from a chosen address: fetch.py PORT CLIENT USER PASSWORD.

Prints how many messages there are, and leaves them there. Exit code 0 says that the login was right, 1 that it was not.
"""

import poplib
import socket
import sys

SERVER = "127.0.0.1"
TIMEOUT = 20  # seconds for one answer


class Client(poplib.POP3):
    """A POP3 client with an address of its own."""

    def __init__(self, port: int, source: str) -> None:
        self.source = source
        super().__init__(SERVER, port, TIMEOUT)

    def _create_socket(self, timeout: float) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout, (self.source, 0))


def fetch(port: int, client: str, user: str, password: str) -> str:
    """What the server says: to a right login how many messages there are, to a wrong one that it is."""
    pop = Client(port, client)
    try:
        pop.user(user)
        pop.pass_(password)
        return f"+OK {pop.stat()[0]} messages"
    except poplib.error_proto as error:
        said = error.args[0]
        return said.decode("ascii", "replace") if isinstance(said, bytes) else f"no answer: {said}"
    finally:
        pop.close()


if __name__ == "__main__":
    if len(sys.argv) != 5 or not sys.argv[1].isdigit():
        sys.exit("usage: fetch.py PORT CLIENT USER PASSWORD")
    try:
        answer = fetch(int(sys.argv[1]), *sys.argv[2:])
    except OSError as error:
        sys.exit(f"fetch.py: {error}")
    print(answer)
    sys.exit(not answer.startswith("+OK"))
