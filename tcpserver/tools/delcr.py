"""delcr: copy descriptor 0 to descriptor 1, without the CR before each LF."""

from tcpserver.tools import filtering
from tcpserver.tools.lineends import CRRemover


def main() -> int:
    """Run the program. Arguments are ignored, as in delcr.c."""
    return filtering.run(CRRemover().feed)
