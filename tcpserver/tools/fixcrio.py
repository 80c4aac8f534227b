"""fixcrio: run a program, with a CR inserted before each LF of its input and output that has none."""

from tcpserver.tools import plumbing
from tcpserver.tools.lineends import CRInserter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> "NoReturn":
    """Run the program."""
    plumbing.run("fixcrio", CRInserter().feed, CRInserter().feed)
