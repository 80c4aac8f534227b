"""mconnect-io: copy descriptor 0 to the connection, with a CR before each LF, and the connection to descriptor 1."""

from tcpserver.tools import plumbing
from tcpserver.tools.connecting import READ, WRITE
from tcpserver.tools.lineends import add_cr


def main() -> int:
    """Run the program. It ends when the server ends the connection, not with the input."""
    try:
        plumbing.copy(plumbing.Flow(0, WRITE, add_cr), plumbing.Flow(READ, 1, bytes))
    except OSError:
        pass  # without a message, as mconnect-io.c
    return 0
