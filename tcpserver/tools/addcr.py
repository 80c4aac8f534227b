"""addcr: copy descriptor 0 to descriptor 1, with a CR before each LF."""

from tcpserver.tools import filtering
from tcpserver.tools.lineends import add_cr


def main() -> int:
    """Run the program. Arguments are ignored, as in addcr.c."""
    return filtering.run(add_cr)
