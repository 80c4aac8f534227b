"""Log in to a POP3 server on 127.0.0.1 from a chosen loopback address: fetch.py PORT CLIENT USER PASSWORD.

Print the number of messages, and leave the messages on the server. Exit code 0 if the login succeeded, else 1.
"""

import poplib
import socket
import sys

SERVER = "127.0.0.1"
TIMEOUT = 20  # seconds for each answer


class Client(poplib.POP3):
    """A POP3 client that connects from a chosen source address."""

    def __init__(self, port: int, source: str) -> None:
        self.source = source
        super().__init__(SERVER, port, TIMEOUT)

    def _create_socket(self, timeout: float) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout, (self.source, 0))


def fetch(port: int, client: str, user: str, password: str) -> str:
    """Log in. Return `+OK N messages`, the server's -ERR answer, or `no answer: REASON`."""
    pop = Client(port, client)
    try:
        pop.user(user)
        pop.pass_(password)
        return f"+OK {pop.stat()[0]} messages"
    except poplib.error_proto as error:
        answer = error.args[0]
        return answer.decode("ascii", "replace") if isinstance(answer, bytes) else f"no answer: {answer}"
    finally:
        pop.close()


if __name__ == "__main__":
    if len(sys.argv) != 5 or not sys.argv[1].isdigit():
        sys.exit("usage: fetch.py PORT CLIENT USER PASSWORD")
    try:
        result = fetch(int(sys.argv[1]), *sys.argv[2:])
    except OSError as error:
        sys.exit(f"fetch.py: {error}")
    print(result)
    sys.exit(not result.startswith("+OK"))
