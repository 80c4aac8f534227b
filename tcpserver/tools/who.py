"""who@: print the users of another host (TCP port 11)."""

from tcpserver.tools import connecting, fetching
from tcpserver.tools.visible import visible


def main() -> int:
    """Ask the host of the command line, by default this host."""
    return fetching.run(connecting.word(1, "0"), "11", "", visible)
