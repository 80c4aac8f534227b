"""finger@: print what another host tells about a user (RFC 1288)."""

from tcpserver.tools import connecting, fetching
from tcpserver.tools.visible import visible


def main() -> int:
    """Ask the host of the command line about its user, by default this host about everybody."""
    return fetching.run(connecting.word(1, "0"), "79", connecting.word(2, "") + "\n", visible)
