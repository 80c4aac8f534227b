"""What who@, date@, finger@ and http@ have in common: send a request, and print the answer without CR."""

import os
import sys

from tcprules import strerr
from tcpserver.tools import connecting, filtering
from tcpserver.tools.lineends import CRRemover, add_cr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CANNOT_WRITE = 1  # cat's and awk's exit code


def run(host: str, port: str, request: str, printed: "Callable[[bytes], bytes]") -> int:
    """Run the program. `printed` converts a piece of the answer to what is printed; it gets b"" at the end.

    The originals are pipes of a shell, whose exit code is that of the last program: 0, even without a connection.
    """
    try:
        connecting.connect_for(host, port)
    except connecting.Failed:
        return 0
    try:
        filtering.write_all(connecting.WRITE, add_cr(os.fsencode(request)))
    except OSError:
        pass  # the server may have sent its answer all the same
    filtering.die_by_sigpipe()
    try:
        for piece in pieces(connecting.READ):
            filtering.write_all(1, printed(piece))
        filtering.write_all(1, printed(b""))
    except OSError as error:
        name = os.path.basename(sys.argv[0])
        strerr.die(CANNOT_WRITE, name, ": fatal: unable to write: ", strerr.reason(error))
    return 0


def pieces(source: int) -> "Iterator[bytes]":
    """The pieces of the answer, without CR and none of them empty. An error is the end."""
    remover = CRRemover()
    data = b"-"
    while data:
        try:
            data = os.read(source, filtering.READ_SIZE)
        except OSError:
            data = b""
        if piece := remover.feed(data):
            yield piece
